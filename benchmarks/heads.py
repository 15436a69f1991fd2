"""Which head on a frozen backbone is best, on several data sets, by validation alone.

  python -m benchmarks.heads --data=cats_and_dogs_filtered,clothing,sign_language_digits \\
    --weights=mobilenet_v2_..._160_no_top.h5

The pictures of train and validation are cut into five folds by their hashes; each head is trained
on four and judged on the fifth, with several seeds. No test picture is looked at. The same command
goes on where it was stopped.
"""

import json
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from absl import flags

from benchmarks.measurement import define_sets, record
from trainer.config import Config
from trainer.variants import HEADS, Head
from whisker_ml import cli

FOLDS = 5
_NOTEBOOK, _WIDE, _MULTISCALE = HEADS["notebook"], HEADS["wide"], HEADS["multiscale"]


class Row(NamedTuple):
    """A head and how it is trained."""

    name: str
    head: Head
    epochs: int = 20
    learning_rate: str = "cosine:0.001"


ROWS = (
    Row("notebook", _NOTEBOOK),
    Row("one dense layer, constant rate", Head("average", 0, 0.2), learning_rate="0.001"),
    Row("wide", _WIDE, 40),
    Row("multiscale", _MULTISCALE, 40),
)


def main() -> None:
    """Entry point."""
    define_sets("heads", "keeps features, and what is measured already")
    cli.define("seeds", 5, "of weights, order and dropout", minimum=1)
    cli.run(_measure)


def _measure(_: Sequence[str]) -> None:
    options = flags.FLAGS
    work = Path(options.work_dir).expanduser()
    work.mkdir(parents=True, exist_ok=True)
    lines = work / "measured.jsonl"
    lines.touch()
    known = [json.loads(line) for line in lines.read_text().splitlines()]
    for folder in options.data:
        data = Path(folder).resolve()
        features = None
        for row in ROWS:
            wanted = {"data": data.name, "row": row.name, "seeds": options.seeds}
            if any(wanted.items() <= line.items() for line in known):
                continue
            features = features or _Features(data, work)
            found = wanted | {"runs": features.judged(row, options.seeds)}
            print(data.name, row.name, summarize(found["runs"]), flush=True)
            with lines.open("a") as file:
                file.write(json.dumps(found) + "\n")
            known.append(found)
        names = {row.name for row in ROWS}
        _record([line for line in known if line["row"] in names and line["seeds"] == options.seeds])


def _record(known: Sequence[Mapping[str, Any]]) -> None:
    sets = list(dict.fromkeys(line["data"] for line in known))
    record(
        "validation accuracy and loss of heads on frozen features of MobileNetV2 at 160 pixels:"
        f" {FOLDS} folds over the training and validation pictures, each with every seed; last:"
        " after the last epoch; best: at the epoch with the lowest loss, as --early_stopping would"
        " keep",
        ["seeds"],
        heads={row.name: {**asdict(row.head), "epochs": row.epochs} for row in ROWS},
        sets={
            data: {line["row"]: summarize(line["runs"]) for line in known if line["data"] == data}
            for data in sets
        },
    )


def summarize(runs: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """Sums up the runs of a row on one set.

    Args:
        runs: with `accuracy` and `loss` after each epoch.

    Returns:
        `runs`, and means over them of `last` accuracy and `last_loss`, and of `best` and
        `best_loss`, those of the epoch with the lowest loss, and of that `epoch`'s number, from 1.
    """
    best = [min(range(len(run["loss"])), key=run["loss"].__getitem__) for run in runs]
    kept = list(zip(runs, best, strict=True))
    return {
        "runs": len(runs),
        "last": round(mean(run["accuracy"][-1] for run in runs), 4),
        "last_loss": round(mean(run["loss"][-1] for run in runs), 4),
        "best": round(mean(run["accuracy"][epoch] for run, epoch in kept), 4),
        "best_loss": round(mean(run["loss"][epoch] for run, epoch in kept), 4),
        "epoch": round(mean(best) + 1, 1),
    }


class _Features:
    """Pictures of one folder as pooled features, and heads that are trained on folds of them."""

    def __init__(self, data: Path, work: Path) -> None:
        cli.import_tensorflow()
        import numpy as np

        from trainer.data import dataset
        from trainer.session import open_session

        weights = flags.FLAGS.weights
        self._weights = None if weights == "none" else Path(weights).expanduser()
        self._cache = work / "features"
        split = "hold_out" if (data / "validation").is_dir() else "given"
        self._config = Config(data=str(data), variant="transfer", split=split)
        with tempfile.TemporaryDirectory() as folder:
            config = replace(self._config, run_dir=f"{folder}/run")
            with open_session(config) as session:
                loaded = dataset.load(config, session)
        self._examples, self._ledger = loaded.examples, loaded.ledger
        self._pool = np.concatenate(
            [loaded.examples.indices(split) for split in ("train", "validation")]
        )
        # Other digits of the hash than those that the split is taken by.
        self._folds = np.array(
            [int(loaded.ledger.pictures[i].sha256[16:32], 16) % FOLDS for i in self._pool]
        )
        self._pooled: dict[str, Any] = {}

    def judged(self, row: Row, seeds: int) -> list[dict[str, list[float]]]:
        """Accuracy and loss on each fold, of each seed, after each epoch."""
        import numpy as np

        from trainer.training.features import FeatureExamples

        features = self._features(row.head.pooling)
        runs = []
        for fold in range(FOLDS):
            train, validation = (
                np.flatnonzero((self._folds == fold) == judged) for judged in (False, True)
            )
            order = np.concatenate([train, validation])
            folded: Any = _Fold(self._examples, self._pool, train, validation)
            batches = FeatureExamples(folded, features[order], 1)
            runs += _trained(row, seeds, batches, len(self._ledger.classes))
        return runs

    def _features(self, pooling: str) -> Any:
        """Of every training and validation picture: float32 [n, features]."""
        if pooling not in self._pooled:
            from trainer.training.features import extract, split_backbone
            from trainer.variants.models import build
            from trainer.variants.objective import Objective

            model = build(
                "transfer",
                self._config.image_size,
                Objective(2),
                seed=0,
                weights=self._weights,
                head=Head(pooling, 0, 0.0),
            )
            extractor, _ = split_backbone(model)
            extracted = extract(
                self._examples, self._ledger, extractor, views=1, seed=0, cache_folder=self._cache
            )
            self._pooled[pooling] = extracted.features(self._pool)
        return self._pooled[pooling]


def _trained(row: Row, seeds: int, batches: Any, classes: int) -> list[dict[str, list[float]]]:
    """Trains a head with each seed; one loop for all, as its functions take long to be traced."""
    import keras
    import tensorflow as tf

    from trainer.training.fit import make_optimizer
    from trainer.training.loop import Loop
    from trainer.variants.models import copy_variables, head_layers
    from trainer.variants.objective import Objective

    objective = Objective(classes)
    size = Config(variant="transfer").batch_size
    labels = batches.labels(batches.indices("validation"))
    width = batches.features(batches.indices("validation")).shape[1]

    def make() -> keras.Model:
        return keras.Sequential([keras.Input((width,)), *head_layers(row.head, objective)])

    model = make()
    steps = -(-len(batches.indices("train")) // size)
    rate = Config(variant="transfer", learning_rate=row.learning_rate).rate
    optimizer = make_optimizer(rate, row.epochs * steps)
    loop = Loop(model, objective, optimizer, tf.distribute.get_strategy(), tf.float32)
    fresh = [keras.ops.copy(variable) for variable in optimizer.variables]
    runs = []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        copy_variables(make(), model)
        for variable, value in zip(optimizer.variables, fresh, strict=True):
            variable.assign(value)
        run: dict[str, list[float]] = {"accuracy": [], "loss": []}
        for epoch in range(row.epochs):
            deque(loop.train(batches.training_batches(size, seed=seed, epoch=epoch, full=False)), 0)
            logits = tf.constant(loop.logits(batches.evaluation_batches("validation", size)))
            right = tf.equal(objective.predictions(logits), labels)
            run["accuracy"].append(float(tf.reduce_mean(tf.cast(right, tf.float32))))
            run["loss"].append(float(tf.reduce_mean(objective.loss(labels, logits))))
        runs.append(run)
    return runs


class _Fold:
    """Examples of which one fold of train and validation is the validation split."""

    def __init__(self, examples: Any, pool: Any, train: Any, validation: Any) -> None:
        self._examples, self._pool = examples, pool
        self._indices = {"train": train, "validation": validation, "test": train[:0]}

    def indices(self, split: str) -> Any:
        """Positions of a split's pictures among those of all folds; there is no test split."""
        return self._indices[split]

    def labels(self, indices: Any) -> Any:
        """Class numbers of pictures."""
        return self._examples.labels(self._pool[indices])

    def weights(self, indices: Any) -> Any:
        """How much pictures weigh in training."""
        return self._examples.weights(self._pool[indices])


if __name__ == "__main__":
    main()
