"""The four variants as Keras models that return logits: augmentation, backbone, head."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from trainer.errors import WeightsError
from trainer.variants import BACKBONES, HEADS, VARIANTS, Head, scaling
from trainer.variants.objective import Objective

_DROPOUT = 0.2
_POOLING = {
    "max": keras.layers.GlobalMaxPooling2D,
    "average": keras.layers.GlobalAveragePooling2D,
    # Pooled already, of more than one layer of the backbone.
    "multiscale": keras.layers.Identity,
}

# The notebook's values: a mirror image half of the time, and a turn by up to 0.2 of a full one
# either way.
ROTATION = 0.2

# Animals seldom stand on their heads, but are near or far, anywhere in the picture, in any light:
# measured, see benchmarks/results/scratch.json.
_STRONG_ROTATION = 0.1
_STRONG_ZOOM = 0.3
_STRONG_SHIFT = 0.1
_STRONG_CONTRAST = 0.3


@contextmanager
def _policy(precision: str) -> Iterator[None]:
    """Keras' precision inside the block."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def build(
    variant: str,
    image_size: int,
    objective: Objective,
    *,
    seed: int,
    weights: Path | None = None,
    precision: str = "float32",
    augmentation: str = "light",
    backbone: str = "mobilenet_v2",
    head: Head = HEADS["notebook"],
    for_training: bool = False,
) -> keras.Model:
    """Builds one variant.

    Args:
        variant: a name in `trainer.variants.VARIANTS`.
        image_size: side of the input in pixels.
        objective: says how many logits to end with.
        seed: of the augmentation's random streams.
        weights: a Keras weights file of the backbone, or None for random ones; a variant without
            a backbone does not read it.
        precision: Keras' name of what layers compute in; variables and logits are float32 in any
            case.
        augmentation: ``light``, as in the notebook, or ``strong``.
        backbone: a name in `trainer.variants.BACKBONES`; a variant without one does not read it.
        head: what follows the backbone.
        for_training: makes convolutions that train faster on CPUs, of a layer that is not Keras'
            own; variables and function are the same.

    Returns:
        A model from float32 [N, image_size, image_size, 3] in 0…255 to float32 logits [N,
        objective.units].

    Raises:
        WeightsError: the file does not hold this backbone's weights.
    """
    with _policy(precision):
        inputs = keras.Input((image_size, image_size, 3), name="pixels")
        x = inputs
        properties = VARIANTS[variant]
        scale = scaling(variant, backbone)
        if properties.scaled:
            x = keras.layers.Rescaling(scale.scale, scale.offset, name="rescaling")(x)
        if properties.augmented:
            pixels = scale.range if properties.scaled else (0.0, 255.0)
            for layer in augmentation_layers(seed, augmentation, pixels):
                x = layer(x)
        if properties.backbone:
            # Frozen, and so its BatchNorm statistics stay those that the weights were trained with.
            frozen = make_backbone(backbone, image_size, weights)
            if head.pooling == "multiscale":
                frozen = _multiscale(frozen)
            x = frozen(x, training=False)
            x = _POOLING[head.pooling](name="pool")(x)
            layers = head_layers(head, objective)
        else:
            for number in range(1, 4):
                x = _convolution(x, number, for_training)
            x = keras.layers.Flatten(name="flatten")(x)
            layers = _dense(128, _DROPOUT, objective)
        for layer in layers:
            x = layer(x)
        return keras.Model(inputs, x, name=variant)


def copy_variables(source: keras.Model, target: keras.Model) -> None:
    """Gives a model the values of another's variables; either may be spread over replicas or have
    another precision.
    """
    for value, variable in zip(source.variables, target.variables, strict=True):
        variable.assign(value.value.numpy())


def head_layers(head: Head, objective: Objective) -> list[keras.layers.Layer]:
    """Makes the layers from pooled features, float32 [N, features], to logits."""
    dropout = keras.layers.Dropout(head.dropout, name="dropout_features")
    return [dropout, *_dense(head.units, head.dropout, objective)]


def _dense(units: int, dropout: float, objective: Objective) -> list[keras.layers.Layer]:
    layers = []
    if units:
        layers = [
            keras.layers.Dense(units, activation="relu", name="dense"),
            keras.layers.Dropout(dropout, name="dropout"),
        ]
    # float32 even where the rest computes in half precision: a loss needs the range.
    return [*layers, keras.layers.Dense(objective.units, dtype="float32", name="logits")]


class _BiasAndReLU(keras.layers.Layer):
    """Adds what the convolution before it has not added, then relu."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Makes the bias, as `Conv2D` would."""
        self.bias = self.add_weight(shape=shape[-1:], initializer="zeros", name="bias")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Computes both."""
        return keras.ops.relu(x + self.bias)


def _convolution(x: keras.KerasTensor, number: int, for_training: bool) -> keras.KerasTensor:
    # A bias and relu commute with taking a maximum: after the pool they are the same function on a
    # quarter of the values. TensorFlow merges the gradients of a convolution's kernel and bias into
    # one oneDNN kernel, which takes two to three times as long as that of the kernel alone.
    x = keras.layers.Conv2D(32, 3, use_bias=not for_training, name=f"conv_{number}")(x)
    x = keras.layers.MaxPooling2D(2, name=f"pool_{number}")(x)
    last = _BiasAndReLU if for_training else keras.layers.ReLU
    return last(name=f"relu_{number}")(x)


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


def augmentation_layers(
    seed: int, augmentation: str = "light", pixels: tuple[float, float] = (0.0, 255.0)
) -> list[keras.Layer]:
    """Makes the layers that change pictures in training and pass them on untouched otherwise.

    Args:
        seed: of their random streams.
        augmentation: ``light``, as in the notebook, or ``strong``.
        pixels: least and most of their values; only ``strong`` needs to know.

    Returns:
        Keras layers, float32 [N, H, W, 3] in and out.
    """
    flip = keras.layers.RandomFlip("horizontal", seed=seed, name="random_flip")
    if augmentation == "light":
        return [flip, keras.layers.RandomRotation(ROTATION, seed=seed + 1, name="random_rotation")]
    return [
        flip,
        keras.layers.RandomRotation(_STRONG_ROTATION, seed=seed + 1, name="random_rotation"),
        keras.layers.RandomZoom((-_STRONG_ZOOM, _STRONG_ZOOM), seed=seed + 2, name="random_zoom"),
        keras.layers.RandomTranslation(
            _STRONG_SHIFT, _STRONG_SHIFT, seed=seed + 3, name="random_translation"
        ),
        keras.layers.RandomContrast(
            _STRONG_CONTRAST,
            value_range=pixels,
            seed=seed + 4,
            name="random_contrast",
        ),
    ]


def make_backbone(name: str, image_size: int, weights: Path | None) -> keras.Model:
    """Builds a backbone (no top), frozen.

    Args:
        name: in `trainer.variants.BACKBONES`.
        image_size: side of the input in pixels.
        weights: a Keras weights file, or None for random weights.

    Returns:
        A model from float32 [N, image_size, image_size, 3], scaled as the table says, to float32
        [N, h, w, features].

    Raises:
        WeightsError: the file is missing, no Keras weights file, or one of another architecture.
    """
    row = BACKBONES[name]
    make = getattr(keras.applications, row.constructor)
    shape = (image_size, image_size, 3)
    backbone: keras.Model = make(
        input_shape=shape, include_top=False, weights=None, **row.arguments
    )
    backbone.trainable = False
    if weights is not None:
        try:
            with warnings.catch_warnings():
                # One warning per layer that does not fit says less than the error that follows
                # them.
                warnings.simplefilter("ignore", UserWarning)
                backbone.load_weights(weights)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeightsError(
                f"--base_weights={weights}: cannot be loaded as {name} ({reason}); expected the"
                f" file that keras.applications.{row.constructor} downloads with include_top=False"
            ) from error
    return backbone


def _multiscale(backbone: keras.Model) -> keras.Model:
    """Makes a backbone end with features of two scales, float32 [N, features]: the average of its
    last layer, and those over each quarter of the picture of the last layer that sees it in more
    places. Each scale has mean 0 and variance 1 in every picture, or the first, which varies more,
    would outweigh the other.
    """
    last = backbone.output
    middle = next(
        layer.output
        for layer in reversed(backbone.layers)
        if len(layer.output.shape) == 4
        and layer.output.shape[1] > last.shape[1]
        and not isinstance(layer, keras.layers.ZeroPadding2D)
    )
    side = middle.shape[1]
    # Of an odd side the quarters share a row and a column.
    half = -(-side // 2)
    quarters = keras.layers.AveragePooling2D(half, side - half, name="quarters")(middle)
    scales = [
        keras.layers.GlobalAveragePooling2D(name="whole")(last),
        keras.layers.Flatten(name="quarters_in_a_row")(quarters),
    ]
    scales = [keras.layers.LayerNormalization(center=False, scale=False)(x) for x in scales]
    pooled = keras.Model(
        backbone.input, keras.layers.Concatenate(name="scales")(scales), name=backbone.name
    )
    pooled.trainable = False
    return pooled


def unfreeze_top(model: keras.Model, name: str) -> None:
    """Makes the last blocks of a variant's backbone trainable, all but BatchNorm.

    A BatchNorm layer that may train takes the batch's statistics, however the backbone is called:
    the model's own `training=True` goes through to every layer of it.

    Args:
        model: the variant `transfer`.
        name: of its backbone.
    """
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    backbone.trainable = True
    frozen = True
    for layer in backbone.layers:
        frozen = frozen and layer.name != BACKBONES[name].first_tuned
        layer.trainable = not (frozen or isinstance(layer, keras.layers.BatchNormalization))
