"""Shows what is in a model store and what is live, and changes it.

  whisker-store list --model_dir=models
  whisker-store promote 3 --server=localhost:8500
  whisker-store prune --keep=5

  list                   which versions there are, and which of them is live
  show N                 all that is known of a version
  publish DIR            add a SavedModel as the next version
  promote N              make a version live
  rollback               make the version live that was live before
  prune                  delete old versions
  check [models.config]  find what would stop a server from serving it

With --server, promote and rollback also change a running server. A server that refuses this, as
with --bind_all, reads models.config by itself; the command waits until it has.
"""

import json
import shlex
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from serving import connection_flags
from serving.store import ModelStore, open_model
from serving.store.manifest import ManifestError
from whisker_ml import cli, contract
from whisker_ml.contract import STABLE_LABEL
from whisker_ml.errors import EXIT_DONE, EXIT_STOPPED, EXIT_USAGE, WrongUse
from whisker_ml.terminal import escaped


def main() -> None:
    """Defines the flags, runs the command, and exits."""
    cli.define("model_dir", "models", "root of the store: a folder or gs://bucket/prefix")
    cli.define("model_name", "", "name of the model; empty: the only one of the store")
    cli.define(
        "server",
        "",
        "promote, rollback: host:port of a running server's gRPC port; empty: models.config alone"
        " is changed",
    )
    cli.define("format", "table", "what to write", choices=["table", "json"])
    cli.define("label", STABLE_LABEL, "promote: label to move; the version labelled stable is live")
    cli.define("keep", 5, "prune: how many versions stay", minimum=1)
    cli.define(
        "timeout_s",
        120.0,
        "seconds that a server may take to load a version, or to read models.config by itself",
    )
    connection_flags.define()
    cli.run(_run)


# What a command did: for programs, and in words.
_Outcome = tuple[Any, list[str]]

_COMMANDS = "list|show N|publish DIR|promote N|rollback|prune|check [models.config]"


def _run(arguments: Sequence[str]) -> int:
    options = flags.FLAGS
    # By default SIGTERM ends this process on the spot: a server half way, or one started here,
    # would stay so.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_STOPPED))
    given = arguments[1:]
    # By name and number of arguments.
    commands: dict[tuple[str, int], Callable[..., _Outcome]] = {
        ("list", 0): _list,
        ("show", 1): _show,
        ("publish", 1): _publish,
        ("promote", 1): lambda store, number: _move(store, _version(number), options.label),
        ("rollback", 0): lambda store: _move(store, None, STABLE_LABEL),
        ("prune", 0): _prune,
    }
    if given[:1] == ["check"] and len(given) <= 2:
        return _check(given[1:])
    command = commands.get((given[0], len(given) - 1)) if given else None
    if command is None:
        raise WrongUse(f"{' '.join(given) or 'nothing to do'}: expected one of {_COMMANDS}")
    store = open_model(options.model_dir, options.model_name, new=given[0] == "publish")
    _write(*command(store, *given[1:]))
    return EXIT_DONE


def _list(store: ModelStore) -> _Outcome:
    listed = rows(store, store.versions())
    return listed, table(listed)


def _show(store: ModelStore, number: str) -> _Outcome:
    version = _version(number)
    store.require(version)
    (row,) = rows(store, [version])
    manifest = store.manifest(version)
    return manifest, words(row, manifest, f"{store.base_path}/{version}")


def _publish(store: ModelStore, folder: str) -> _Outcome:
    published = store.publish(Path(folder).expanduser())
    judged = store.manifest(published.number).get("gate")
    model_dir = shlex.quote(flags.FLAGS.model_dir)
    return {
        "model_name": store.model_name,
        "version": published.number,
        "path": published.path,
    }, [
        f"published version {published.number} of {store.model_name}: {published.path}",
        "it is not live"
        + ("" if judged else ", and no gate has compared it with the live version (gate: off)"),
        f"make it live with: whisker-store promote {published.number} --model_dir={model_dir}"
        f" --model_name={shlex.quote(store.model_name)}",
    ]


def _move(store: ModelStore, number: int | None, label: str) -> _Outcome:
    """Moves a label to a version, or, without a number, back to the one that was live before."""
    options = flags.FLAGS
    start = time.monotonic()
    version = number
    if options.server:
        from serving import rollout

        with rollout.RunningServer(options.server, **connection_flags.security()) as server:
            if version is None:
                version, seconds = rollout.rollback(store, server, options.timeout_s)
            else:
                seconds = rollout.promote(store, version, label, server, options.timeout_s)
    else:
        if version is None:
            version = store.rollback()
        else:
            store.promote(version, label)
        seconds = time.monotonic() - start
    state = "live" if label == STABLE_LABEL else f"loaded beside the live version, as {label}"
    lines = [
        f"version {version} of {store.model_name} is {state}, after {seconds:.2f} s:"
        f" {store.config_path}"
    ]
    if options.server:
        lines[0] += f" and {options.server}"
    else:
        lines.append(
            "a running server does not know this yet: give --server=host:port, or restart it"
        )
    return {
        "version": version,
        "label": label,
        "seconds": seconds,
        "server": options.server or None,
    }, lines


def _prune(store: ModelStore) -> _Outcome:
    deleted = store.prune(flags.FLAGS.keep)
    done = f"deleted {', '.join(map(str, deleted))}" if deleted else "nothing to delete"
    return {"deleted": deleted}, [
        f"{done}; left: {', '.join(map(str, store.versions())) or 'none'}"
    ]


def _check(given: Sequence[str]) -> int:
    from serving.store_check import check

    path = given[0] if given else f"{flags.FLAGS.model_dir.rstrip('/')}/{contract.MODELS_CONFIG}"
    findings, loaded = check(path, flags.FLAGS.timeout_s)
    well = "all well" + (
        "" if loaded else "; nothing was loaded, as no version has warm-up records"
    )
    _write({"file": path, "findings": findings, "loaded": loaded}, findings or [f"{path}: {well}"])
    return EXIT_USAGE if findings else EXIT_DONE


def _version(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise WrongUse(f"{text}: expected the number of a version, as list shows it")
    return int(text)


def _write(outcome: Any, lines: Sequence[str]) -> None:
    print(
        json.dumps(outcome, ensure_ascii=False)
        if flags.FLAGS.format == "json"
        else "\n".join(map(escaped, lines))
    )


# What a person, or a program, is told about versions: what is live, how good it is, why it was let
# through.

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
    facts = {
        "version": f"{row['version']}, {'live' if row['live'] else 'not live'}, {path}",
        "labels": ", ".join(row["labels"]) or "none",
        "gate": _at(manifest, "gate", "sentence") or row["gate"] or _UNKNOWN,
    }
    for split in ("test", "validation"):
        judged = _at(manifest, "metrics", split)
        if isinstance(judged, Mapping):
            low, high = judged.get("interval_95") or (float("nan"), float("nan"))
            facts[split] = f"{_accuracy(judged)} right (95 % interval {low:.3f} to {high:.3f})"
    if files := _at(manifest, "files"):
        facts["files"] = f"{len(files)}, {_size(row['bytes'])}"
    else:
        facts["files"] = "no digests: another tool wrote this version"
    for name, value in manifest.items():
        if name not in ("version", "gate", "metrics", "files"):
            facts[name] = _in_words(value)
    width = max(map(len, facts)) + 2
    return [
        line
        for name, text in facts.items()
        for line in textwrap.wrap(
            f"{name:{width}}{text}", _WIDTH, subsequent_indent=" " * width, break_long_words=False
        )
    ]


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(part)}" for name, part in value.items())
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


if __name__ == "__main__":
    main()
