"""Which parts of a picture an answer rests on: those without which the model is less sure of it."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from trainer.variants.objective import Objective

# Parts on a side. As many as a backbone has places in its last layer at 160 pixels.
PARTS = 5


def importance(
    classify: Callable[[np.ndarray], np.ndarray], objective: Objective, pixels: np.ndarray
) -> np.ndarray:
    """Blurs each part of a picture in turn, with soft edges, and sees what becomes of the answer
    ("occlusion": Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks").

    Blurring the five most important parts of 25 changes the answer more than blurring any five far
    more often than with Grad-CAM (docs/benchmarks.md, "Answers").

    Args:
        classify: gives the logits, float32 [n, units], of pixels, float32 [n, size, size, 3] in
            0…255.
        objective: turns logits into the answer.
        pixels: of one picture, [size, size, 3] in 0…255.

    Returns:
        By how much the log-odds of the answer fall without each part: float32 [PARTS, PARTS].
    """
    shown = pixels.astype(np.float32)
    covers = covered(shown, np.eye(PARTS**2).reshape(-1, PARTS, PARTS))
    logits = classify(np.concatenate([shown[np.newaxis], covers]))
    odds = log_odds(objective, logits, int(objective.predictions(tf.constant(logits[:1]))[0]))
    return (odds[0] - odds[1:]).reshape(PARTS, PARTS)


def covered(pixels: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Blurs parts of a picture.

    Args:
        pixels: float32 [size, size, 3].
        parts: which: 0 or 1, [n, PARTS, PARTS].

    Returns:
        float32 [n, size, size, 3].
    """
    size = pixels.shape[:2]
    coarse = tf.image.resize(pixels, (PARTS, PARTS), "area")
    blurred = tf.image.resize(coarse, size, "bicubic")
    cover = tf.image.resize(parts[..., np.newaxis].astype(np.float32), size, "bilinear")
    return (pixels + (blurred - pixels) * cover).numpy()


def log_odds(objective: Objective, logits: np.ndarray, answer: int) -> np.ndarray:
    """How sure a model is of an answer, without an end: float32 [n] of logits [n, units]."""
    if objective.units == 1:
        return logits[:, 0] if answer else -logits[:, 0]
    others = np.delete(logits, answer, axis=1)
    return logits[:, answer] - tf.reduce_logsumexp(others, axis=1).numpy()
