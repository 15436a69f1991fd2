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

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from trainer.config import Config
from trainer.data import layout, splits
from trainer.data.ledger import Pictures, exclude, hashed, not_used
from trainer.errors import ConfigError, DataError
from whisker_ml import cli, files
from whisker_ml.errors import disk_errors
from whisker_ml.terminal import escaped

if TYPE_CHECKING:
    from trainer.data.checks import Facts


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
        "split": partial(_freeze, extends=False),
        "extend": partial(_freeze, extends=True),
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
    from trainer.data import checks

    start = time.perf_counter()
    pictures, facts = _look(folder)
    seconds = time.perf_counter() - start
    baseline = None
    with suppress(DataError):  # a run could not split the folder either
        baseline = splits.assign(pictures, "given").baseline_accuracy()
    summed = checks.sum_up(facts, pictures.left_out, pictures.unused, baseline)
    if flags.FLAGS.out:
        with _writing(Path(flags.FLAGS.out)) as path:
            files.write_json(path, summed)
    for line in checks.table(summed):
        print(escaped(line))
    found = len(pictures.found)
    print(f"{found:,} files in {seconds:.1f} s ({found / seconds:.0f} pictures/s)")


def _freeze(folder: Path, extends: bool) -> None:
    from trainer.data import checks

    file = splits.ledger_file(folder)
    if file.exists() != extends:
        raise DataError(
            f"{folder}: has no ledger.json to extend; first freeze the split with whisker-data"
            " split"
            if extends
            else f"{file}: the split is frozen already; use extend for added pictures, or remove"
            " this file to freeze it again"
        )
    pictures, facts = _look(folder)
    ledger = splits.freeze(
        pictures, protocol=flags.FLAGS.split, alike=checks.near_duplicates(facts)
    )
    if before := pictures.frozen:
        old, new = (
            {picture.path: picture.split for picture in each.pictures} for each in (before, ledger)
        )
        for path in sorted(old.keys() | new.keys()):
            if old.get(path) != new.get(path):
                print(f"  {path}: {old.get(path, 'not used')} → {new.get(path, 'not used')}")
        print(str(splits.changes_since(before, pictures.found)) or "nothing has changed")
    with _writing(file):
        ledger.write(file)
    for split, counts in ledger.counts().items():
        print(
            f"{split:10} {sum(counts.values()):>9,} pictures, at least {min(counts.values()):,} of"
            " each class"
        )
    print(f"{len(ledger.left_out):,} files left out, with the reason in {file}")
    if pictures.unused:
        print(not_used(pictures.unused))
    print(f"frozen in {file}, digest {ledger.digest[:12]}")


def _convert(folder: Path) -> None:
    out = flags.FLAGS.out
    if not out:
        raise ConfigError("convert needs --out: a folder for the shards, local or gs://…")
    cli.import_tensorflow(keras=False)
    from trainer.data.shards import convert

    ledger = convert(
        folder, out, shard_bytes=flags.FLAGS.shard_mb * 10**6, shrink=flags.FLAGS.shrink
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


def _look(data: Path) -> tuple[Pictures, "list[Facts]"]:
    """What is there, with hashes of what decodes and is not excluded; and the facts of that."""
    from trainer.data import checks, sources

    sources.require(str(data), flags.FLAGS.classes, flags.FLAGS.exclude)
    known = splits.read_frozen(data)
    pictures = layout.find(data, flags.FLAGS.classes)
    cli.import_tensorflow(keras=False)
    facts, unreadable = checks.look(pictures.found, pictures.read, flags.FLAGS.max_pixels)
    if known is not None:
        frozen = {picture.path: picture.split for picture in known.pictures}
        facts = [replace(fact, split=frozen.get(fact.path, "not frozen")) for fact in facts]
    excluded = exclude(flags.FLAGS.exclude, facts)
    facts = [fact for fact in facts if fact.path not in excluded]
    found = hashed(pictures.found, {fact.path: fact.sha256 for fact in facts})
    left_out = (*unreadable, *pictures.left_out, *excluded.values())
    return replace(pictures, found=found, left_out=left_out, frozen=known), facts


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path


if __name__ == "__main__":
    main()
