"""How accurate the recipes are, beside stock Keras, on several data sets in one go.

  python -m benchmarks.accuracy --data=cats_and_dogs_filtered,clothing,sign_language_digits \\
    --weights=mobilenet_v2_..._160_no_top.h5

Seed by seed, so that what is there after a part of the time is a table already; the same command
goes on where it was stopped, in the middle of a run. Where a set has no test folder, its validation
folder is the test set and a fifth of train selects; where it has neither, hashes split it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from benchmarks.bench_training import Trainings, define_trainings
from benchmarks.measurement import define_output, record
from whisker_ml import cli

# Draws of the bootstrap: its intervals are good to a tenth of a point.
_DRAWS = 4000


class Row(NamedTuple):
    """One row of a table: something that is trained with several seeds.

    Attributes:
        name: of the row, unique.
        side: ``whisker`` or ``stock``.
        variant: of the model.
        flags: of `trainer.task`.
        against: the row that it is compared with, picture by picture; empty: none.
    """

    name: str
    side: str
    variant: str
    flags: tuple[str, ...] = ()
    against: str = ""


_FAST, _BEST = "--recipe=fast", "--recipe=best"
TRANSFER = (
    Row("stock", "stock", "tutorial"),
    Row("fast", "whisker", "transfer", (_FAST,), "stock"),
    Row("best", "whisker", "transfer", (_BEST,), "fast"),
    Row(
        "fine-tuned",
        "whisker",
        "transfer",
        (_FAST, "--fine_tune_epochs=8", "--augmentation=strong"),
        "fast",
    ),
)
SCRATCH = (
    *(Row(f"{name} stock", "stock", name) for name in ("plain", "augmented", "preprocessed")),
    *(Row(f"{name} notebook", "whisker", name) for name in ("plain", "augmented", "preprocessed")),
    Row("preprocessed best", "whisker", "preprocessed", (_BEST,), "preprocessed notebook"),
)
ROWS = (*TRANSFER, *SCRATCH)


def main() -> None:
    """Entry point."""
    define_trainings(None, "runs/accuracy")
    cli.define("rows", [row.name for row in TRANSFER], "names of the rows to measure")
    cli.define("seeds", 3, "of each row: 0, 1, …", minimum=1)
    define_output("accuracy")
    cli.run(_measure)


def _measure(_: Sequence[str]) -> None:
    options = flags.FLAGS
    work = Path(options.work_dir)
    sets = {
        Path(folder).name: Trainings(folder, str(work / Path(folder).name))
        for folder in options.data.split(",")
    }
    # Whisker's first: its ledger says which pictures the stock recipe trains on.
    rows = sorted(
        (row for row in ROWS if row.name in options.rows), key=lambda row: row.side == "stock"
    )
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {name: {} for name in sets}
    for seed in range(options.seeds):
        for name, trainings in sets.items():
            for row in rows:
                wanted = trainings.wanted(row.side, row.variant, seed, row.flags)
                run = trainings.measure(wanted, resume=True)
                found[name].setdefault(row.name, []).append(run)
                _record(sets, found)


def _record(
    sets: Mapping[str, Trainings],
    found: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
) -> None:
    record(
        "test accuracy; stock: Keras as a tutorial writes it, 20 epochs; against: points more"
        " than that row, and their 95 % interval over pictures and seeds (bootstrap of both)",
        ["rows", "seeds"],
        commits=sorted(
            {
                run["environment"]["commit"]
                for runs in found.values()
                for of_row in runs.values()
                for run in of_row
                if run["side"] == "whisker"
            }
        ),
        sets={
            name: {
                "pictures": sets[name].counts(),
                "rows": [
                    summarize(row, runs[row.name], runs.get(row.against))
                    for row in ROWS
                    if row.name in runs
                ],
            }
            for name, runs in found.items()
            if runs
        },
    )


def summarize(
    row: Row,
    runs: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]] | None,
) -> dict[str, Any]:
    """Sums the runs of a row up.

    Args:
        row: what was done.
        runs: measurements, as `Trainings.measure` gives them.
        others: those of the row that it is compared with.

    Returns:
        `name`, `flags`, `seeds`; of the test accuracy `mean`, `min`, `max`;
        `against`, None or the other row's `name` with `points` more and their `interval_95`.
    """
    accuracy = [run["test_accuracy"] for run in runs]
    against = None
    if others:
        points, interval = paired_difference(_right(others), _right(runs))
        against = {"name": row.against, "points": points, "interval_95": interval}
    return {
        "name": row.name,
        "flags": row.flags,
        "seeds": [run["seed"] for run in runs],
        "n": runs[0]["test_pictures"],
        "mean": mean(accuracy),
        "min": min(accuracy),
        "max": max(accuracy),
        "against": against,
    }


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, list[float]]:
    """Difference of mean accuracies in points, second minus first, with its 95 % interval.

    Args:
        first: bool [seeds, pictures]; of the same pictures as `second`.
        second: bool [seeds, pictures].

    Returns:
        The difference, and the ends of the interval: percentiles of a bootstrap that draws pictures
        and, on either side, seeds.
    """
    generator = np.random.default_rng(0)
    pictures = first.shape[1]
    drawn = []
    for _ in range(_DRAWS):
        weights = np.bincount(generator.integers(pictures, size=pictures), minlength=pictures)
        means = [
            (side[generator.integers(len(side), size=len(side))].mean(axis=0) * weights).mean()
            for side in (first, second)
        ]
        drawn.append(means[1] - means[0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return round(100 * float(second.mean() - first.mean()), 2), [
        round(100 * float(low), 2),
        round(100 * float(high), 2),
    ]


def _right(runs: Sequence[Mapping[str, Any]]) -> np.ndarray:
    pictures = sorted(runs[0]["right"])
    return np.array([[run["right"][picture] for picture in pictures] for run in runs])


if __name__ == "__main__":
    main()
