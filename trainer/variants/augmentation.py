"""Random changes that keep a picture's label: mirrored or not, and turned a little."""

import keras

# The notebook's values: a mirror image half of the time, and a turn by up to 0.2 of a full one either way.
ROTATION = 0.2


def augmentation_layers(seed: int) -> list[keras.Layer]:
    """Makes the layers that change pictures in training and pass them on untouched otherwise.

    Args:
        seed: of their random streams.

    Returns:
        Keras layers, float32 [N, H, W, 3] in and out.
    """
    return [
        keras.layers.RandomFlip("horizontal", seed=seed, name="random_flip"),
        keras.layers.RandomRotation(ROTATION, seed=seed + 1, name="random_rotation"),
    ]
