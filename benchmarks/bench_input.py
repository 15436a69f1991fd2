"""Reading pictures with stock Keras and with Whisker in turn: pictures per second of each pass, and
memory.

  python -m benchmarks.bench_input --data=cats_and_dogs_filtered/train

Each measurement is a process of its own that goes over all pictures a few times and trains nothing.
Whisker's first pass is all it does before the second: hashing, decoding and keeping every picture,
and then giving it.
"""

import importlib
import json
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.measurement import define_output, in_turn, record, run_python, spread
from whisker_ml import cli
from whisker_ml.errors import WhiskerError

# Keras' own reading, and Whisker's with each --cache.
SIDES = ("stock", "memory", "disk", "none")
_SIZE, _BATCH = 160, 32


def main() -> None:
    """Entry point."""
    cli.define("data", None, "folder of class folders", required=True)
    cli.define("repeats", 3, "measurements of each side", minimum=1)
    cli.define("passes", 4, "over all pictures", minimum=2)
    define_output("input")
    cli.define("only", None, "measure this one, in this process, and print it", choices=SIDES)
    cli.run(_run)


def _run(_: Sequence[str]) -> None:
    options = flags.FLAGS
    data = Path(options.data).expanduser().resolve()
    if options.only:
        cli.import_tensorflow()
        print(json.dumps(_measure(options.only, data, options.passes)))
        return
    if not data.is_dir():
        raise WhiskerError(
            f"--data={options.data}: there is no such folder; expected a folder of class folders"
        )
    # The first process would pay for reading the pictures from the disk.
    for path in data.rglob("*.*"):
        path.read_bytes()
    command = ("-m", "benchmarks.bench_input", f"--data={data}", f"--passes={options.passes}")
    rows = []
    for _repeat, side in in_turn(SIDES, options.repeats):
        printed = run_python(*command, f"--only={side}")
        rows.append({"side": side, **json.loads(printed.splitlines()[-1])})
        print(rows[-1], flush=True)
    record(
        f"all pictures of a folder as batches of {_BATCH} of {_SIZE} pixels, by"
        " keras.utils.image_dataset_from_directory (stock) and by Whisker with --cache=memory,"
        " disk and none: pictures per second of the first pass (Whisker's holds hashing and"
        " keeping them) and of the later ones, each in a process of its own; peak_mb: most memory"
        " of the process, less what it had before the first picture",
        ["repeats", "passes"],
        ["sides"],
        pictures=rows[0]["pictures"],
        sides=summarize(rows),
        runs=rows,
    )


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Puts the sides beside one another.

    Args:
        rows: `side`, `pictures`, `seconds` of each pass, and `peak_mb`, of each measurement.

    Returns:
        By side: `first` and `later` pictures per second as {`median`, `min`, `max`, `ratio` to
        stock}, and `peak_mb` (the most of all measurements).
    """
    found: dict[str, Any] = {}
    for side in dict.fromkeys(row["side"] for row in rows):
        runs = [row for row in rows if row["side"] == side]
        speeds = [[run["pictures"] / seconds for seconds in run["seconds"]] for run in runs]
        found[side] = {
            "first": spread([first for first, *_ in speeds]),
            "later": spread([speed for _, *later in speeds for speed in later]),
            "peak_mb": max(run["peak_mb"] for run in runs),
        }
    for summary in found.values():
        for name in ("first", "later"):
            summary[name]["ratio"] = summary[name]["median"] / found["stock"][name]["median"]
    return found


def _measure(side: str, data: Path, passes: int) -> dict[str, Any]:
    # Imports, and what TensorFlow sets up once, are no part of reading: both sides load everything.
    import keras
    import tensorflow as tf

    importlib.import_module("trainer.data.dataset")
    small = tf.image.resize(tf.zeros([8, 8, 3]), [_SIZE, _SIZE])
    next(iter(tf.data.Dataset.from_tensors(small).batch(1)))
    before = _peak_mb()
    seconds: list[float] = []
    counts: set[int] = set()
    start = time.perf_counter()
    for batches in _stock(keras, data, passes) if side == "stock" else _whisker(side, data, passes):
        counts.add(sum(len(batch[1]) for batch in batches))
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    (count,) = counts
    return {"pictures": count, "seconds": seconds, "peak_mb": _peak_mb() - before}


def _stock(keras: Any, data: Path, passes: int) -> Iterator[Any]:
    dataset = keras.utils.image_dataset_from_directory(
        data, label_mode="int", batch_size=_BATCH, image_size=(_SIZE, _SIZE), seed=0, verbose=False
    )
    for _ in range(passes):
        yield dataset


def _whisker(cache: str, data: Path, passes: int) -> Iterator[Any]:
    from trainer.data.batches import Examples
    from trainer.data.dataset import free_memory_bytes, make_cache, open_pictures, scan
    from trainer.data.ledger import Ledger, Picture

    pictures = open_pictures(data)
    with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
        kept = make_cache(
            cache, len(pictures.found), _SIZE, Path(folder), free_bytes=free_memory_bytes()
        )
        scanned = scan(pictures, _SIZE, on_bad_image="fail", cache=kept)
        # All of them train, as for the other side.
        rows = [
            Picture(file.path, file.label, "train", scanned.sha256[file.path])
            for file in pictures.found
        ]
        ledger = Ledger(tuple(sorted({row.label for row in rows})), tuple(rows), ())
        examples = Examples(pictures, ledger, scanned.pixels, _SIZE)
        for number in range(passes):
            yield examples.training_batches(_BATCH, seed=0, epoch=number, full=False)


def _peak_mb() -> float:
    # In kilobytes, on Linux.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
