"""Which files are pictures, of which class and split: a folder in one of the usual layouts, or the
lines of a CSV file; and what is there and not used.
"""

import csv
import io
import os
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from trainer.data.ledger import SPLITS, Found, LeftOut, Pictures, Unused, not_used, some
from trainer.errors import DataError
from whisker_ml.formats import CONVERT, CONVERTIBLE, SUFFIXES, format_by_name


def _by_synonym(names: Mapping[str, str]) -> dict[str, str]:
    """Our names by those that people use, which are given with a space between them."""
    return {synonym: name for name, synonyms in names.items() for synonym in synonyms.split()}


# Names of split folders that people and their tools use, whatever their case.
_SPLIT_NAMES = _by_synonym(
    {
        "train": "train training",
        "validation": "val valid validation dev",
        "test": "test testing eval",
    }
)
# Columns of a CSV file, by the names that people give them.
_COLUMNS = _by_synonym(
    {
        "path": "path file filename file_name filepath image image_path",
        "label": "label class category class_name target",
        "split": "split set subset partition",
    }
)

# What systems and programs put beside pictures; names that begin with a dot are passed over too.
_SYSTEM_NAMES = (
    "@eadir",
    "__macosx",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "thumbs.db",
    "desktop.ini",
)
# What a frozen split leaves beside the pictures.
_FROZEN = ("ledger.json", "looks.jsonl")
# Files that make a folder a run, a comparison of runs, or a model store.
_OURS = ({"config.json", "state.json"}, {"compare.json"}, {"models.config"})

# Of all pictures: where so many lie deeper than a class folder, its folders may be the classes.
_MOSTLY = 0.9
_LONGEST_ENDING = 6

CSV_SUFFIXES = (".csv", ".tsv")

_Parts = tuple[str, ...]
# A path below the data folder, what it is, and what to do about it.
_Entry = tuple[_Parts, str, str]
# What a folder holds that matters to where pictures are; `_SPECIAL` is named like a picture.
_PICTURE, _FOLDER = "picture", "folder"
_SPECIAL = "not a regular file, or a broken link"


def find(data: Path, classes: str = "folders") -> Pictures:
    """Lists the pictures of a folder or of a CSV file, without opening them.

    A folder holds ``<class>/…``, or split folders such as ``train`` and ``val`` that hold
    ``<class>/…``. Of a class, pictures may lie at any depth.

    Args:
        data: the folder, or a file with the columns path, label and, if need be, split.
        classes: ``folders``: the class is the folder below the data or split folder; ``leaves``:
            the path from there to the folder that holds the picture, such as ``Fruit/Apple``.

    Raises:
        DataError: there is nothing that can be trained on, or it is not clear what the classes are.
    """
    if data.suffix.lower() in CSV_SUFFIXES and data.is_file():
        pictures = _from_csv(data)
    elif data.is_dir():
        pictures = _from_folder(data, classes)
    else:
        raise DataError(
            f"--data={data}: there is no such folder; expected one folder of pictures per class"
        )
    labels = sorted({picture.label for picture in pictures.found})
    if len(labels) < 2:
        problem = (
            f"one class only ({labels[0]}); expected a folder of pictures for each of two or more"
            " classes"
            if labels
            else "no pictures found; expected <class>/*.jpg or train/<class>/*.jpg"
            f" ({', '.join(SUFFIXES)})"
        )
        unused = f"; {not_used(pictures.unused)}" if pictures.unused else ""
        raise DataError(f"--data={data}: {problem}{unused}")
    return pictures


def _from_folder(folder: Path, classes: str) -> Pictures:
    try:
        tree = list(_walk(folder, (), frozenset()))
    except OSError as error:
        raise DataError(
            f"--data={folder}: {error.filename} cannot be listed ({error.strerror}); fix it, or"
            " give this user permission"
        ) from error
    pictures = [parts for parts, what, _ in tree if what == _PICTURE]
    if pictures and all(len(parts) == 1 for parts in pictures):
        raise DataError(
            f"--data={folder}: its {len(pictures):,} pictures are in no class folder; expected one"
            " folder of pictures per class: move them into such folders, or give the folder that"
            " holds them"
        )
    splits = _split_folders(folder, pictures)
    depth = 1 if splits else 0
    used = [parts for parts in pictures if not _why_unused(parts, splits)]
    if classes == "folders":
        _require_classes(folder, used, depth)
    found: list[Found] = []
    labels: dict[str, str] = {}
    for parts in used:
        holding = parts[:-1] if classes == "leaves" else parts[: depth + 1]
        # A Mac writes é as two characters, others as one: the same class.
        label = unicodedata.normalize("NFC", "/".join(holding[depth:]))
        found.append(Found("/".join(parts), label, splits.get(parts[0])))
        labels["/".join(holding)] = label
    _require_distinct(folder, labels)
    _require_in_all_splits(folder, found, splits)
    return Pictures(
        folder,
        tuple(sorted(found, key=lambda file: file.path)),
        tuple(LeftOut("/".join(parts), what) for parts, what, _ in tree if what == _SPECIAL),
        _unused(tree, {parts[: depth + 1] for parts in used}, splits),
    )


def _walk(folder: Path, parts: _Parts, above: frozenset[str]) -> Iterator[_Entry]:
    """All that is in a folder at any depth, behind links too: what it is is one of the words above,
    or as `Unused` says it.
    """
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(f"{folder}: a link to a folder that contains it; remove the link")
    with os.scandir(folder) as scanned:
        entries = {entry.name: entry for entry in scanned}
    if parts and any(ours <= entries.keys() for ours in _OURS):
        yield parts, "folders of runs or models", ""
        return
    yield parts, _FOLDER, ""
    for name, entry in sorted(entries.items()):
        _require_utf8(name, folder)
        below = (*parts, name)
        if name.startswith(".") or name.casefold() in _SYSTEM_NAMES:
            yield below, "hidden or system items", ""
        elif entry.is_dir():
            yield from _walk(Path(entry.path), below, above | {real})
        elif format_by_name(name):
            yield below, _PICTURE if entry.is_file() else _SPECIAL, ""
        elif not entry.is_file():
            yield below, "files that are not regular files", ""
        elif parts or name not in _FROZEN:
            ending = Path(name).suffix.lower()
            usual = ending[1:].isalnum() and len(ending) <= _LONGEST_ENDING
            fix = f"convert them: {CONVERT} *{ending}" if ending in CONVERTIBLE else ""
            yield below, f"{ending} files" if usual else "files of other formats", fix


def _require_utf8(name: str, folder: Path) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{folder}: the name {os.fsencode(name)!r} is not UTF-8; rename it"
        ) from error


def _split_folders(folder: Path, pictures: Sequence[_Parts]) -> dict[str, str]:
    """Split by name of the top folder, of those that are named like a split and hold class folders;
    empty where there is none.
    """
    inside = Counter(parts[0] for parts in pictures if len(parts) > 2)
    directly = Counter(parts[0] for parts in pictures if len(parts) == 2)
    names: dict[str, str] = {}
    for name in sorted(inside):
        split = _SPLIT_NAMES.get(name.casefold())
        if split and directly[name] < inside[name]:
            first = names.setdefault(split, name)
            if first != name:
                raise DataError(
                    f"--data={folder}: {first} and {name} both name the {split} split; keep one of"
                    " them, or move the pictures together"
                )
    if names and "train" not in names:
        raise DataError(
            f"--data={folder}: holds {' and '.join(names.values())} but no train folder; expected"
            f" train/<class>/; if {min(names.values())} is a class, rename it"
        )
    return {name: split for split, name in names.items()}


def _why_unused(parts: _Parts, splits: Mapping[str, str]) -> str:
    """Why a picture in this place is not used; empty where it is."""
    if splits and len(parts) > 1 and parts[0] not in splits:
        return "not the folder of a split"
    return "" if len(parts) > (2 if splits else 1) else "without a class"


def _require_classes(folder: Path, used: Sequence[_Parts], depth: int) -> None:
    """Refuses class folders that look like folders of class folders."""
    directly = {parts[depth] for parts in used if len(parts) == depth + 2}
    deeper = Counter(parts[depth] for parts in used if parts[depth] not in directly)
    below = {parts[: depth + 2] for parts in used if parts[depth] in deeper}
    mostly = len(below) > len(deeper) and deeper.total() >= _MOSTLY * len(used)
    if not deeper or (directly and not mostly):
        return
    # Where most pictures are in folders side by side.
    siblings = Counter(lowest[:-1] for lowest in {parts[:-1] for parts in used})
    parents = Counter(
        parts[:-2] for parts in used if len(parts) > depth + 2 and siblings[parts[:-2]] > 1
    )
    instead = max(parents, key=parents.__getitem__, default=())
    if instead and instead[-1].casefold() in _SPLIT_NAMES:
        instead = instead[:-1]
    one_of_them = shlex.quote(str(folder.joinpath(*instead)))
    raise DataError(
        f"--data={folder}: {some(sorted(deeper))} {'holds' if len(deeper) == 1 else 'hold'} only"
        " folders, like a group of classes; take the lowest folders as classes with"
        f" whisker-train --data={shlex.quote(str(folder))} --classes=leaves"
        + (f", or train on one of them with --data={one_of_them}" if instead else "")
    )


def _require_distinct(data: Path, labels: Mapping[str, str]) -> None:
    """Refuses labels, by what they were written as, that differ in case only."""
    known: dict[str, str] = {}
    for written, label in labels.items():
        first = known.setdefault(label.casefold(), written)
        if labels[first] != label:
            raise DataError(
                f"--data={data}: {first} and {written} differ only in upper and lower case; write"
                " the name of a class the same everywhere"
            )


def _require_in_all_splits(folder: Path, found: Sequence[Found], splits: Mapping[str, str]) -> None:
    has = {(file.given_split, file.label) for file in found}
    tops = sorted(splits, key=lambda top: SPLITS.index(splits[top]))
    for label in sorted({file.label for file in found}):
        there, missing = (
            " and ".join(f"{top}/{label}" for top in tops if ((splits[top], label) in has) is held)
            for held in (True, False)
        )
        if missing:
            raise DataError(
                f"--data={folder}: class {label} has pictures in {there} and none in {missing}; add"
                f" pictures there, or remove {there}"
            )


def _unused(
    tree: Sequence[_Entry], holding: set[_Parts], splits: Mapping[str, str]
) -> tuple[Unused, ...]:
    """What a tree has beside its pictures and the class folders that hold them."""
    counts: Counter[tuple[bool, str, str]] = Counter()
    empty = []
    for parts, what, fix in tree:
        if what == _PICTURE:
            if why := _why_unused(parts, splits):
                top = parts[0] if len(parts) > 1 else "no folder"
                counts[False, f"pictures in {top}", why] += 1
        elif what == _FOLDER:
            is_class = len(parts) == (2 if splits else 1) and not _why_unused((*parts, ""), splits)
            if is_class and parts not in holding:
                empty.append("/".join(parts))
        elif what != _SPECIAL:
            counts[True, what, fix] += 1
    if empty:
        counts[True, f"folders without a usable picture ({some(empty)})", ""] = len(empty)
    return tuple(Unused(what, count, fix) for (_, what, fix), count in sorted(counts.items()))


def read_csv(file: Path) -> Iterator[tuple[int, str, str, str]]:
    """Rows of a CSV file: number of the line, path, label, split or nothing.

    With a header, columns may stand in any order; without one they are path, label, split.

    Raises:
        DataError: it cannot be read, or a row has no path or no label.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--data={file}: cannot be read ({error}); expected CSV in UTF-8: path,label[,split]"
        ) from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    order = ["path", "label", "split"]
    for row in rows:
        values = [value.strip() for value in row]
        columns = [_COLUMNS.get(value.lower(), "") for value in values]
        if rows.line_num == 1 and "path" in columns and "label" in columns:
            order = columns
        elif any(values):
            named = {"split": "", **dict(zip(order, values, strict=False))}
            if not named.get("path") or not named.get("label"):
                raise DataError(
                    f"--data={file}: line {rows.line_num} is {delimiter.join(row)!r}; expected a"
                    " path, a label and, if needed, a split, separated by commas"
                )
            yield rows.line_num, named["path"], named["label"], named["split"]


def _from_csv(file: Path) -> Pictures:
    rows: dict[str, tuple[int, Found]] = {}
    for number, written, label, split_name in read_csv(file):
        _require_utf8(written, file)
        split = _SPLIT_NAMES.get(split_name.casefold())
        if split_name and split is None:
            raise DataError(
                f"--data={file}: line {number} has the split {split_name!r}; expected train,"
                " validation or test"
            )
        as_windows = "\\" in written and not (file.parent / written).exists()
        path = os.path.normpath(written.replace("\\", "/") if as_windows else written)
        picture = Found(path, unicodedata.normalize("NFC", label), split)
        before, known = rows.setdefault(path, (number, picture))
        if known != picture:
            raise DataError(
                f"--data={file}: lines {before} and {number} disagree about {path}; expected one"
                " line for each picture"
            )
    found, left_out = [], []
    for path, (number, picture) in sorted(rows.items()):
        target = file.parent / path
        if target.is_file():
            found.append(picture)
        else:
            why = "not a regular file" if target.exists() else "no such file"
            left_out.append(LeftOut(path, f"line {number}: {why}"))
    if not found:
        raise DataError(
            f"--data={file}: none of the {len(left_out)} files that it names exists; expected"
            f" paths relative to {file.parent}"
        )
    without = [number for number, picture in rows.values() if not picture.given_split]
    if without and len(without) < len(rows):
        raise DataError(
            f"--data={file}: line {without[0]} has no split and others have one; give a split for"
            " every picture, or for none"
        )
    _require_distinct(file, {picture.label: picture.label for picture in found})
    return Pictures(file, tuple(found), tuple(left_out))
