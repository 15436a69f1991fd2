"""Before the first step: does the model see what it should, and does it know nothing yet?"""

import math

import keras
import numpy as np
import tensorflow as tf

from trainer.config import Config
from trainer.data.input import Examples
from trainer.errors import TrainingError
from trainer.variants.head import Head

# An untrained head on scaled inputs is wrong by chance alone. A sigmoid before a from-logits loss,
# labels that do not fit the logits, or unscaled inputs are off by much more (KerasHub's guide
# printed 4.95 where ln 2 is 0.69). But the features of a trained backbone, of which the highest is
# taken, make untrained logits of several units either way.
_MOST_ABOVE_CHANCE = {"preprocessed": 1.5, "transfer": 15.0}
_PICTURES = 8
# Kernels may round the rows of one batch differently, bfloat16 by 0.004; augmentation changes
# logits by more.
_SAME = 5e-3


def check_start(model: keras.Model, head: Head, examples: Examples, config: Config) -> None:
    """Looks at a model that is about to be trained, on a few validation pictures; its variables
    stay as they are.

    Args:
        model: pixels to logits.
        head: the loss of its logits.
        examples: the pictures.
        config: says the variant.

    Raises:
        TrainingError: training would learn nothing, or something else than it should.
    """
    indices = examples.indices("validation")
    # From all over the split: the first ones are of one class.
    indices = indices[np.linspace(0, len(indices) - 1, _PICTURES).astype(int)]
    pixels = tf.cast(examples.pictures(indices), tf.float32)
    # Every picture twice in one batch: augmentation would change the two differently.
    logits, again = tf.split(model(tf.concat([pixels, pixels], 0), training=False), 2)
    if not np.allclose(logits, again, rtol=_SAME, atol=_SAME):
        raise TrainingError(
            f"{config.variant}: the same pictures give another answer each time, as if augmented"
        )
    if config.variant not in _MOST_ABOVE_CHANCE:
        return
    loss = float(tf.reduce_mean(head.loss(tf.constant(examples.labels(indices)), logits)))
    chance = math.log(head.class_count)
    if not loss < chance + _MOST_ABOVE_CHANCE[config.variant]:
        raise TrainingError(
            f"{config.variant}: the loss before training is {loss:.2f}, expected about ln"
            f" {head.class_count} = {chance:.2f}: head, loss and labels do not belong together, or"
            " inputs are not scaled"
        )
    scaled = model.get_layer("rescaling")(pixels).numpy()
    if scaled.min() < -1.001 or scaled.max() > 1.001 or scaled.max() - scaled.min() < 0.1:
        raise TrainingError(
            f"{config.variant}: inputs are scaled to {scaled.min():.2f} … {scaled.max():.2f},"
            " expected within -1 … 1 and more than one grey"
        )
