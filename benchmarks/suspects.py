"""How well `trainer.data suspects` finds labels that were made wrong on purpose, and how long it
takes.

  python -m benchmarks.suspects --data=cats_and_dogs_filtered,clothing,sign_language_digits \\
    --weights=mobilenet_v2_..._160_no_top.h5

Of the training and validation pictures of each set a share gets another class by chance, with
several seeds. What is found beside these may be errors of the set itself, which nobody planted.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.measurement import define_sets, record, run_python, spread
from trainer.config import Config
from whisker_ml import cli

SHARES = (0.01, 0.05)
FIRST = 20


def main() -> None:
    """Entry point."""
    define_sets("suspects", "keeps features")
    cli.define("seeds", 10, "of the pictures whose label is made wrong", minimum=1)
    cli.run(_measure)


def _measure(_: Sequence[str]) -> None:
    cli.import_tensorflow()
    record(
        "labels made wrong by chance in a share of the training and validation pictures; recall:"
        " share of them among the first pictures, twice as many as were made wrong; first: how many"
        f" of the first {FIRST} pictures are of them; seconds: python -m trainer.data suspects on"
        " the set as it is, all of the command, features cached",
        ["seeds"],
        ["sets"],
        sets={Path(folder).name: _of(Path(folder).resolve()) for folder in flags.FLAGS.data},
    )


def _of(folder: Path) -> dict[str, Any]:
    from trainer.evaluation.suspects import pooled_features

    options = flags.FLAGS
    split = "hold_out" if (folder / "validation").is_dir() else "given"
    given = {"split": split, "base_weights": options.weights, "cache_dir": options.work_dir}
    data, pool, features = pooled_features(Config(data=str(folder), variant="transfer", **given))
    labels, classes = data.examples.labels(pool), len(data.ledger.classes)
    planted = {}
    for share in SHARES:
        runs = [found(features, labels, classes, share, seed) for seed in range(options.seeds)]
        recalls, firsts = zip(*runs, strict=True)
        planted[f"{share:.0%}"] = {
            "wrong": round(share * len(labels)),
            "recall": spread([round(recall, 4) for recall in recalls]),
            "first": spread(firsts),
        }
    return {
        "pictures": len(pool),
        "classes": classes,
        "seconds": round(_seconds(folder, given), 1),
        "planted": planted,
    }


def found(features: Any, labels: Any, classes: int, share: float, seed: int) -> tuple[float, int]:
    """Makes a share of the labels wrong and looks for them.

    Args:
        features: float32 [n, m].
        labels: class numbers, int [n].
        classes: how many there are.
        share: of the labels, 0 to 1.
        seed: of which, and of the class that they get.

    Returns:
        The share of them among the first pictures, twice as many as they are; how many of the
        first `FIRST` pictures are among them.
    """
    import numpy as np

    from trainer.evaluation.suspects import rank

    generator = np.random.default_rng(seed)
    wrong = generator.choice(len(labels), round(share * len(labels)), replace=False)
    given = labels.copy()
    given[wrong] = (labels[wrong] + generator.integers(1, classes, len(wrong))) % classes
    order, _, _ = rank(features, given, classes)
    hits = np.isin(order, wrong)
    return float(hits[: 2 * len(wrong)].sum() / len(wrong)), int(hits[:FIRST].sum())


def _seconds(folder: Path, given: dict[str, str]) -> float:
    with tempfile.TemporaryDirectory() as out:
        arguments = [f"--{name}={value}" for name, value in given.items()]
        start = time.perf_counter()
        run_python("-m", "trainer.data", "suspects", str(folder), f"--out={out}/sheet", *arguments)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
