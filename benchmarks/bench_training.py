"""Training with the stock Keras recipe and with Whisker in turn, on the same pictures: speed, whole
time, accuracy.

  python -m benchmarks.bench_training --data=cats_and_dogs_filtered \\
    --weights=mobilenet_v2_..._160_no_top.h5

Each measurement is a process of its own, `benchmarks.stock_recipe` or `trainer.task`, with an empty
home folder, so that no cache of an earlier one helps. One that is in --work_dir already is not done
again.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from absl import flags

from benchmarks import machine
from benchmarks.training_peers import Peers
from whisker_ml import cli
from whisker_ml.errors import WhiskerError

RESULTS = Path(__file__).parent / "results" / "training.json"

# What a row of the results leaves out: said once for all, or a path of the machine.
_UNTOLD = ("environment", "data", "weights", "chosen")


def main() -> None:
    """Entry point."""
    cli.define("data", None, "folder of the real pictures", required=True)
    cli.define("weights", "none", "file of MobileNetV2 weights, or none")
    cli.define("variants", ["plain", "augmented", "preprocessed", "transfer"], "what to measure")
    cli.define("repeats", 3, "measurements of each side", minimum=1)
    # Speed is that of the epochs after the first, which needs no 20 of them.
    cli.define("epochs_scratch", 3, "epochs of all but transfer", minimum=2)
    cli.define("epochs_transfer", 20, "epochs of transfer", minimum=2)
    cli.define("whisker_transfer_flags", "", "more flags of trainer.task for transfer")
    cli.define("work_dir", "runs/bench_training", "keeps what is measured already")
    cli.define("output", str(RESULTS), "JSON file to write")
    cli.run(_measure)


def _measure(_: Sequence[str]) -> None:
    options = flags.FLAGS
    data = Path(options.data).expanduser().resolve()
    if not data.is_dir():
        raise WhiskerError(
            f"--data={options.data}: expected a folder: a name would be downloaded anew by each"
            " process"
        )
    weights = (
        options.weights
        if options.weights == "none"
        else str(Path(options.weights).expanduser().resolve())
    )
    sides = Peers(data, weights, Path(options.work_dir).expanduser().resolve())
    rows = []
    for variant in options.variants:
        transfer = variant == "transfer"
        epochs = options.epochs_transfer if transfer else options.epochs_scratch
        # Whisker begins, as its ledger says which pictures the other trains on.
        contenders = {
            "whisker": shlex.split(options.whisker_transfer_flags) if transfer else [],
            "stock": [],
        }
        if not transfer:
            contenders["whisker_float32"] = ["--mixed_precision=none"]
        for repeat in range(options.repeats):
            # In turn, and each first as often as last: a machine that slows down hits all.
            for name in contenders if repeat % 2 == 0 else reversed(contenders):
                side = name.partition("_")[0]
                row = sides.measure(
                    side, variant, repeat, contenders[name], epochs=epochs, timed=True
                )
                rows.append({"contender": name, **row})
    measured = machine.write(
        Path(options.output),
        "the stock Keras recipe, Whisker, and Whisker in float32, in turn, --split=hold_out,"
        " batches of 32 pictures of 160 pixels; images_per_second: training passes after the first"
        " epoch; seconds: process start to SavedModel on disk (Whisker's holds its look at the test"
        " set, the stock recipe's does not); ratio: how many times faster than the stock recipe, by"
        " the medians",
        " ".join(
            [
                "python -m benchmarks.bench_training",
                *(shlex.quote(flag) for flag in _shown(options)),
            ]
        ),
        environments=_distinct(row["environment"] for row in rows if row["side"] == "whisker"),
        pictures=sides.counts(),
        variants={
            variant: summarize([row for row in rows if row["variant"] == variant])
            for variant in options.variants
        },
        runs=[{name: value for name, value in row.items() if name not in _UNTOLD} for row in rows],
    )
    print(
        json.dumps({name: measured[name] for name in ("machine", "pictures", "variants")}, indent=1)
    )


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Puts the contenders of one variant beside one another.

    Args:
        rows: measurements, as `Peers.measure` gives them, with the `contender`'s name.

    Returns:
        `epochs`; for `images_per_second`, `seconds`, `validation_accuracy` (of the last epoch) and
        `test_accuracy` a {`median`, `min`, `max`, `n`} of each contender; and for the first two the
        `ratio` of each to the stock recipe.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["contender"], []).append(row)
    summary: dict[str, Any] = {
        "epochs": rows[0]["epochs"],
        "whisker_flags": found["whisker"][0]["flags"],
    }
    for name in ("images_per_second", "seconds", "validation_accuracy", "test_accuracy"):
        summary[name] = {
            each: _spread([_last(row[name]) for row in of_it]) for each, of_it in found.items()
        }
    for name, power in (("images_per_second", 1), ("seconds", -1)):
        medians = {each: spread["median"] for each, spread in summary[name].items()}
        stock = medians.pop("stock")
        summary[name]["ratio"] = {each: (value / stock) ** power for each, value in medians.items()}
    return summary


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}


def _last(value: Any) -> float:
    return value[-1] if isinstance(value, list) else value


def _distinct(values: Any) -> list[Any]:
    # More than one where a measurement was gone on with after a change; all of them are told.
    return [
        json.loads(text)
        for text in dict.fromkeys(json.dumps(value, sort_keys=True) for value in values)
    ]


def _shown(options: Any) -> list[str]:
    """The flags that decide what is measured, without the paths of this machine."""
    names = ("variants", "repeats", "epochs_scratch", "epochs_transfer", "whisker_transfer_flags")
    values = {name: options[name].value for name in names}
    return [
        f"--{name}={','.join(value) if isinstance(value, list) else value}"
        for name, value in values.items()
    ]


if __name__ == "__main__":
    main()
