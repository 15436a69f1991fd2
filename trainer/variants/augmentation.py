"""Random changes that keep a picture's label: mirrored or not, turned a little; or, stronger, also
moved and zoomed.
"""

import keras

# The notebook's values: a mirror image half of the time, and a turn by up to 0.2 of a full one
# either way.
ROTATION = 0.2

# Animals seldom stand on their heads, but are near or far, anywhere in the picture, in any light:
# measured, see benchmarks/results/accuracy.json.
_STRONG_ROTATION = 0.1
_STRONG_ZOOM = 0.3
_STRONG_SHIFT = 0.1
_STRONG_CONTRAST = 0.3


def augmentation_layers(
    seed: int, *, strong: bool = False, scaled: bool = True
) -> list[keras.Layer]:
    """Makes the layers that change pictures in training and pass them on untouched otherwise.

    Args:
        seed: of their random streams.
        strong: as the recipe `best` does it, not as the notebook.
        scaled: pixels are in [-1, 1], not in 0…255; only `strong` needs to know.

    Returns:
        Keras layers, float32 [N, H, W, 3] in and out.
    """
    flip = keras.layers.RandomFlip("horizontal", seed=seed, name="random_flip")
    if not strong:
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
            value_range=(-1, 1) if scaled else (0, 255),
            seed=seed + 4,
            name="random_contrast",
        ),
    ]
