"""How accurate the recipes are on the real cats and dogs: beside the stock Keras recipe, and part
by part.

  python -m benchmarks.accuracy --data=cats_and_dogs_filtered \\
    --weights=mobilenet_v2_..._160_no_top.h5

Seed by seed, so that what is there after a part of the time is a table already; the same command
goes on where it was stopped, in the middle of a run. No time is measured here: other work on the
machine does no harm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from absl import flags

from benchmarks import machine
from benchmarks.training_peers import Peers
from whisker_ml import cli
from whisker_ml.errors import WhiskerError

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
_SCRATCH = ("plain", "augmented", "preprocessed")


@dataclass(frozen=True)
class Row:
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


_BEST = ("--recipe=best",)
_LONGER = ("--epochs=60", "--learning_rate=cosine:0.001")
RECIPES = (
    *(Row(f"{variant} stock", "stock", variant, (), 3) for variant in _SCRATCH),
    *(Row(f"{variant} notebook", "whisker", variant, (), 3) for variant in _SCRATCH),
    Row("transfer stock", "stock", "transfer", (), 5),
    Row("transfer notebook", "whisker", "transfer", (), 5),
    Row("transfer fast", "whisker", "transfer", ("--recipe=fast",), 5),
    Row("preprocessed best", "whisker", "preprocessed", _BEST, 3),
    Row("transfer best", "whisker", "transfer", _BEST, 5),
    Row("transfer best 224", "whisker", "transfer", (*_BEST, "--image_size=224"), 5),
)
# What `best` is made of, one part at a time; one seed each, as the parts differ by more than seeds
# do or are not taken.
ABLATION = (
    Row(
        "preprocessed notebook for 60 epochs at a falling rate",
        "whisker",
        "preprocessed",
        _LONGER,
        1,
    ),
    Row("preprocessed best for 20 epochs", "whisker", "preprocessed", (*_BEST, "--epochs=20"), 1),
    Row(
        "transfer fast with 4 views",
        "whisker",
        "transfer",
        ("--recipe=fast", "--feature_views=4"),
        1,
    ),
    Row(
        "transfer fast then fine-tuned",
        "whisker",
        "transfer",
        ("--recipe=fast", "--fine_tune_epochs=4"),
        1,
    ),
    Row(
        "transfer best with 8 epochs of fine-tuning",
        "whisker",
        "transfer",
        (*_BEST, "--fine_tune_epochs=8"),
        1,
    ),
    Row("transfer fast 224", "whisker", "transfer", ("--recipe=fast", "--image_size=224"), 1),
)


def main() -> None:
    """Entry point."""
    cli.define("data", None, "folder of the real pictures", required=True)
    cli.define("weights", None, "file of MobileNetV2 weights, or none", required=True)
    cli.define("rows", [], "names of the rows to measure; empty: all")
    cli.define("seeds", 5, "of each row at most", minimum=1)
    cli.define("work_dir", "runs/accuracy", "keeps what is measured already")
    cli.define("output", str(RESULTS), "JSON file to write, after each run")
    cli.run(_measure)


def _measure(_: Sequence[str]) -> None:
    options = flags.FLAGS
    data = Path(options.data).expanduser().resolve()
    if not data.is_dir():
        raise WhiskerError(f"--data={options.data}: expected a folder of pictures")
    weights = (
        options.weights
        if options.weights == "none"
        else str(Path(options.weights).expanduser().resolve())
    )
    sides = Peers(data, weights, Path(options.work_dir).expanduser().resolve())
    found: dict[str, dict[int, dict[str, Any]]] = {}
    # Whisker's first: its ledger says which pictures the stock recipe trains on.
    rows = sorted((*RECIPES, *ABLATION), key=lambda row: row.side == "stock")
    # What is there already stands in the tables, whatever is asked for now.
    for row in rows:
        known = {
            seed: sides.known(row.side, row.variant, seed, row.flags) for seed in range(row.seeds)
        }
        found[row.name] = {seed: run for seed, run in known.items() if run is not None}
    for seed in range(options.seeds):
        for row in rows:
            if seed < row.seeds and (not options.rows or row.name in options.rows):
                found[row.name][seed] = sides.measure(row.side, row.variant, seed, row.flags)
                _write(
                    Path(options.output),
                    sides,
                    {name: [runs[each] for each in sorted(runs)] for name, runs in found.items()},
                )


def _write(output: Path, sides: Peers, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    machine.write(
        output,
        "test accuracy on cats_and_dogs_filtered, --split=hold_out: the given validation folder is"
        " the test set, a fifth of train selects; one test picture in the wrong class is 0.001",
        "python -m benchmarks.accuracy",
        commits=sorted(
            {run["environment"]["commit"] for runs in found.values() for run in runs if _ours(run)}
        ),
        pictures=sides.counts(),
        recipes=[summarize(row, found[row.name]) for row in RECIPES if found[row.name]],
        ablation=[summarize(row, found[row.name]) for row in ABLATION if found[row.name]],
    )


def _ours(run: Mapping[str, Any]) -> bool:
    return run["side"] == "whisker"


def summarize(row: Row, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums the runs of a row up.

    Args:
        row: what was done.
        runs: measurements, as `Peers.measure` gives them.

    Returns:
        The row's own fields; `seeds` that are there, `n` test pictures, `test` accuracy as {`mean`,
        `min`, `max`}; for Whisker's also `precision`, each seed's `interval_95`, and means of
        `test_loss`, `validation_accuracy` and `validation_loss`.
    """
    accuracy = [run["test_accuracy"] for run in runs]
    summary = asdict(row) | {
        "seeds": [run["seed"] for run in runs],
        "n": runs[0]["test_pictures"],
        "test": {"mean": mean(accuracy), "min": min(accuracy), "max": max(accuracy)},
    }
    if _ours(runs[0]):
        validation = [run["chosen"]["validation"] for run in runs]
        summary |= {
            "precision": runs[0]["precision"],
            "interval_95": [run["chosen"]["test"]["interval_95"] for run in runs],
            "test_loss": mean(run["chosen"]["test"]["loss"] for run in runs),
            "validation_accuracy": mean(each["accuracy"] for each in validation),
            "validation_loss": mean(each["loss"] for each in validation),
        }
    return summary


if __name__ == "__main__":
    main()
