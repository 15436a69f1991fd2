"""Numbers about predictions, each with how many pictures it rests on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.evaluation.intervals import wilson_interval
from trainer.variants.objective import Objective

_DRAWS = 1000


def evaluate(
    head: Objective, classes: Sequence[str], labels: np.ndarray, logits: np.ndarray
) -> dict[str, Any]:
    """Judges the predictions on one split.

    Args:
        head: turns logits into predictions and losses.
        classes: names in the order of the labels.
        labels: int32 [n], 0…K-1; at least one.
        logits: float32 [n, units].

    Returns:
        `n`, `accuracy`, `interval_95`, `loss` in nats; `per_class` with `n`, `correct`, `recall`
        and its `interval_95` (None without pictures), `predicted` (how often the model says this
        class) and `precision` (None where it never does); `recall_spread_by_chance`, what the
        distance between the highest and the lowest recall stays below in 95 of 100 cases where all
        classes are equally hard; and `confused`, the cells of the confusion matrix beside its
        diagonal that are not 0, as `true`, `predicted`, `n`, the largest first.
    """
    predictions = head.predictions(tf.constant(logits)).numpy()
    size = len(classes)
    matrix = np.bincount(labels * size + predictions, minlength=size**2).reshape(size, size)
    correct = matrix.diagonal()
    per_class = {}
    for number, name in enumerate(classes):
        total, said, right = (
            int(matrix[number].sum()),
            int(matrix[:, number].sum()),
            int(correct[number]),
        )
        per_class[name] = {
            "n": total,
            "correct": right,
            "recall": right / total if total else None,
            "interval_95": list(wilson_interval(right, total)) if total else None,
            "predicted": said,
            "precision": right / said if said else None,
        }
    confused = [
        {"true": classes[true], "predicted": classes[said], "n": int(matrix[true, said])}
        for true, said in np.argwhere(matrix)
        if true != said
    ]
    accuracy, totals = float(correct.sum() / len(labels)), matrix.sum(axis=1)
    seen = totals[totals > 0]
    recalls = np.random.default_rng(0).binomial(seen, accuracy, (_DRAWS, len(seen))) / seen
    return {
        "n": len(labels),
        "accuracy": accuracy,
        "interval_95": list(wilson_interval(int(correct.sum()), len(labels))),
        "loss": float(tf.reduce_mean(head.loss(tf.constant(labels), tf.constant(logits)))),
        "per_class": per_class,
        "recall_spread_by_chance": float(np.quantile(np.ptp(recalls, axis=1), 0.95)),
        "confused": sorted(confused, key=lambda cell: -cell["n"]),
    }
