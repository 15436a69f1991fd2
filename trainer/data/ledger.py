"""The ledger: which pictures are used, what is in them, and which split each belongs to, written
down.
"""

import hashlib
import logging
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import DataError
from whisker_ml import files

if TYPE_CHECKING:
    from trainer.data.checks import Facts
    from trainer.data.shards import Shards

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
_NAMED = 3


def some(names: Sequence[str], between: str = ", ") -> str:
    """Names a few of many, for a person."""
    more = len(names) - _NAMED
    return between.join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def commonest_class(train_counts: Mapping[str, int]) -> str:
    """The class of the most training pictures, of several the first.

    Always answering it is the baseline, which every model should beat.
    """
    return max(train_counts, key=lambda label: train_counts[label])


_FORMAT = 1


@dataclass(frozen=True)
class Found:
    """A picture file as the folder shows it."""

    path: str  # relative to the data folder, with /
    label: str
    given_split: str | None  # None where the folder has class folders only
    sha256: str = ""  # of the file, in hexadecimal; empty where it was not read or does not decode


@dataclass(frozen=True)
class Picture:
    """A picture that is used."""

    path: str  # relative to the data folder, with /
    label: str
    split: str  # one of SPLITS
    sha256: str  # of the file, in hexadecimal


@dataclass(frozen=True)
class LeftOut:
    """A file that is not used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Ledger:
    """What a run trains and judges on.

    Attributes:
        classes: in the order of the model's outputs.
        pictures: that are used.
        left_out: files that are not.
        protocol: how the splits were made, as `trainer.data.splits.freeze` takes it.
    """

    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    left_out: tuple[LeftOut, ...]
    protocol: str = "given"

    @property
    def digest(self) -> str:
        """SHA-256 over classes and every picture's hash, label and split; paths do not count."""
        rows = sorted(
            f"{picture.sha256} {picture.label} {picture.split}" for picture in self.pictures
        )
        return hashlib.sha256("\n".join([*self.classes, *rows]).encode()).hexdigest()

    def counts(self) -> dict[str, dict[str, int]]:
        """Pictures by split and class: {split: {class: n}}."""
        counted = Counter((picture.split, picture.label) for picture in self.pictures)
        return {split: {label: counted[split, label] for label in self.classes} for split in SPLITS}

    def baseline_accuracy(self) -> float:
        """Share of the test pictures that always answering the commonest class gets right."""
        counts = self.counts()
        return counts["test"][commonest_class(counts["train"])] / sum(counts["test"].values())

    def to_json(self) -> dict[str, Any]:
        """The ledger as JSON values, for `ledger.json`."""
        return {
            "format": _FORMAT,
            "digest": self.digest,
            "protocol": self.protocol,
            "classes": list(self.classes),
            "pictures": [vars(picture) for picture in self.pictures],
            "left_out": [vars(file) for file in self.left_out],
        }

    def write(self, path: Path) -> None:
        """Writes `ledger.json`, all of it or nothing.

        Raises:
            OSError: it cannot be written.
        """
        files.write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """Reads what `write` has written.

        Raises:
            DataError: it cannot be read, is no ledger, or was changed by hand.
        """
        remedy = "put the file back, or freeze the split again"
        content = files.read_json(path, remedy, DataError)
        try:
            ledger = cls.from_json(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: cannot be read as a ledger ({type(error).__name__}: {error}); {remedy}"
            ) from error
        if content.get("digest") != ledger.digest:
            raise DataError(
                f"{path}: was changed after it was frozen; put it back, or remove it and freeze the"
                " split again"
            )
        return ledger

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Ledger":
        """The ledger that `to_json` has made JSON values of."""
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']}, expected {_FORMAT}")
        ledger = cls(
            classes=tuple(content["classes"]),
            pictures=tuple(Picture(**row) for row in content["pictures"]),
            left_out=tuple(LeftOut(**row) for row in content["left_out"]),
            protocol=content["protocol"],
        )
        rows = (*map(vars, ledger.pictures), *map(vars, ledger.left_out))
        texts = (ledger.protocol, *ledger.classes, *(text for row in rows for text in row.values()))
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("expected texts")
        return ledger


@dataclass(frozen=True)
class Unused:
    """What is in a data folder and is not used: how many of what, and what to do, if anything."""

    what: str
    count: int
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.count:,}" + (f" ({self.fix})" if self.fix else "")


def not_used(unused: Sequence[Unused]) -> str:
    """One line for a person about what is not used."""
    return "not used: " + "; ".join(map(str, unused))


@dataclass(frozen=True)
class Pictures:
    """The pictures of a data folder, or of a CSV file.

    Attributes:
        data: the folder, or the file.
        found: all of them, sorted by path.
        left_out: files that are named like pictures and cannot be used.
        unused: everything else.
        frozen: the split that was frozen, if any.
        shards: what holds them; None where each is a file.
    """

    data: Path
    found: tuple[Found, ...]
    left_out: tuple[LeftOut, ...] = ()
    unused: tuple[Unused, ...] = ()
    frozen: Ledger | None = None
    shards: "Shards | None" = None

    @property
    def folder(self) -> Path:
        """What paths are relative to."""
        return self.data.parent if self.data.is_file() else self.data

    def read(self, path: str) -> bytes:
        """Gives the content of one.

        Raises:
            OSError: it cannot be read.
        """
        return self.shards.read(path) if self.shards else (self.folder / path).read_bytes()


def hashed(found: Sequence[Found], sha256: Mapping[str, str]) -> tuple[Found, ...]:
    """Files with their hashes by path; those of others stay."""
    return tuple(replace(file, sha256=sha256.get(file.path, file.sha256)) for file in found)


# Pictures that a person leaves out: `--exclude`.

EXCLUDED = "excluded by "
_HASHED = re.compile(r"([0-9a-fA-F]{64})(?:[ \t]+(.*))?")


def read_exclusions(address: str) -> dict[str, str]:
    """Reads what `--exclude` names: a file with a picture a line, ``SHA-256``, ``SHA-256 path`` or
    ``path``; lines that begin with # say nothing.

    Returns:
        For each picture its hash, or else its path, and what to call it.

    Raises:
        DataError: it cannot be read.
        StorageError: the bucket cannot be read.
    """
    try:
        if files.is_address(address):
            # Here, as a folder on this machine needs no package for buckets.
            from whisker_ml import storage

            content = storage.read(address)[0]
        else:
            content = Path(address).expanduser().read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--exclude={address}: cannot be read ({getattr(error, 'strerror', '') or error});"
            " expected a text file with a SHA-256 or a path in the data folder on each line"
        ) from error
    names = {}
    for line in map(str.strip, text.split("\n")):
        if match := _HASHED.fullmatch(line):
            names[match[1].lower()] = match[2] or match[1]
        elif line and not line.startswith("#"):
            names[posixpath.normpath(line)] = line
    return names


def exclude(address: str, pictures: "Sequence[Picture | Facts]") -> dict[str, LeftOut]:
    """Finds the pictures that `--exclude` names, and logs how many those are.

    Args:
        address: of the file; empty: none.
        pictures: of a ledger, or of a look at a folder.

    Returns:
        Those that it names, by path.

    Raises:
        WhiskerError: the file cannot be read.
    """
    if not address:
        return {}
    names = read_exclusions(address)
    excluded = [each for each in pictures if each.sha256 in names or each.path in names]
    counts = Counter(each.split for each in excluded)
    by_split = ", ".join(f"{split} {counts[split]}" for split in SPLITS if counts[split])
    known = {name for each in excluded for name in (each.sha256, each.path)}
    gone = [shown for name, shown in names.items() if name not in known]
    logger.info(
        f"{len(excluded)} pictures {EXCLUDED}{address}"
        + (f" ({by_split})" if by_split else "")
        + (", so the test set is another one" if counts["test"] else "")
        + (f"; {len(gone)} that it names do not exist ({some(gone)})" if gone else "")
    )
    return {each.path: LeftOut(each.path, f"{EXCLUDED}{address}") for each in excluded}
