"""How sure answers are: calibration, corrected by one number; thresholds; when one is not sure."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.evaluation import wilson_interval
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
# Temperatures to choose from: 0.3 % apart.
_TEMPERATURES = 2001


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

    def loss(temperature: float) -> float:
        losses = replace(head, temperature=temperature).loss(labels, logits)
        return float(np.mean(losses, dtype=np.float64))

    steps = np.geomspace(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE, _TEMPERATURES).tolist()
    pairs = list(pairwise(steps))
    # Convex in 1 / temperature, the loss falls to its one minimum, and rises from there on.
    fitted = steps[bisect_left(pairs, True, key=lambda pair: loss(pair[0]) < loss(pair[1]))]
    return fitted if 2 * len(labels) * (loss(1.0) - loss(fitted)) > _CHI_SQUARED_95 else 1.0


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
    inside = np.eye(_BINS)[np.clip(np.digitize(confidence, edges) - 1, 0, _BINS - 1)]
    counts, sums, correct = inside.sum(axis=0), confidence @ inside, right @ inside

    def error(correct: np.ndarray) -> float:
        return float(np.abs(correct - sums).sum() / len(right))

    generator = np.random.default_rng(0)
    by_chance = [error((generator.random(len(right)) < confidence) @ inside) for _ in range(_DRAWS)]
    bins = np.stack([edges[:-1], edges[1:], counts, sums, correct], axis=1)
    return {
        "error": error(correct),
        "error_by_chance": float(np.quantile(by_chance, 0.95)),
        "bins": [
            {
                "low": low,
                "high": high,
                "n": int(n),
                "confidence": confident / n,
                "accuracy": exact / n,
                "interval_95": list(wilson_interval(exact, n)),
            }
            for low, high, n, confident, exact in bins[counts > 0].tolist()
        ],
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
        _rates_and_precision(labels == number, probabilities[:, number])
        for number in numbers
        if 0 < np.count_nonzero(labels == number) < len(labels)
    ]
    of = classes[1] if len(classes) == 2 else f"mean of {len(found)} classes, each against the rest"
    if not found:
        return {"of": of, "roc": None, "precision_recall": None}
    areas = [
        (np.diff(false) @ (true[1:] + true[:-1]) / 2, np.diff(true) @ precision[1:])
        for false, true, precision in found
    ]
    roc_area, average_precision = np.mean(areas, axis=0).tolist()
    false, true, precision = found[0]
    recall = true
    if len(found) > 1:
        false = recall = np.linspace(0, 1, MOST_POINTS)
        true = np.mean([np.interp(false, each[0], each[1]) for each in found], axis=0)
        # A step at each threshold, the value of the first one that reaches so much recall.
        precision = np.mean([each[2][np.searchsorted(each[1], recall)] for each in found], axis=0)
    # Evenly spread, the first and the last among them.
    kept = np.linspace(0, len(true) - 1, min(len(true), MOST_POINTS)).round().astype(int)
    points = np.stack([false, true, recall, precision])[:, kept].tolist()
    return {
        "of": of,
        "roc": {
            "area": roc_area,
            "false_positive_rate": points[0],
            "true_positive_rate": points[1],
        },
        "precision_recall": {
            "area": average_precision,
            "recall": points[2],
            "precision": points[3],
        },
    }


def _rates_and_precision(
    positive: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False and true positive rate, and precision, at each threshold from the highest on; equal
    scores fall together.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.cumsum(positive[order])[last_of_equals]
    precision = true / (last_of_equals + 1)
    false = last_of_equals + 1 - true
    return (
        np.append(0, false / false[-1]),
        np.append(0, true / true[-1]),
        np.append(precision[0], precision),
    )


# When an answer is "not sure": too close to call, or of a picture unlike all that were learnt.

# Share of pictures like those that were learnt that may be answered with "not sure".
TARGET = 0.05
# 16 to 256 tell strangers about as well.
_DIRECTIONS = 64
# More than are kept, and passes over the features, in finding them.
_SPARE_DIRECTIONS = 16
_PASSES = 4


@dataclass(frozen=True)
class Familiarity:
    """How much of a picture's features lies where those of the training pictures vary: near 1 for
    pictures like them, lower for strangers (principal components, relative to the whole).

    Attributes:
        mean: of the training pictures' features, float32 [F].
        directions: in which they vary most, orthonormal, float32 [F, D].
    """

    mean: np.ndarray
    directions: np.ndarray

    def of(self, features: tf.Tensor) -> tf.Tensor:
        """Familiarity of features float32 [N, F]: float32 [N], 0…1."""
        away = features - self.mean
        return tf.math.divide_no_nan(
            tf.norm(tf.matmul(away, self.directions), axis=1), tf.norm(away, axis=1)
        )


def learn_familiarity(features: Any) -> Familiarity:
    """Learns where the training pictures' features, float32 [n, F], vary.

    By subspace iteration from random directions, as all eigenvectors of thousands of features take
    much longer than to train (Halko, Martinsson and Tropp 2011, "Finding Structure with
    Randomness").
    """
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    away = features - mean
    count = min(_DIRECTIONS + _SPARE_DIRECTIONS, len(mean))
    found = np.random.default_rng(0).normal(size=(len(mean), count)).astype(np.float32)
    for _ in range(_PASSES):
        found, _ = np.linalg.qr(away.T @ (away @ found))
    within = away @ found
    _, rotation = np.linalg.eigh(within.T @ within)
    return Familiarity(mean, found @ rotation[:, : -_DIRECTIONS - 1 : -1])


@dataclass(frozen=True)
class Doubt:
    """Says when an answer is not sure.

    Attributes:
        lowest_probability: answers below it are not sure; 0: none is.
        lowest_familiarity: likewise.
        familiarity: of the features of a picture; None: the model has no backbone.
    """

    lowest_probability: float = 0.0
    lowest_familiarity: float = 0.0
    familiarity: Familiarity | None = None

    def unsure(self, probability: Any, familiarity: Any = None, *, slack: float = 0.0) -> Any:
        """Whether answers are not sure.

        Args:
            probability: of the answers, calibrated: float32 [N], an array or a tensor.
            familiarity: of the pictures, likewise; None: not known.
            slack: by how much the scores have to be below a threshold.

        Returns:
            bool [N], an array or a tensor.
        """
        unsure = probability < self.lowest_probability - slack
        if familiarity is not None:
            unsure |= familiarity < self.lowest_familiarity - slack
        return unsure


NO_DOUBT = Doubt()


def judge_unsure(
    validation: Sequence[np.ndarray], test: Sequence[np.ndarray], right: np.ndarray
) -> dict[str, Any]:
    """Chooses thresholds on the validation pictures, below which at most the share `TARGET` of
    pictures like these falls, and counts what becomes of the test pictures.

    Each threshold may have its part of that share, and is the score of rank ⌊part · (n + 1)⌋:
    "split conformal prediction" (Vovk et al. 2005, "Algorithmic Learning in a Random World").

    Args:
        validation: scores of the validation pictures, float32 [n] each: the probability of the
            answer and, where it is known, the familiarity.
        test: the same of the test pictures, float32 [m] each.
        right: bool [m], of the answers about the test pictures.

    Returns:
        `target`; `fitted_on`, how many validation pictures there are, and `pictures_needed`;
        `lowest_probability` and `lowest_familiarity` (None where it is not known), 0 where there
        are too few; and of the test pictures how many are `sure` and `unsure`, and how many of each
        are right: `sure_correct`, `unsure_correct`.
    """
    part, n = TARGET / len(validation), len(validation[0])
    rank = int(part * (n + 1))
    lowest = [float(np.sort(score)[rank - 1]) if rank else 0.0 for score in validation]
    # Of a familiarity that is not known, the threshold is not looked at.
    unsure = Doubt(lowest[0], lowest[-1]).unsure(*test)
    return {
        "target": TARGET,
        "fitted_on": n,
        "pictures_needed": round(1 / part) - 1,
        "lowest_probability": lowest[0],
        "lowest_familiarity": lowest[1] if len(lowest) > 1 else None,
        "sure": int((~unsure).sum()),
        "sure_correct": int((right & ~unsure).sum()),
        "unsure": int(unsure.sum()),
        "unsure_correct": int((right & unsure).sum()),
    }
