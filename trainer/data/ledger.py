"""The ledger: which pictures are used, what is in them, and which split each belongs to, written
down.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import DataError
from whisker_ml import files

SPLITS = ("train", "validation", "test")
_NAMED = 3


def some(names: Sequence[str]) -> str:
    """Names a few of many, for a person."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


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
            DataError: it cannot be read, or is no ledger.
        """
        remedy = "put the file back, or freeze the split anew"
        content = files.read_json(path, remedy, DataError)
        try:
            return cls.from_json(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: cannot be read as a ledger ({type(error).__name__}: {error}); {remedy}"
            ) from error

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Ledger":
        """The ledger that `to_json` has made JSON values of."""
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']}, expected {_FORMAT}")
        return cls(
            classes=tuple(content["classes"]),
            pictures=tuple(Picture(**row) for row in content["pictures"]),
            left_out=tuple(LeftOut(**row) for row in content["left_out"]),
            protocol=content["protocol"],
        )
