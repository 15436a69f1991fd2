import keras
import numpy as np
import pytest

from trainer.config import Config
from trainer.errors import TrainingError
from trainer.training import check_start
from trainer.variants.models import build
from trainer.variants.objective import Objective


class Pictures:
    def __init__(self, pixels):
        self._pixels = pixels

    def indices(self, _):
        return np.arange(len(self._pixels))

    def pictures(self, indices):
        return self._pixels[indices]

    def labels(self, indices):
        return (indices % 2).astype(np.int32)


@pytest.fixture(scope="module")
def pictures():
    return Pictures(np.random.default_rng(0).integers(0, 255, (16, 32, 32, 3)).astype(np.uint8))


@pytest.mark.parametrize("variant", ["plain", "augmented", "preprocessed", "transfer"])
def test_variants_as_they_are_pass(pictures, variant):
    keras.utils.set_random_seed(0)
    check_start(
        build(variant, 32, Objective(2), seed=0), Objective(2), pictures, Config(variant=variant)
    )


def test_untrained_head_on_strong_features_passes(pictures):
    # Logits of 5 for every picture, as an untrained head gives the features of ImageNet weights.
    model = build("transfer", 32, Objective(2), seed=0)
    logits = model.get_layer("logits")
    logits.bias.assign(np.full(logits.bias.shape, 5.0))
    check_start(model, Objective(2), pictures, Config(variant="transfer"))


def model_of(*layers):
    return keras.Sequential([keras.Input((32, 32, 3)), *layers])


RESCALING = keras.layers.Rescaling(1 / 127.5, offset=-1, name="rescaling")


def test_augmented_validation_is_found(pictures):
    class Noise(keras.layers.Layer):
        def call(self, x):
            return x + keras.random.normal(keras.ops.shape(x))

    model = model_of(RESCALING, Noise(), keras.layers.Flatten(), keras.layers.Dense(1))
    with pytest.raises(
        TrainingError, match="the same pictures give another answer each time, as if augmented"
    ):
        check_start(model, Objective(2), pictures, Config())


def test_logits_far_from_chance_are_found(pictures):
    model = model_of(
        RESCALING,
        keras.layers.Flatten(),
        keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(50.0)),
    )
    with pytest.raises(
        TrainingError, match="the loss before training is .*, expected about ln 2 = 0.69"
    ):
        check_start(model, Objective(2), pictures, Config())


def test_inputs_scaled_twice_are_found(pictures):
    twice = keras.layers.Rescaling(1 / 127.5**2, offset=-1, name="rescaling")
    model = model_of(
        twice, keras.layers.Flatten(), keras.layers.Dense(1, kernel_initializer="zeros")
    )
    with pytest.raises(
        TrainingError, match="inputs are scaled to -1.00 … -0.98, expected within -1 … 1"
    ):
        check_start(model, Objective(2), pictures, Config())
