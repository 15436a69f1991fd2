import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import WeightsError
from trainer.variants import VARIANTS, scaling
from trainer.variants.models import build, copy_variables, describe_layers, trainable_parameters
from trainer.variants.objective import Objective


@pytest.fixture(scope="module")
def models():
    keras.utils.set_random_seed(0)
    return {variant: build(variant, 160, Objective(2), seed=0) for variant in VARIANTS}


@pytest.mark.parametrize(
    ("variant", "total", "trainable"),
    [
        ("plain", 1_346_753, 1_346_753),
        ("augmented", 1_346_753, 1_346_753),
        ("preprocessed", 1_346_753, 1_346_753),
        ("transfer", 2_422_081, 164_097),
    ],
)
def test_variant_has_the_parameters_of_the_notebook(models, variant, total, trainable):
    assert (models[variant].count_params(), trainable_parameters(models[variant])) == (
        total,
        trainable,
    )
    assert sum(layer["parameters"] for layer in describe_layers(models[variant])) == total


def test_relu_after_the_pool_is_the_same_function_as_before_it(models):
    pixels = tf.constant(np.random.default_rng(0).uniform(0, 255, (2, 160, 160, 3)), tf.float32)
    by_name = {layer.name: layer for layer in models["plain"].layers}
    x = pixels
    for number in (1, 2, 3):
        x = keras.layers.MaxPooling2D(2)(tf.nn.relu(by_name[f"conv_{number}"](x)))
    x = by_name["logits"](by_name["dense"](by_name["flatten"](x)))
    np.testing.assert_allclose(models["plain"](pixels), x, rtol=1e-5)


@pytest.mark.parametrize("variant", ["plain", "preprocessed"])
def test_model_for_training_has_the_same_variables_and_the_same_function(variant):
    keras.utils.set_random_seed(0)
    trained = build(variant, 32, Objective(2), seed=0, for_training=True)
    keras.utils.set_random_seed(0)
    published = build(variant, 32, Objective(2), seed=0)
    for one, other in zip(trained.variables, published.variables, strict=True):
        np.testing.assert_array_equal(one.value, other.value)
        if one.name == "bias":
            one.assign(np.linspace(-1, 1, one.shape[0]))
    copy_variables(trained, published)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    found = []
    for model in (trained, published):
        with tf.GradientTape() as tape:
            logits = model(pixels, training=False)
        gradients = tape.gradient(logits, [each.value for each in model.trainable_variables])
        found.append([logits, *gradients])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(one).max())


def test_untrained_model_on_scaled_inputs_knows_nothing(models):
    # A sigmoid under a from-logits loss, as in the notebook, begins at 0.724: (-ln s(0.5) - ln(1 -
    # s(0.5))) / 2.
    pixels = np.random.default_rng(0).uniform(0, 255, (64, 160, 160, 3)).astype(np.float32)
    labels = tf.constant(np.arange(64) % 2, tf.int32)
    loss = tf.reduce_mean(Objective(2).loss(labels, models["preprocessed"](pixels, training=False)))
    assert float(loss) == pytest.approx(math.log(2), abs=0.02)


def test_loss_of_a_sure_and_right_model_is_zero():
    assert (
        float(tf.reduce_max(Objective(2).loss(tf.constant([0, 1]), tf.constant([[-30.0], [30.0]]))))
        < 1e-9
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_augmentation_changes_training_pictures_only(models, variant):
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 160, 160, 3)).astype(np.float32)
    model = models[variant]
    # Every picture twice in one batch: augmentation would change the two differently.
    once, again = np.split(model(np.concatenate([pixels, pixels]), training=False), 2)
    np.testing.assert_allclose(once, again, rtol=1e-5, atol=1e-5)
    if VARIANTS[variant].augmented:
        assert np.ptp([model(pixels, training=True) for _ in range(2)], axis=0).max() > 0


@pytest.mark.parametrize("variant", [name for name in VARIANTS if VARIANTS[name].scaled])
def test_inputs_are_scaled_as_the_table_says(models, variant):
    pixels = np.linspace(0, 255, 160 * 160 * 3, dtype=np.float32).reshape(1, 160, 160, 3)
    scaled = models[variant].get_layer("rescaling")(pixels)
    expected = scaling(variant, "mobilenet_v2").range
    assert (np.min(scaled), np.max(scaled)) == pytest.approx(expected, abs=1e-5)


def test_backbone_statistics_stay_as_they_are_in_training(models):
    model = models["transfer"]
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    before = [variable.value.numpy().copy() for variable in backbone.variables]
    model(np.full((2, 160, 160, 3), 200, np.float32), training=True)
    for old, variable in zip(before, backbone.variables, strict=True):
        np.testing.assert_array_equal(old, variable.value)


def test_half_precision_keeps_variables_and_logits_whole(models):
    model = build("preprocessed", 160, Objective(2), seed=0, precision="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32", "the policy is put back"
    assert {layer.compute_dtype for layer in model.layers if layer.name.startswith("conv")} == {
        "bfloat16"
    }
    assert {str(variable.dtype) for variable in model.trainable_variables} == {"float32"}
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 160, 160, 3)).astype(np.float32)
    assert model(pixels).dtype == tf.float32
    copy_variables(model, models["preprocessed"])
    whole = models["preprocessed"](pixels)
    np.testing.assert_allclose(model(pixels), whole, atol=0.02)
    assert np.abs(model(pixels) - whole).max() > 0, "the test needs a difference in precision"


def test_more_classes_get_one_logit_each():
    assert build("plain", 32, Objective(5), seed=0).output_shape == (None, 5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    backbone = keras.applications.MobileNetV2((32, 32, 3), include_top=False, weights=None)
    backbone.save_weights(folder / "right.weights.h5")
    small = keras.applications.MobileNetV2((32, 32, 3), include_top=False, weights=None, alpha=0.35)
    small.save_weights(folder / "other.weights.h5")
    (folder / "text.h5").write_text("not weights")
    (folder / "cut.weights.h5").write_bytes((folder / "right.weights.h5").read_bytes()[:10_000])
    return folder, backbone


def test_weights_file_is_loaded_into_the_backbone(weights):
    folder, expected = weights
    model = build("transfer", 32, Objective(2), seed=0, weights=folder / "right.weights.h5")
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    for one, other in zip(expected.variables, backbone.variables, strict=True):
        np.testing.assert_array_equal(one.value, other.value)


@pytest.mark.parametrize("name", ["other.weights.h5", "text.h5", "cut.weights.h5"])
def test_weights_file_of_something_else_is_refused_with_one_line(weights, name):
    with pytest.raises(WeightsError) as error:
        build("transfer", 32, Objective(2), seed=0, weights=weights[0] / name)
    assert "cannot be loaded as mobilenet_v2 (" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("variant", "low", "high"), [("augmented", 0, 255), ("preprocessed", -1, 1)]
)
def test_strong_augmentation_stays_in_the_range_of_its_pixels(variant, low, high):
    model = build(variant, 32, Objective(2), seed=0, augmentation="strong")
    augment = keras.Model(model.input, model.get_layer("random_contrast").output)
    pixels = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
    once, again = (augment(pixels, training=True).numpy() for _ in range(2))
    assert np.abs(once - again).max() > 0
    assert once.min() >= low
    assert once.max() <= high
    scaled = pixels / 127.5 - 1 if variant == "preprocessed" else pixels
    np.testing.assert_allclose(augment(pixels, training=False), scaled, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_layers_are_what_the_table_says(models, variant):
    properties, names = VARIANTS[variant], {layer.name for layer in models[variant].layers}
    assert ("rescaling" in names) == properties.scaled
    assert ("random_flip" in names) == properties.augmented
    assert any(isinstance(layer, keras.Model) for layer in models[variant].layers) == (
        properties.backbone
    )
    assert "notebook" in properties.recipes
