"""Looks at a folder of pictures, and freezes which of them train and which test; the pictures stay
as they are.

  whisker-data scan my_pictures --out=scan.json
  whisker-data split my_pictures --split=hold_out
  whisker-data convert my_pictures --out=gs://my-bucket/shards --shrink=256

  scan      count the pictures; find damaged, odd and near-duplicate ones
  split     freeze which picture is in which split, in ledger.json
  extend    assign pictures that were added since; the others stay
  suspects  find pictures whose label looks wrong
  convert   write a frozen split as TFRecord shards
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from trainer.config import Config
from trainer.errors import ConfigError, DataError
from whisker_ml import cli
from whisker_ml.terminal import escaped

if TYPE_CHECKING:
    from trainer.data.checks import Facts
    from trainer.data.layout import Listing
    from trainer.data.ledger import Ledger, LeftOut


_SETTINGS = (
    "classes",
    "exclude",
    "max_pixels",
    "base_weights",
    "backbone",
    "image_size",
    "cache_dir",
)
_SUSPECTS_SHOWN, _SUSPECTS_PRINTED = 200, 10


def main() -> None:
    """Entry point of `python -m trainer.data` and `whisker-data`."""
    cli.define(
        "out",
        "",
        (
            "scan: JSON file to write; convert: folder for shards, local or gs://; suspects: HTML"
            " file to write (empty: suspects.html); the list is written beside it, as .txt"
        ),
    )
    cli.define(
        "shrink",
        0,
        "convert: make larger pictures smaller, until the shorter side has this many pixels; 0:"
        " leave all pictures as they are",
        minimum=0,
    )
    cli.define("shard_mb", 150, "convert: size of a shard", minimum=1)
    cli.define(
        "split",
        "given",
        "split: given, hold_out (as in whisker-train), or percentages of train, validation and"
        " test: 70,15,15",
    )
    cli.define_settings(Config, only=_SETTINGS)
    cli.run(_run)


def _run(arguments: Sequence[str]) -> None:
    commands: dict[str, Callable[[Path], None]] = {
        "scan": _scan,
        "split": _split,
        "extend": _extend,
        "convert": _convert,
        "suspects": _suspects,
    }
    if len(arguments) != 3 or arguments[1] not in commands:
        raise ConfigError(
            f"{' '.join(arguments[1:]) or 'nothing to do'}: expected {'|'.join(commands)} and one"
            " folder of pictures"
        )
    commands[arguments[1]](Path(arguments[2]).expanduser())


def _scan(folder: Path) -> None:
    from trainer.data import checks, pictures, splits

    start = time.perf_counter()
    listing, facts, unreadable = _look(folder)
    seconds = time.perf_counter() - start
    baseline = None
    with suppress(DataError):  # a run could not split the folder either
        sha256 = {fact.path: fact.sha256 for fact in facts}
        opened = pictures.listed(folder, listing, splits.read_frozen(folder))
        ledger = pictures.assign(opened, sha256, unreadable, protocol="given")
        baseline = ledger.baseline_accuracy()
    summed = checks.sum_up(facts, unreadable, listing, baseline)
    if flags.FLAGS.out:
        with _writing(Path(flags.FLAGS.out)) as path:
            path.write_text(
                json.dumps(summed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
    for line in checks.table(summed):
        print(escaped(line))
    found = len(listing.found)
    print(f"{found:,} files in {seconds:.1f} s ({found / seconds:.0f} pictures/s)")


def _split(folder: Path) -> None:
    from trainer.data import checks, layout, splits

    file = splits.ledger_file(folder)
    if file.exists():
        raise DataError(
            f"{file}: the split is frozen already; use extend for added pictures, or remove this"
            " file to freeze it again"
        )
    listing, facts, unreadable = _look(folder)
    found = listing.found
    sha256 = {fact.path: fact.sha256 for fact in facts}
    ledger = splits.freeze(
        found, sha256, unreadable, protocol=flags.FLAGS.split, alike=checks.near_duplicates(facts)
    )
    _freeze(ledger, file, layout.not_used(listing.unused))


def _extend(folder: Path) -> None:
    from trainer.data import checks, layout, splits

    before = splits.read_frozen(folder)
    if before is None:
        raise DataError(
            f"{folder}: has no ledger.json to extend; first freeze the split with whisker-data"
            " split"
        )
    listing, facts, unreadable = _look(folder)
    found = listing.found
    sha256 = {fact.path: fact.sha256 for fact in facts}
    ledger = splits.extend(before, found, sha256, unreadable, checks.near_duplicates(facts))
    old, new = (
        {picture.path: picture.split for picture in pictures}
        for pictures in (before.pictures, ledger.pictures)
    )
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path):
            print(f"  {path}: {old.get(path, 'not used')} → {new.get(path, 'not used')}")
    print(str(splits.changes_since(before, found, sha256)) or "nothing has changed")
    _freeze(ledger, splits.ledger_file(folder), layout.not_used(listing.unused))


def _convert(folder: Path) -> None:
    out = flags.FLAGS.out
    if not out:
        raise ConfigError("convert needs --out: a folder for the shards, local or gs://…")
    cli.import_tensorflow()
    from trainer.data.convert import ShardWriter, convert

    ledger = convert(
        folder,
        ShardWriter(out),
        shard_bytes=flags.FLAGS.shard_mb * 10**6,
        shrink=flags.FLAGS.shrink,
    )
    print(
        f"{len(ledger.pictures):,} pictures in {out}, digest {ledger.digest[:12]}: --data={out}"
        " trains on them"
    )
    if flags.FLAGS.shrink:
        print(
            f"shrunk to {flags.FLAGS.shrink} pixels: this is another data set than {folder}, with"
            " another digest"
        )


def _suspects(folder: Path) -> None:
    sheet = Path(flags.FLAGS.out or "suspects").expanduser().with_suffix(".html")
    listing = sheet.with_suffix(".txt")
    if listing.exists():
        raise DataError(
            f"{listing}: exists already, and may have been edited; remove it, or give another name"
            " with --out"
        )
    from trainer.data import sources

    given = {name: flags.FLAGS[name].value for name in (*_SETTINGS, "split")}
    config = Config(data=str(folder), variant="transfer", **given)
    sources.require(config.data, config.classes, config.exclude)
    cli.import_tensorflow()
    from trainer.evaluation import suspects
    from trainer.reporting import write_suspects

    found = suspects.find(config)
    shown = found.suspects[:_SUSPECTS_SHOWN]
    for label, count in found.too_small.items():
        print(f"class {label}: not judged; {count} training and validation pictures are too few")
    print(
        f"{len(found.suspects):,} of {found.judged:,} training and validation pictures look like"
        " another class"
    )
    if not shown:
        return
    with _writing(sheet):
        write_suspects(found, shown, str(listing), sheet)
    with _writing(listing):
        suspects.write_list(shown, listing)
    for suspect in shown[:_SUSPECTS_PRINTED]:
        print(f"  {suspect.picture.path}: {suspect.picture.label}, looks like {suspect.suggestion}")
    print(f"the worst {len(shown):,} to look through: {sheet}")
    print(
        f"the list of them: {listing}; delete the lines of pictures whose label is right, then"
        f" train with --exclude={listing}"
    )


def _look(data: Path) -> tuple["Listing", "list[Facts]", "list[LeftOut]"]:
    from trainer.data import checks, layout, sources, splits
    from trainer.data.ledger import exclude

    sources.require(str(data), flags.FLAGS.classes, flags.FLAGS.exclude)
    listing = layout.find(data, flags.FLAGS.classes)
    cli.import_tensorflow()
    known = splits.read_frozen(data)
    folder = data.parent if data.is_file() else data
    facts, unreadable = checks.look(
        listing.found, lambda path: (folder / path).read_bytes(), flags.FLAGS.max_pixels
    )
    unreadable += listing.left_out
    if known is not None:
        frozen = {picture.path: picture.split for picture in known.pictures}
        facts = [replace(fact, split=frozen.get(fact.path, "not frozen")) for fact in facts]
    kept, excluded = exclude(flags.FLAGS.exclude, facts)
    return listing, list(kept), [*unreadable, *excluded]


def _freeze(ledger: "Ledger", file: Path, unused: str) -> None:
    from trainer.data.splits import uneven

    with _writing(file):
        ledger.write(file)
    for split, counts in ledger.counts().items():
        print(
            f"{split:10} {sum(counts.values()):>9,} pictures, at least {min(counts.values()):,} of"
            " each class"
        )
    for line in uneven(ledger):
        print(line)
    print(f"{len(ledger.left_out):,} files left out, with the reason in {file}")
    if unused:
        print(unused)
    print(f"frozen in {file}, digest {ledger.digest[:12]}")


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); free space or give permission"
        ) from error


if __name__ == "__main__":
    main()
