"""A split that was frozen: `ledger.json` beside the pictures, what has changed since, and the looks
at its test set.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data.ledger import Found, Ledger, LeftOut
from trainer.data.split import freeze
from trainer.errors import DataError

LEDGER = "ledger.json"
_LOOKS = "looks.jsonl"
_NAMED = 3


@dataclass(frozen=True)
class Changes:
    """Paths of pictures that are not as they were when the split was frozen."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    altered: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(
            f"{len(paths)} {how} ({_some(paths)})" for how, paths in vars(self).items() if paths
        )


def ledger_file(folder: Path) -> Path:
    """Where the frozen split of a data folder is."""
    return folder / LEDGER


def read(folder: Path) -> Ledger | None:
    """Reads the frozen split of a data folder; None where nobody has frozen one.

    Raises:
        DataError: it cannot be read, was changed by hand, or tests on what it trains on.
    """
    file = ledger_file(folder)
    if not file.exists():
        return None
    ledger = Ledger.read(file)
    split_of: dict[str, str] = {}
    for picture in ledger.pictures:
        other = split_of.setdefault(picture.sha256, picture.split)
        if other != picture.split:
            raise DataError(
                f"{file}: {picture.path} is in {picture.split}, and the same picture in {other}; a"
                " test set that overlaps measures nothing: remove the file and freeze the split"
                " anew"
            )
    if json.loads(file.read_text(encoding="utf-8"))["digest"] != ledger.digest:
        raise DataError(
            f"{file}: was changed after it was frozen; put it back, or remove it and freeze the"
            " split anew"
        )
    return ledger


def changes(ledger: Ledger, found: Sequence[Found], sha256: Mapping[str, str]) -> Changes:
    """Compares the pictures that are there with the frozen ones.

    Args:
        ledger: what was frozen.
        found: the files that are there.
        sha256: hash in hexadecimal by path; a file without one is not compared.
    """
    there = {file.path for file in found}
    frozen = {picture.path: picture.sha256 for picture in ledger.pictures}
    known = frozen.keys() | {file.path for file in ledger.left_out}
    return Changes(
        added=tuple(sorted(there - known)),
        removed=tuple(sorted(frozen.keys() - there)),
        altered=tuple(
            sorted(path for path in frozen.keys() & sha256.keys() if sha256[path] != frozen[path])
        ),
    )


def extend(
    ledger: Ledger,
    found: Sequence[Found],
    sha256: Mapping[str, str],
    left_out: Sequence[LeftOut],
    alike: Iterable[Sequence[str]],
) -> Ledger:
    """Assigns pictures that were added; each that was there keeps its split, under another name
    too.

    Args:
        ledger: what was frozen.
        found: the files that are there.
        sha256: hash in hexadecimal by path, of files that decode.
        left_out: files that do not, with the reason.
        alike: groups of paths of pictures that look the same.

    Raises:
        DataError: a class has no picture in one of the splits.
    """
    by_path = {picture.path: picture.split for picture in ledger.pictures}
    by_content = {picture.sha256: picture.split for picture in ledger.pictures}
    before = {path: by_path.get(path) or by_content.get(digest) for path, digest in sha256.items()}
    assigned = {path: split for path, split in before.items() if split}
    return freeze(found, sha256, left_out, protocol=ledger.protocol, alike=alike, before=assigned)


def count_look(folder: Path, ledger: Ledger, run: str) -> int | None:
    """Writes down that a run has looked at the frozen test set.

    Args:
        folder: the data folder.
        ledger: what was trained and tested on.
        run: address of its folder.

    Returns:
        How many looks there have been, this one among them; None where the folder cannot be
        written.
    """
    file = folder / _LOOKS
    try:
        with file.open("a+", encoding="utf-8") as stream:
            stream.write(
                json.dumps({"run": run, "ledger": ledger.digest}, ensure_ascii=False) + "\n"
            )
            stream.seek(0)
            return sum(1 for _ in stream)
    except OSError:
        return None


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:_NAMED]) + (", …" if len(paths) > _NAMED else "")
