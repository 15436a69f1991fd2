"""The ledger: which pictures are used, what is in them, and which split each belongs to, written down.

A split that the folder gives is kept. One that it does not give is taken by content hash: the first 8 bytes of the
SHA-256 modulo 5 say where a picture goes, on any machine and in any order, and adding pictures moves none.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import DataError

SPLITS = ("train", "validation", "test")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
_BUCKETS = 5
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
    """What a run trains and judges on; classes in the order of the model's outputs."""

    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over classes and every picture's hash, label and split; paths do not count."""
        rows = sorted(f"{picture.sha256} {picture.label} {picture.split}" for picture in self.pictures)
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
            "classes": list(self.classes),
            "pictures": [vars(picture) for picture in self.pictures],
            "left_out": [vars(file) for file in self.left_out],
        }

    def write(self, path: Path) -> None:
        """Writes `ledger.json`."""
        path.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def find(folder: Path) -> list[Found]:
    """Lists the picture files of a data folder, sorted by path, without opening them.

    The folder holds ``<class>/…``, or ``train/<class>/…`` with ``validation/<class>/…`` and ``test/<class>/…`` where
    they are given. Files with other endings, and names that begin with a dot, are passed over.

    Raises:
        DataError: there is no such folder, no picture in it, or fewer than two classes.
    """
    if not folder.is_dir():
        raise DataError(f"--data={folder}: there is no such folder; expected one folder of pictures per class")
    given = [split for split in SPLITS if (folder / split).is_dir()]
    if given and "train" not in given:
        raise DataError(f"--data={folder}: holds {' and '.join(given)} but no train folder; expected train/<class>/")
    try:
        if given:
            found = [picture for split in given for picture in _class_folders(folder, folder / split, split)]
        else:
            found = list(_class_folders(folder, folder, None))
    except PermissionError as error:
        raise DataError(f"--data={folder}: {error.filename} may not be read; give this user permission") from error
    if not found:
        raise DataError(
            f"--data={folder}: no pictures found; expected <class>/*.jpg or train/<class>/*.jpg "
            f"({', '.join(PICTURE_SUFFIXES)})"
        )
    labels = sorted({picture.label for picture in found})
    if len(labels) < 2:
        raise DataError(
            f"--data={folder}: one class only ({labels[0]}); expected a folder of pictures for each of two "
            "or more classes"
        )
    return sorted(found, key=lambda picture: picture.path)


def _class_folders(root: Path, folder: Path, split: str | None) -> list[Found]:
    return [
        Found(path.relative_to(root).as_posix(), class_folder.name, split)
        for class_folder in sorted(folder.iterdir())
        if class_folder.is_dir() and not class_folder.name.startswith(".")
        for path in class_folder.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def freeze(found: Sequence[Found], sha256: Mapping[str, str], left_out: Sequence[LeftOut], *, protocol: str) -> Ledger:
    """Assigns every readable picture to a split.

    Args:
        found: the files, as `find` lists them.
        sha256: content hash in hexadecimal by path; a file without one is not used.
        left_out: files that could not be used, with the reason.
        protocol: ``given``: a fifth of a given validation folder becomes the test set where none is given;
            ``hold_out``: all of it does, and a fifth of train selects.

    Returns:
        The ledger. Of files with the same content in several splits only the one in train (else in validation) is
        used; of files with the same content in several classes none.

    Raises:
        DataError: a class has no picture in one of the splits.
    """
    readable = [file for file in found if file.path in sha256]
    given = {file.given_split for file in readable}
    pictures = [
        Picture(file.path, file.label, _split(file.given_split, sha256[file.path], given, protocol), sha256[file.path])
        for file in readable
    ]
    pictures, copies = _without_copies(pictures)
    ledger = Ledger(
        classes=tuple(sorted({file.label for file in found})),
        pictures=tuple(pictures),
        left_out=tuple(sorted([*left_out, *copies], key=lambda file: file.path)),
    )
    for split, by_class in ledger.counts().items():
        for label, count in by_class.items():
            if not count:
                total = sum(picture.label == label for picture in pictures)
                raise DataError(
                    f"class {label}: none of its {total} usable pictures is in the {split} split; add pictures "
                    f"(20 or more a class), or a {split}/{label} folder of your own"
                )
    return ledger


def _split(given_split: str | None, sha256: str, given: set[str | None], protocol: str) -> str:
    bucket = int(sha256[:16], 16) % _BUCKETS
    if given_split is None or given == {"train"}:
        # Nothing is given: a fifth tests, a fifth selects, the rest trains.
        return {0: "test", 1: "validation"}.get(bucket, "train")
    if given_split == "train":
        selects_from_train = protocol == "hold_out" or "validation" not in given
        return "validation" if selects_from_train and bucket == 1 else "train"
    if given_split == "validation" and "test" not in given:
        return "test" if protocol == "hold_out" or bucket == 0 else "validation"
    return given_split


def _without_copies(pictures: Sequence[Picture]) -> tuple[list[Picture], list[LeftOut]]:
    by_content: dict[str, list[Picture]] = {}
    for picture in pictures:
        by_content.setdefault(picture.sha256, []).append(picture)
    kept, left_out = [], []
    for picture in pictures:
        twins = by_content[picture.sha256]
        first = min(twins, key=lambda twin: SPLITS.index(twin.split))
        if any(twin.label != picture.label for twin in twins):
            other = next(twin for twin in twins if twin.label != picture.label)
            left_out.append(LeftOut(picture.path, f"the same file as {other.path}, of another class"))
        elif picture.split != first.split:
            left_out.append(LeftOut(picture.path, f"the same file as {first.path}, which is in {first.split}"))
        else:
            kept.append(picture)
    return kept, left_out
