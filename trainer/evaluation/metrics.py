"""Numbers about predictions, each with how many pictures it rests on."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.variants.head import Head

# 97.5 % quantile of the normal distribution: two-sided 95 %.
_Z_95 = 1.959964


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927, score interval), which stays within 0…1 and is right near the ends.

    Args:
        correct: how many were right.
        total: of how many, at least 1.

    Returns:
        Lower and upper end, 0…1.
    """
    share = correct / total
    spread = _Z_95 * math.sqrt(share * (1 - share) / total + _Z_95**2 / (4 * total**2))
    centre = share + _Z_95**2 / (2 * total)
    scale = 1 + _Z_95**2 / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def evaluate(head: Head, classes: Sequence[str], labels: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
    """Judges the predictions on one split.

    Args:
        head: turns logits into predictions and losses.
        classes: names in the order of the labels.
        labels: int32 [n], 0…K-1.
        logits: float32 [n, units].

    Returns:
        `n`, `accuracy`, `interval_95`, `loss` in nats, and `per_class` with `n`, `correct` and `recall` of each.
    """
    right = head.predictions(tf.constant(logits)).numpy() == labels
    per_class = {}
    for number, name in enumerate(classes):
        of_class = right[labels == number]
        per_class[name] = {
            "n": len(of_class),
            "correct": int(of_class.sum()),
            "recall": float(of_class.mean()) if len(of_class) else None,
        }
    return {
        "n": len(labels),
        "accuracy": float(right.mean()),
        "interval_95": list(wilson_interval(int(right.sum()), len(labels))),
        "loss": float(tf.reduce_mean(head.loss(tf.constant(labels), tf.constant(logits)))),
        "per_class": per_class,
    }
