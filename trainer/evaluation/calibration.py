"""How sure answers are: calibration, corrected by one number; thresholds."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.evaluation.intervals import wilson_interval
from trainer.variants.objective import Objective

# Does a probability of 0.9 mean right nine times out of ten? Measured, and corrected by one
# number.

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


# What the model trades as its threshold moves: ROC, precision against recall.

# Points of a curve that are kept: finer than a picture of it can show.
MOST_POINTS = 201


def threshold_curves(
    classes: Sequence[str], labels: np.ndarray, probabilities: np.ndarray
) -> dict[str, Any]:
    """ROC and precision-recall curves with the area under each.

    Two classes: of the second one. More: the mean of each class against the rest ("macro"), over
    the classes of which there are pictures.

    Args:
        classes: names in the order of the labels.
        labels: int32 [n], 0…K-1.
        probabilities: float [n, K].

    Returns:
        `of` (what the curves are of), `roc` with `area`, `false_positive_rate`,
        `true_positive_rate`, and `precision_recall` with `area` (average precision), `recall`,
        `precision`; both None where all pictures are of one class.
    """
    numbers = [1] if len(classes) == 2 else range(len(classes))
    found = [
        (_roc(*counted), _precision_recall(*counted))
        for counted in (_counts(labels == number, probabilities[:, number]) for number in numbers)
        if counted[0][-1] and counted[1][-1]
    ]
    of = classes[1] if len(classes) == 2 else f"mean of {len(found)} classes, each against the rest"
    if not found:
        return {"of": of, "roc": None, "precision_recall": None}
    grid = np.linspace(0, 1, MOST_POINTS)
    if len(found) == 1:
        (false, true), (recall, precision) = found[0]
    else:
        false = recall = grid
        true = np.mean([np.interp(grid, *roc) for roc, _ in found], axis=0)
        # A step at each threshold, the value of the first one that reaches so much recall.
        precision = np.mean(
            [values[np.searchsorted(at, grid)] for _, (at, values) in found], axis=0
        )
    areas = [(_area(*roc), float(np.sum(np.diff(at) * values[1:]))) for roc, (at, values) in found]
    roc_area, average_precision = np.mean(areas, axis=0).tolist()
    return {
        "of": of,
        "roc": {
            "area": roc_area,
            "false_positive_rate": _thin(false),
            "true_positive_rate": _thin(true),
        },
        "precision_recall": {
            "area": average_precision,
            "recall": _thin(recall),
            "precision": _thin(precision),
        },
    }


def _counts(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives at each threshold, from the highest on; equal scores fall
    together.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.cumsum(positive[order])[last_of_equals]
    return true, last_of_equals + 1 - true


def _roc(true: np.ndarray, false: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.append(0, false / false[-1]), np.append(0, true / true[-1])


def _precision_recall(true: np.ndarray, false: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    precision = true / (true + false)
    return np.append(0, true / true[-1]), np.append(precision[0], precision)


def _area(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def _places(length: int) -> list[int]:
    """Evenly spread places in a list, the first and the last among them, at most `MOST_POINTS`."""
    return np.unique(
        np.linspace(0, length - 1, min(length, MOST_POINTS)).round().astype(int)
    ).tolist()


def _thin(values: np.ndarray) -> list[float]:
    return values[_places(len(values))].tolist()
