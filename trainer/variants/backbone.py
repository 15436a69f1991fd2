"""MobileNetV2 as a frozen feature extractor, with weights from a file in Keras' own layout."""

import warnings
from pathlib import Path

import keras

from trainer.errors import WeightsError

# Fine-tuning changes the last three inverted residual blocks and what follows them.
_FIRST_TUNED = "block_14_expand"


def mobilenet_v2(image_size: int, weights: Path | None) -> keras.Model:
    """Builds MobileNetV2 (width 1.0, no top), frozen.

    Args:
        image_size: side of the input in pixels.
        weights: a Keras weights file, or None for random weights.

    Returns:
        A model from float32 [N, image_size, image_size, 3] in [-1, 1] to float32 [N, h, w, 1280].

    Raises:
        WeightsError: the file is missing, no Keras weights file, or one of another architecture.
    """
    backbone = keras.applications.MobileNetV2(
        (image_size, image_size, 3), include_top=False, weights=None
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
                f"--base_weights={weights}: cannot be loaded as MobileNetV2 1.0 without top"
                f" ({reason}); expected the file that"
                " keras.applications.MobileNetV2(include_top=False) downloads"
            ) from error
    return backbone


def unfreeze_top(model: keras.Model) -> None:
    """Makes the last blocks of a variant's backbone trainable, all but BatchNorm.

    A BatchNorm layer that may train takes the batch's statistics, however the backbone is called:
    the model's own `training=True` goes through to every layer of it.

    Args:
        model: the variant `transfer`.
    """
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    backbone.trainable = True
    frozen = True
    for layer in backbone.layers:
        frozen = frozen and layer.name != _FIRST_TUNED
        layer.trainable = not (frozen or isinstance(layer, keras.layers.BatchNormalization))
