"""Which split each picture belongs to, before anything is trained.

A split that the folder gives is kept. One that it does not give is taken by content hash: the first
8 bytes of the SHA-256 modulo 5 (for ratios, 100) say where a picture goes, on any machine and in
any order, and adding pictures moves none. Pictures that look the same stay together.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from trainer.config import split_percentages
from trainer.data.ledger import (
    EXCLUDED,
    SPLITS,
    Found,
    Ledger,
    LeftOut,
    Picture,
    Pictures,
    hashed,
    some,
)
from trainer.errors import DataError

logger = logging.getLogger(__name__)

PROTOCOLS = ("given", "hold_out")


def describe(ledger: Ledger, found: Sequence[Found]) -> str:
    """Says in one line how the pictures were split."""
    _, how = _choices({file.given_split for file in found}, ledger.protocol)
    return f"split {how} (--split={ledger.protocol}); new pictures do not move old ones"


# Which bucket goes where, where nothing is given, and where validation pictures are taken from the
# training pictures.
_FIFTHS = ("test", "validation", "train", "train", "train")
_SELECTS = ("train", "validation", "train", "train", "train")


def freeze(pictures: Pictures, *, protocol: str, alike: Iterable[Sequence[str]] = ()) -> Ledger:
    """Assigns every readable picture to a split, or those that were added since a split was frozen:
    each that was there keeps its split, under another name too, and what was excluded stays so.

    Args:
        pictures: whose content hashes are known; one without is not used.
        protocol: ``given``: a fifth of a given validation folder becomes the test set where none is
            given; ``hold_out``: all of it does, and a fifth of train selects; percentages of train,
            validation and test, such as ``70,15,15``: for a folder that gives no splits. Of a
            frozen split, its own holds.
        alike: groups of paths of pictures that look the same; no picture is in two of them.

    Returns:
        The ledger. Of pictures that look the same in several given splits only those in train (else
        in validation) are used; of files with the same content in several classes none. A class
        that is too small for the hashes to give it a picture in each split gives those with the
        lowest hashes.

    Raises:
        DataError: a class has no picture in one of the splits, or the protocol does not fit the
            folder.
    """
    found = pictures.found
    left_out = {file.path: file for file in pictures.left_out}
    before: dict[str, str] = {}
    if pictures.frozen:
        protocol = pictures.frozen.protocol
        excluded = {
            file.path: file for file in pictures.frozen.left_out if file.reason.startswith(EXCLUDED)
        }
        left_out |= excluded
        found = tuple(file for file in found if file.path not in excluded)
        frozen = pictures.frozen.pictures
        known = {name: each.split for each in frozen for name in (each.sha256, each.path)}
        for file in found:
            if split := known.get(file.path) or known.get(file.sha256):
                before[file.path] = split
    readable = [file for file in found if file.sha256]
    groups, torn = _groups(readable, alike)
    choices, _ = _choices(
        {file.given_split for group in groups.values() for file in group}, protocol
    )
    splits: dict[str, str] = {}
    for lowest, group in groups.items():
        chosen = {
            given: buckets[int(lowest[:16], 16) % len(buckets)]
            for given, buckets in choices.items()
        }
        own = {file: before.get(file.path, chosen[file.given_split]) for file in group}
        # What had its split already is not moved by what looks like it.
        first = min(
            group, key=lambda file: (file.path not in before, SPLITS.index(own[file]), file.path)
        )
        split = own[first]
        for file in group:
            if file.path in before or split in choices[file.given_split]:
                splits[file.path] = own[file] if file.path in before else split
            else:
                equal = file.sha256 == first.sha256
                same = "the same file as" if equal else "looks the same as"
                torn.append(LeftOut(file.path, f"{same} {first.path}, which is in {split}"))
    _fill_small_classes(groups, splits, choices, before)
    ledger = Ledger(
        classes=tuple(sorted({file.label for file in found})),
        pictures=tuple(
            Picture(file.path, file.label, splits[file.path], file.sha256)
            for file in readable
            if file.path in splits
        ),
        left_out=tuple(sorted([*left_out.values(), *torn], key=lambda file: file.path)),
        protocol=protocol,
    )
    require_every_split(ledger)
    return ledger


def require_every_split(ledger: Ledger) -> None:
    """Refuses a ledger with a class that has no picture in one of the splits.

    Raises:
        DataError: there is such a class.
    """
    for split, by_class in ledger.counts().items():
        for label, count in by_class.items():
            if not count:
                total = sum(picture.label == label for picture in ledger.pictures)
                excluded = any(file.reason.startswith(EXCLUDED) for file in ledger.left_out)
                raise DataError(
                    f"class {label}: none of its {total} usable pictures is in the {split} split;"
                    f" add pictures (20 or more per class), or a {split}/{label} folder of your own"
                    + (", or exclude fewer" if excluded else "")
                )


def _choices(
    given: set[str | None], protocol: str
) -> tuple[dict[str | None, tuple[str, ...]], str]:
    """Where a bucket goes, by the split that the folder gives; and how that is said."""
    if protocol not in PROTOCOLS:
        train, validation, test = split_percentages(protocol)
        if given != {None}:
            raise DataError(
                f"--split={protocol}: the folder has split folders of its own; use"
                f" {' or '.join(PROTOCOLS)}"
            )
        # As with fifths: the low buckets test and select.
        buckets = ("test",) * test + ("validation",) * validation + ("train",) * train
        return {None: buckets}, "by content hash, in these percentages"
    if given in ({None}, {"train"}):
        how = "by content hash: 60 % train, 20 % validation, 20 % test"
        return dict.fromkeys(given, _FIFTHS), how
    choices: dict[str | None, tuple[str, ...]] = {split: (split,) for split in SPLITS}
    parts = ["as the folders say"]
    hold_out = protocol == "hold_out"
    if "test" not in given:
        choices["validation"] = ("test", *("test" if hold_out else "validation",) * 4)
        parts.append(f"{'all' if hold_out else 'a fifth'} of validation for testing")
    if hold_out or "validation" not in given:
        choices["train"] = _SELECTS
        parts.append("a fifth of train for validation")
    return choices, ", ".join(parts)


def _groups(
    files: Sequence[Found], alike: Iterable[Sequence[str]]
) -> tuple[dict[str, list[Found]], list[LeftOut]]:
    """Pictures that look the same, by the lowest of their hashes, which decides for them all; and
    files that are in another class too.
    """
    sha256 = {file.path: file.sha256 for file in files}
    leads = {sha256[path]: sha256[group[0]] for group in alike for path in group}
    classes: dict[str, dict[str, str]] = {}
    for file in files:
        classes.setdefault(file.sha256, {}).setdefault(file.label, file.path)
    together: dict[str, list[Found]] = {}
    torn = []
    for file in files:
        others = [path for label, path in classes[file.sha256].items() if label != file.label]
        if others:
            torn.append(LeftOut(file.path, f"the same file as {others[0]}, of another class"))
        else:
            together.setdefault(leads.get(file.sha256, file.sha256), []).append(file)
    return {min(file.sha256 for file in group): group for group in together.values()}, torn


def _fill_small_classes(
    groups: Mapping[str, Sequence[Found]],
    splits: dict[str, str],
    choices: Mapping[str | None, Sequence[str]],
    before: Mapping[str, str],
) -> None:
    """Gives a class that has no picture in a split the group with its lowest hash that may go
    there.
    """
    counts: Counter[tuple[str, str]] = Counter()
    movable: dict[str, list[list[Found]]] = {}
    for _, group in sorted(groups.items()):
        used = [file for file in group if file.path in splits]
        counts.update((file.label, splits[file.path]) for file in used)
        if len({file.label for file in used}) == 1 and not any(
            file.path in before for file in used
        ):
            movable.setdefault(used[0].label, []).append(used)
    for label, split in product(movable, SPLITS):
        donor = max(SPLITS, key=lambda each: counts[label, each])
        candidates = (
            group
            for group in movable[label]
            if splits[group[0].path] == donor
            and len(group) < counts[label, donor]
            and all(split in choices[file.given_split] for file in group)
        )
        if not counts[label, split] and (moved := next(candidates, None)):
            splits |= dict.fromkeys((file.path for file in moved), split)
            counts[label, donor] -= len(moved)
            counts[label, split] += len(moved)


# A split that was frozen: `ledger.json` beside the pictures, what has changed since, and the looks
# at its test set.

LEDGER_NAME = "ledger.json"
# What takes the place of pictures in a folder of record shards.
INDEX = "shards.json"
_LOOKS = "looks.jsonl"


@dataclass(frozen=True)
class Changes:
    """Paths of pictures that are not as they were when the split was frozen."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    altered: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(
            f"{len(paths)} {how} ({some(paths)})" for how, paths in vars(self).items() if paths
        )


def ledger_file(data: Path) -> Path:
    """Where the frozen split of a data folder is, or of a CSV file."""
    return data.with_suffix(f".{LEDGER_NAME}") if data.is_file() else data / LEDGER_NAME


def read_frozen(folder: Path) -> Ledger | None:
    """Reads the frozen split of a data folder; None where nobody has frozen one.

    Raises:
        DataError: it cannot be read, or was changed by hand.
    """
    file = ledger_file(folder)
    return Ledger.read(file) if file.exists() else None


def changes_since(ledger: Ledger, found: Sequence[Found]) -> Changes:
    """Compares the pictures that are there with the frozen ones.

    Args:
        ledger: what was frozen.
        found: the files that are there; one without a hash is not compared.
    """
    there = {file.path: file.sha256 for file in found}
    frozen = {picture.path: picture.sha256 for picture in ledger.pictures}
    known = frozen.keys() | {file.path for file in ledger.left_out}
    altered = (path for path in frozen if there.get(path) not in (None, "", frozen[path]))
    return Changes(
        added=tuple(sorted(there.keys() - known)),
        removed=tuple(sorted(frozen.keys() - there.keys())),
        altered=tuple(sorted(altered)),
    )


def assign(pictures: Pictures, protocol: str) -> Ledger:
    """Says which pictures train and which test: as was frozen, or anew where nothing was.

    Args:
        pictures: what is there, with the hashes of those that decode.
        protocol: as `freeze` takes it.

    Returns:
        The ledger; a frozen one without pictures that are unchanged and yet do not decode.

    Raises:
        DataError: frozen pictures were altered or removed, another protocol is asked for than was
            frozen, or a class has no picture in one of the splits.
    """
    before = pictures.frozen
    if before is None:
        return freeze(pictures, protocol=protocol)
    file = ledger_file(pictures.data)
    if protocol not in ("given", before.protocol):
        raise DataError(
            f"--split={protocol}: {file} was frozen with {before.protocol}; leave out --split, or"
            " remove the file and freeze the split again"
        )
    frozen = {picture.path for picture in before.pictures}
    undecodable = {each.path: each for each in pictures.left_out if each.path in frozen}
    hashes = {path: _hash(pictures, path) for path in undecodable}
    changed = changes_since(before, hashed(pictures.found, hashes))
    if changed.removed or changed.altered:
        remedy = (
            "convert again" if pictures.shards else f"or run whisker-data extend {pictures.data}"
        )
        raise DataError(
            f"{file}: since the split was frozen, pictures have changed:"
            f" {replace(changed, added=())}; put them back, {remedy}"
        )
    logger.info(f"split frozen in {file} ({before.protocol})")
    if changed.added:
        logger.info(
            f"{changed} since then: not used; whisker-data extend {pictures.data}"
            " assigns what was added"
        )
    return replace(
        before,
        pictures=tuple(picture for picture in before.pictures if picture.path not in undecodable),
        left_out=(*before.left_out, *undecodable.values()),
    )


def _hash(pictures: Pictures, path: str) -> str:
    try:
        return hashlib.sha256(pictures.read(path)).hexdigest()
    except OSError:
        return "unreadable"  # and so another one than was frozen


def count_test_set_evaluation(data: Path, ledger: Ledger, run: str, run_id: str = "") -> int | None:
    """Writes down that a run has looked at the frozen test set; a run that resumes looks once.

    Args:
        data: the data folder, or the CSV file.
        ledger: what was trained and tested on.
        run: address of its folder.
        run_id: names it, wherever its folder is; empty: it does not resume.

    Returns:
        How many looks there have been, this one among them; None where the folder cannot be
        written.
    """
    file = ledger_file(data).with_name(ledger_file(data).name.replace(LEDGER_NAME, _LOOKS))
    try:
        with file.open("a+", encoding="utf-8") as stream:
            stream.seek(0)
            looks = stream.readlines()
            if not run_id or not any(run_id in look for look in looks):
                row = {"run": run, "id": run_id, "ledger": ledger.digest}
                looks.append(json.dumps(row, ensure_ascii=False) + "\n")
                stream.write(looks[-1])
            return len(looks)
    except OSError:
        return None
