"""Ledgers of pictures that are only names, for tests of how they are split."""

import hashlib

from trainer.data.ledger import Found


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
