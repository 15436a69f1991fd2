"""How accurate the recipes are on the real cats and dogs: beside the stock Keras recipe, and part
by part.

  python -m benchmarks.accuracy --data=cats_and_dogs_filtered \\
    --weights=mobilenet_v2_..._160_no_top.h5

Seed by seed, so that what is there after a part of the time is a table already; the same command
goes on where it was stopped, in the middle of a run. No time is measured here: other work on the
machine does no harm.
"""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

from absl import flags

from benchmarks.bench_training import Trainings, define_trainings
from benchmarks.measurement import define_output, record
from whisker_ml import cli


class Row(NamedTuple):
    """One row of a table: something that is trained with several seeds.

    Attributes:
        name: of the row, unique.
        side: ``whisker`` or ``stock``.
        variant: of the model.
        flags: of `trainer.task`.
        seeds: how many; 0, 1, ….
    """

    name: str
    side: str
    variant: str
    flags: tuple[str, ...]
    seeds: int


def _row(name: str, *more: str, seeds: int = 1) -> Row:
    variant, kind, *_ = name.split()
    return Row(name, "stock" if kind == "stock" else "whisker", variant, more, seeds)


_SCRATCH = ("plain", "augmented", "preprocessed")
_BEST, _FAST = "--recipe=best", "--recipe=fast"
RECIPES = (
    *(_row(f"{variant} stock", seeds=3) for variant in _SCRATCH),
    *(_row(f"{variant} notebook", seeds=3) for variant in _SCRATCH),
    _row("transfer stock", seeds=5),
    _row("transfer notebook", seeds=5),
    _row("transfer fast", _FAST, seeds=5),
    _row("preprocessed best", _BEST, seeds=3),
    _row("transfer best", _BEST, seeds=5),
    _row("transfer best 224", _BEST, "--image_size=224", seeds=5),
)
# What `best` is made of, one part at a time; one seed each, as the parts differ by more than seeds
# do or are not taken.
ABLATION = (
    _row(
        "preprocessed notebook for 60 epochs at a falling rate",
        "--epochs=60",
        "--learning_rate=cosine:0.001",
    ),
    _row("preprocessed best for 20 epochs", _BEST, "--epochs=20"),
    _row("transfer fast with 4 views", _FAST, "--feature_views=4"),
    _row("transfer fast then fine-tuned", _FAST, "--fine_tune_epochs=4"),
    _row("transfer best with 8 epochs of fine-tuning", _BEST, "--fine_tune_epochs=8"),
    _row("transfer fast 224", _FAST, "--image_size=224"),
)


def main() -> None:
    """Entry point."""
    define_trainings(None, "runs/accuracy")
    cli.define("rows", [], "names of the rows to measure; empty: all")
    define_output("accuracy")
    cli.run(_measure)


def _measure(_: Sequence[str]) -> None:
    trainings = Trainings()
    # Whisker's first: its ledger says which pictures the stock recipe trains on.
    rows = sorted((*RECIPES, *ABLATION), key=lambda row: row.side == "stock")
    wanted = [
        (row, trainings.wanted(row.side, row.variant, seed, row.flags))
        for seed in range(max(row.seeds for row in rows))
        for row in rows
        if seed < row.seeds
    ]
    for row, training in wanted:
        if not flags.FLAGS.rows or row.name in flags.FLAGS.rows:
            trainings.measure(training, resume=True)
            _record(trainings, wanted)


def _record(trainings: Trainings, wanted: Sequence[tuple[Row, Mapping[str, Any]]]) -> None:
    """Writes all that is known, whatever is measured now."""
    found: dict[Row, list[Mapping[str, Any]]] = {}
    for row, training in wanted:
        if run := trainings.known(training):
            found.setdefault(row, []).append(run)
    record(
        "test accuracy on cats_and_dogs_filtered, --split=hold_out: the given validation folder is"
        " the test set, a fifth of train selects; one test picture in the wrong class is 0.001",
        commits=sorted(
            {
                run["environment"]["commit"]
                for row, runs in found.items()
                for run in runs
                if row.side == "whisker"
            }
        ),
        pictures=trainings.counts(),
        recipes=[summarize(row, found[row]) for row in RECIPES if row in found],
        ablation=[summarize(row, found[row]) for row in ABLATION if row in found],
    )


def summarize(row: Row, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums the runs of a row up.

    Args:
        row: what was done.
        runs: measurements, as `Trainings.measure` gives them.

    Returns:
        The row's own fields; `seeds` that are there, `n` test pictures, `test` accuracy as {`mean`,
        `min`, `max`}; for Whisker's also `precision`, each seed's `interval_95`, and means of
        `test_loss`, `validation_accuracy` and `validation_loss`.
    """
    accuracy = [run["test_accuracy"] for run in runs]
    summary = row._asdict() | {
        "seeds": [run["seed"] for run in runs],
        "n": runs[0]["test_pictures"],
        "test": {"mean": mean(accuracy), "min": min(accuracy), "max": max(accuracy)},
    }
    if row.side == "whisker":
        tests = [run["chosen"]["test"] for run in runs]
        validations = [run["chosen"]["validation"] for run in runs]
        summary |= {
            "precision": runs[0]["precision"],
            "interval_95": [test["interval_95"] for test in tests],
            "test_loss": mean(test["loss"] for test in tests),
            "validation_accuracy": mean(validation["accuracy"] for validation in validations),
            "validation_loss": mean(validation["loss"] for validation in validations),
        }
    return summary


if __name__ == "__main__":
    main()
