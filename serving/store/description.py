"""What a person, or a program, is told about versions: what is live, how good it is, why it was let
through.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from serving.store import ModelStore
from serving.store.errors import ManifestError
from whisker_ml.contract import STABLE_LABEL

_UNKNOWN = "-"
_HEADINGS = ("version", "live", "labels", "published (UTC)", "test accuracy", "size", "gate")
_NUMBERS = ("version", "size")
_WIDTH = 110


def rows(store: ModelStore, versions: Sequence[int]) -> list[dict[str, Any]]:
    """Says of each version what fits into a row.

    Args:
        store: of the model.
        versions: some of the store's.

    Returns:
        Of each: `version`, `live`, `labels`, `published` (ISO 8601, UTC), `test` {`n`, `accuracy`,
            `interval_95`},
        `bytes`, `gate` (the verdict) and `error` (why its whisker.json cannot be read). What nobody
        has recorded, as of another tool's version, is None.
    """
    labels = store.labels()
    return [_row(store, version, labels) for version in versions]


def _row(store: ModelStore, version: int, labels: Mapping[str, int]) -> dict[str, Any]:
    error = None
    try:
        manifest = store.manifest(version)
    except ManifestError as unreadable:
        manifest, error = {}, str(unreadable)
    sizes = [_at(file, "size") or 0 for file in (_at(manifest, "files") or {}).values()]
    return {
        "version": version,
        "live": labels.get(STABLE_LABEL) == version,
        "labels": sorted(label for label, number in labels.items() if number == version),
        "published": _at(manifest, "published"),
        "test": _at(manifest, "metrics", "test"),
        "bytes": sum(sizes) or None,
        "gate": (_at(manifest, "gate", "verdict") or "off") if manifest else None,
        "error": error,
    }


def table(listed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Writes what `rows` gives as lines of aligned columns, below a line of headings."""
    cells = [_HEADINGS, *(_cells(row) for row in listed)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if heading in _NUMBERS else text.ljust(width)
            for text, width, heading in zip(line, widths, _HEADINGS, strict=True)
        ).rstrip()
        for line in cells
    ]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(row["version"]),
        "live" if row["live"] else "",
        ", ".join(row["labels"]),
        str(row["published"] or _UNKNOWN)[:16].replace("T", " "),
        _accuracy(row["test"]),
        _size(row["bytes"]),
        "whisker.json cannot be read" if row["error"] else row["gate"] or _UNKNOWN,
    )


def words(row: Mapping[str, Any], manifest: Mapping[str, Any], path: str) -> list[str]:
    """Says everything that is known of a version, a line or more each.

    Args:
        row: of `rows`.
        manifest: its whisker.json; empty for another tool's version.
        path: of the version.
    """
    said = {
        "version": f"{row['version']}, {'live' if row['live'] else 'not live'}, {path}",
        "labels": ", ".join(row["labels"]) or "none",
        "gate": _at(manifest, "gate", "sentence") or row["gate"] or _UNKNOWN,
    }
    for split in ("test", "validation"):
        judged = _at(manifest, "metrics", split)
        if isinstance(judged, Mapping):
            low, high = judged.get("interval_95") or (float("nan"), float("nan"))
            said[split] = f"{_accuracy(judged)} right (95 % interval {low:.3f} to {high:.3f})"
    if files := _at(manifest, "files"):
        said["files"] = f"{len(files)}, {_size(row['bytes'])}"
    else:
        said["files"] = "no digests: another tool wrote this version"
    for name, value in manifest.items():
        if name not in ("version", "gate", "metrics", "files"):
            said[name] = _in_words(value)
    width = max(map(len, said)) + 2
    return [
        line
        for name, text in said.items()
        for line in textwrap.wrap(
            f"{name:{width}}{text}", _WIDTH, subsequent_indent=" " * width, break_long_words=False
        )
    ]


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return {None: _UNKNOWN, "": '""'}.get(value, str(value))


def _accuracy(judged: Any) -> str:
    if _at(judged, "accuracy") is None:
        return _UNKNOWN
    return f"{judged['accuracy']:.3f} of {judged['n']:,}"


def _size(number: int | None) -> str:
    """Writes a number of bytes."""
    return _UNKNOWN if number is None else f"{number / 10**6:,.1f} MB"


def _at(value: Any, *names: str) -> Any:
    """Follows names into nested objects; None where one is missing, as in what another tool
    wrote.
    """
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
