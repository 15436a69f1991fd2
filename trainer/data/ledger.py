"""The ledger: which pictures are used, what is in them, and which split each belongs to, written
down.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import DataError
from whisker_ml import files

# The formats of picture files that are used: how their names end, and how their bytes begin.

# First bytes, and where they stand; of WebP, the name of its container (RIFF) comes first.
_SIGNATURES = {
    "JPEG": (0, b"\xff\xd8\xff"),
    "PNG": (0, b"\x89PNG"),
    "GIF": (0, b"GIF8"),
    "BMP": (0, b"BM"),
    "WEBP": (8, b"WEBP"),
}
_BY_SUFFIX = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".webp": "WEBP",
}

FORMATS = tuple(_SIGNATURES)
PICTURE_SUFFIXES = tuple(_BY_SUFFIX)


def format_by_name(path: str) -> str:
    """Tells what a picture's name says: one of `FORMATS`; the name ends in one of
    `PICTURE_SUFFIXES`.
    """
    return _BY_SUFFIX[path[path.rindex(".") :].lower()]


def format_by_content(encoded: bytes) -> str | None:
    """Tells what a file's first bytes say: one of `FORMATS`, or None."""
    return next(
        (
            kind
            for kind, (start, signature) in _SIGNATURES.items()
            if encoded.startswith(signature, start)
        ),
        None,
    )


def why_undecodable(encoded: bytes) -> str:
    """Says, for a person, why bytes that do not decode are no picture."""
    if not encoded:
        return "empty file"
    if format_by_content(encoded) is None:
        return "no JPEG, PNG, GIF, BMP or WebP picture"
    return "truncated or damaged picture, or one of a format that TensorFlow does not decode"


SPLITS = ("train", "validation", "test")
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
        """Share of the test set that the most frequent class of the training set gets right."""
        counts = self.counts()
        majority = max(self.classes, key=lambda label: counts["train"][label])
        return counts["test"][majority] / sum(counts["test"].values())

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


def find(folder: Path) -> list[Found]:
    """Lists the picture files of a data folder, sorted by path, without opening them.

    The folder holds ``<class>/…``, or ``train/<class>/…`` with ``validation/<class>/…`` and
    ``test/<class>/…`` where they are given. Files with other endings, and names that begin with a
    dot, are passed over.

    Raises:
        DataError: there is no such folder, no picture in it, or fewer than two classes.
    """
    if not folder.is_dir():
        raise DataError(
            f"--data={folder}: there is no such folder; expected one folder of pictures per class"
        )
    given = [split for split in SPLITS if (folder / split).is_dir()]
    if given and "train" not in given:
        raise DataError(
            f"--data={folder}: holds {' and '.join(given)} but no train folder; expected"
            " train/<class>/"
        )
    try:
        if given:
            found = [
                picture
                for split in given
                for picture in _class_folders(folder, folder / split, split)
            ]
        else:
            found = list(_class_folders(folder, folder, None))
    except OSError as error:
        raise DataError(
            f"--data={folder}: {error.filename} cannot be listed ({error.strerror}); fix it, or"
            " give this user permission"
        ) from error
    if not found:
        raise DataError(
            f"--data={folder}: no pictures found; expected <class>/*.jpg or train/<class>/*.jpg "
            f"({', '.join(PICTURE_SUFFIXES)})"
        )
    labels = sorted({picture.label for picture in found})
    if len(labels) < 2:
        raise DataError(
            f"--data={folder}: one class only ({labels[0]}); expected a folder of pictures for each"
            " of two or more classes"
        )
    return sorted(found, key=lambda picture: picture.path)


def _class_folders(root: Path, folder: Path, split: str | None) -> Iterator[Found]:
    for class_folder in sorted(folder.iterdir()):
        _require_utf8(class_folder.name, folder)
        if class_folder.is_dir() and not class_folder.name.startswith("."):
            for path in _files(class_folder, frozenset()):
                if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith("."):
                    yield Found(path.relative_to(root).as_posix(), class_folder.name, split)


def _files(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Files at any depth, behind links too; what a broken link names is found unreadable when it is
    read.
    """
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(f"{folder}: a link that leads back to a folder that it lies in; remove it")
    with os.scandir(folder) as entries:
        for entry in entries:
            _require_utf8(entry.name, folder)
            if entry.is_dir():
                yield from _files(Path(entry.path), above | {real})
            else:
                yield Path(entry.path)


def _require_utf8(name: str, folder: Path) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{folder}: the name {os.fsencode(name)!r} is not UTF-8; rename it"
        ) from error
