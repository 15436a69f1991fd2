"""Does a probability of 0.9 mean right nine times out of ten? Measured, and mended by one
number.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.evaluation.intervals import wilson_interval
from trainer.variants.objective import Objective

# A model that is right on all validation pictures would be made surer without end, and one that
# knows nothing vaguer.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.25, 100.0
# 95 % quantile of chi-squared with one degree of freedom.
_CHI_SQUARED_95 = 3.841
_BINS = 10
_DRAWS = 200
# Of the search for a temperature: they find it to 0.3 %.
_PLACES, _ROUNDS = 21, 3


def fit_temperature(head: Objective, labels: np.ndarray, logits: np.ndarray) -> float:
    """Finds what to divide logits by so that their loss is lowest (Guo et al. 2017, "temperature
    scaling").

    Args:
        head: the loss of the logits.
        labels: int32 [n], of pictures that the weights were not trained on; at least one.
        logits: float32 [n, units].

    Returns:
        The temperature, between `LOWEST_TEMPERATURE` and `HIGHEST_TEMPERATURE`; 1 where so few
        pictures do not tell it from 1 (likelihood ratio test).
    """

    def loss(logarithm: float) -> float:
        scaled = replace(head, temperature=math.exp(logarithm))
        return float(tf.reduce_mean(scaled.loss(tf.constant(labels), tf.constant(logits))))

    # Convex in 1 / temperature, the loss has one minimum: the neighbours of the best of some places
    # enclose it.
    low, high = math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE)
    for _ in range(_ROUNDS):
        places = np.linspace(low, high, _PLACES)
        best = int(np.argmin([loss(place) for place in places]))
        low, high = places[max(best - 1, 0)], places[min(best + 1, _PLACES - 1)]
    fitted = (low + high) / 2
    return (
        math.exp(fitted) if 2 * len(labels) * (loss(0.0) - loss(fitted)) > _CHI_SQUARED_95 else 1.0
    )


def reliability(classes: int, right: np.ndarray, confidence: np.ndarray) -> dict[str, Any]:
    """Compares how sure the answers are with how often they are right.

    Args:
        classes: how many there are; no answer has a probability below 1 / classes.
        right: bool [n].
        confidence: float [n], probability of the answer.

    Returns:
        `error`: expected calibration error over ten bins of equal width, 0…1; `error_by_chance`:
        what 95 of 100 perfectly calibrated models would stay below on so many pictures; `bins`:
        `low`, `high`, `n`, mean `confidence`, `accuracy` and `interval_95` of those that hold
        pictures.
    """
    edges = np.linspace(1 / classes, 1, _BINS + 1)
    places = np.clip(np.digitize(confidence, edges) - 1, 0, _BINS - 1)
    counts = np.bincount(places, minlength=_BINS)
    sums = np.bincount(places, confidence.astype(np.float64), _BINS)

    def error(right: np.ndarray) -> float:
        return float(np.abs(np.bincount(places, right, _BINS) - sums).sum() / len(right))

    generator = np.random.default_rng(0)
    by_chance = [error(generator.random(len(right)) < confidence) for _ in range(_DRAWS)]
    bins = []
    for place in np.flatnonzero(counts):
        correct, count = int(right[places == place].sum()), int(counts[place])
        bins.append(
            {
                "low": float(edges[place]),
                "high": float(edges[place + 1]),
                "n": count,
                "confidence": float(sums[place] / count),
                "accuracy": correct / count,
                "interval_95": list(wilson_interval(correct, count)),
            }
        )
    return {
        "error": error(right),
        "error_by_chance": float(np.quantile(by_chance, 0.95)),
        "bins": bins,
    }
