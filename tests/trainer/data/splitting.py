"""Ledgers of pictures that are only names, for tests of how they are split."""

import hashlib
from pathlib import Path

from trainer.data import splits
from trainer.data.ledger import Found, Pictures, hashed


def found_and_hashes(names, given_split=None):
    found = [
        Found(
            name,
            name.split("/")[-2],
            given_split or (name.split("/")[0] if name.count("/") == 2 else None),
        )
        for name in names
    ]
    return found, {file.path: hashlib.sha256(file.path.encode()).hexdigest() for file in found}


FLAT = [f"{label}/{number}.jpg" for label in ("cats", "dogs") for number in range(200)]
GIVEN = [f"{split}/{name}" for split in ("train", "validation") for name in FLAT]


def split_of(ledger):
    return {picture.path: picture.split for picture in ledger.pictures}


def freeze(found, sha256, left_out, *, before=None, **options):
    """The ledger of files with these hashes; `before` is what was frozen."""
    pictures = Pictures(Path(), hashed(found, sha256), tuple(left_out), frozen=before)
    return splits.freeze(pictures, **options)


def extend(before, found, sha256, left_out, alike):
    return freeze(found, sha256, left_out, before=before, protocol="given", alike=alike)
