"""When an answer is "not sure": too close to call, or of a picture unlike all that were learnt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

# Share of pictures like those that were learnt that may be answered with "not sure".
TARGET = 0.05
# 16 to 256 tell strangers about as well.
_DIRECTIONS = 64


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
    """Learns where the training pictures' features, float32 [n, F], vary."""
    mean = features.mean(axis=0, dtype=np.float64)
    away = features - mean
    _, directions = np.linalg.eigh(away.T @ away)
    return Familiarity(
        mean.astype(np.float32), directions[:, : -_DIRECTIONS - 1 : -1].astype(np.float32)
    )


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
