"""The frozen part of `transfer` on its own, run by whatever is fastest on this machine.

Measured on 2 CPU cores, MobileNetV2 at 160 pixels, in one run: XNNPACK 2 to 4 times the pictures
per second of a `tf.function`. One interpreter with a thread per core and two with a thread each
came out alike.
"""

import os
import warnings
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from absl import logging

# Pictures per call: from 8 on XNNPACK gains nothing more, and 32 fall out of the processor's cache.
BATCH = 16


def split(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Takes the variant `transfer` apart where its frozen part ends.

    Both parts consist of the model's own layers: a trained head is the model's head, and nothing
    has to be copied.

    Args:
        model: what `build("transfer", …)` gives; to be called under the strategy's scope that it
            was built under.

    Returns:
        The extractor, from float32 [N, H, W, 3] in 0…255 to float32 [N, 1280], without
        augmentation; and the head, from there to logits.
    """
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    pool = model.get_layer("pool")
    pixels = keras.Input(model.input_shape[1:], name="pixels")
    # training=False: the frozen BatchNorm statistics, as in the whole model.
    features = pool(backbone(model.get_layer("rescaling")(pixels), training=False))
    return keras.Model(pixels, features, name="extractor"), keras.Model(
        pool.output, model.output, name="head"
    )


# Pixels, uint8 or float32 [n, H, W, 3] in 0…255, n at most `BATCH`, to float32 features [n, 1280].
Run = Callable[[np.ndarray], np.ndarray]


def fastest_backend() -> str:
    """Name in `BACKENDS`: TensorFlow on the first GPU where there is one, else XNNPACK on every
    core.
    """
    return "TensorFlow" if tf.config.list_logical_devices("GPU") else "XNNPACK"


def _tensorflow(extractor: keras.Model) -> Run:
    """The extractor as a compiled function."""
    function = tf.function(
        lambda pixels: tf.cast(extractor(pixels, training=False), tf.float32),
        input_signature=[tf.TensorSpec(extractor.input_shape, tf.float32)],
    )
    return lambda pixels: function(tf.constant(pixels, tf.float32)).numpy()


def _xnnpack(extractor: keras.Model) -> Run:
    """The extractor as a TensorFlow Lite model, which XNNPACK executes in float32."""
    shape = (BATCH, *extractor.input_shape[1:])
    function = tf.function(lambda pixels: extractor(pixels, training=False))
    concrete = function.get_concrete_function(tf.TensorSpec(shape, tf.float32))
    # From the concrete function, as from_keras_model takes five times as long for the same result.
    # Without the function's owner, as then its variables become constants, without which XNNPACK
    # takes over nothing.
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # it advises to name the owner
    try:
        converted = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    finally:
        logging.set_verbosity(verbosity)
    with warnings.catch_warnings():
        # Deprecated in favour of the package ai-edge-litert, but part of every TensorFlow that is
        # allowed here.
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        interpreter = tf.lite.Interpreter(model_content=converted, num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    batch = np.zeros(shape, np.float32)

    def run(pixels: np.ndarray) -> np.ndarray:
        batch[: len(pixels)] = pixels
        interpreter.set_tensor(source["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])[: len(pixels)]

    return run


# Ways of running an extractor, by name: each makes the function that runs it.
BACKENDS: dict[str, Callable[[keras.Model], Run]] = {"TensorFlow": _tensorflow, "XNNPACK": _xnnpack}
