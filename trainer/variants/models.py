"""The four variants as Keras models that return logits."""

import math
from pathlib import Path
from typing import Any

import keras

from trainer.variants.augmentation import augmentation_layers
from trainer.variants.backbone import mobilenet_v2
from trainer.variants.head import Head

_DROPOUT = 0.2


def build(
    variant: str,
    image_size: int,
    head: Head,
    *,
    seed: int,
    weights: Path | None = None,
    precision: str = "float32",
    strong_augmentation: bool = False,
) -> keras.Model:
    """Builds one variant.

    Args:
        variant: plain, augmented, preprocessed or transfer.
        image_size: side of the input in pixels.
        head: says how many logits to end with.
        seed: of the augmentation's random streams.
        weights: a Keras weights file of the backbone, or None for random ones; `transfer` alone
            reads it.
        precision: Keras' name of what layers compute in; variables and logits are float32 in any
            case.
        strong_augmentation: as the recipe `best` does it, not as the notebook.

    Returns:
        A model from float32 [N, image_size, image_size, 3] in 0…255 to float32 logits [N,
        head.units].

    Raises:
        WeightsError: the file does not hold this backbone's weights.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return _build(variant, image_size, head, seed, weights, strong_augmentation)
    finally:
        keras.config.set_dtype_policy(before)


def copy_variables(source: keras.Model, target: keras.Model) -> None:
    """Gives a model the values of another's variables; either may be spread over replicas or have
    another precision.
    """
    for value, variable in zip(source.variables, target.variables, strict=True):
        variable.assign(value.value.numpy())


def _build(
    variant: str,
    image_size: int,
    head: Head,
    seed: int,
    weights: Path | None,
    strong_augmentation: bool,
) -> keras.Model:
    inputs = keras.Input((image_size, image_size, 3), name="pixels")
    x = inputs
    scaled = variant in ("preprocessed", "transfer")
    if scaled:
        x = keras.layers.Rescaling(1 / 127.5, offset=-1, name="rescaling")(x)
    if variant != "plain":
        for layer in augmentation_layers(seed, strong=strong_augmentation, scaled=scaled):
            x = layer(x)
    if variant == "transfer":
        # Frozen, and so its BatchNorm statistics stay those that the weights were trained with.
        x = mobilenet_v2(image_size, weights)(x, training=False)
        x = keras.layers.GlobalMaxPooling2D(name="pool")(x)
        x = keras.layers.Dropout(_DROPOUT, name="dropout_features")(x)
    else:
        for number in range(1, 4):
            x = _convolution(x, number)
        x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(128, activation="relu", name="dense")(x)
    x = keras.layers.Dropout(_DROPOUT, name="dropout")(x)
    # float32 even where the rest computes in half precision: a loss needs the range.
    logits = keras.layers.Dense(head.units, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name=variant)


def _convolution(x: keras.KerasTensor, number: int) -> keras.KerasTensor:
    x = keras.layers.Conv2D(32, 3, name=f"conv_{number}")(x)
    x = keras.layers.MaxPooling2D(2, name=f"pool_{number}")(x)
    # relu commutes with taking a maximum: after the pool it is the same function on a quarter of
    # the values.
    return keras.layers.ReLU(name=f"relu_{number}")(x)


def trainable_parameters(model: keras.Model) -> int:
    """How many numbers training changes."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def describe_layers(model: keras.Model) -> list[dict[str, Any]]:
    """Name, type, output shape (batch left out), parameters, and whether training changes them, of
    every layer.
    """
    return [
        {
            "name": layer.name,
            "type": type(layer).__name__,
            "output_shape": list(layer.output.shape[1:]),
            "parameters": layer.count_params(),
            "trainable": bool(layer.trainable_variables),
        }
        for layer in model.layers
    ]
