"""Every backbone that `transfer` can take: what reaches it, what of it is trained, and the whole
way from pictures to an answer.
"""

from unittest.mock import patch

import keras
import numpy as np
import pytest
import tensorflow as tf

from serving.server.flags import Flags
from serving.server.loading import load
from serving.server.xnnpack import TOLERANCE, XnnpackModel
from tests.trained_model import give_statistics, logged, write_pictures
from trainer.config import Config
from trainer.errors import RunStopped, WeightsError
from trainer.pipeline import run
from trainer.training import features
from trainer.training.features import split_backbone
from trainer.variants import BACKBONES, HEADS
from trainer.variants.models import build, trainable_parameters, unfreeze_top
from trainer.variants.objective import Objective
from whisker_ml import contract

SIZE = 32
# Of what black and white become in front of the first convolution: as the weights were trained.
TF_RANGE, TORCH_RANGE = (-1.0, 1.0), (-2.1179, 2.64)
TRAINED_ON = {
    "mobilenet_v2": (keras.applications.mobilenet_v2, TF_RANGE),
    "mobilenet_v2_035": (keras.applications.mobilenet_v2, TF_RANGE),
    "mobilenet_v3_small": (keras.applications.mobilenet_v3, TF_RANGE),
    "mobilenet_v3_large": (keras.applications.mobilenet_v3, TF_RANGE),
    "efficientnet_v2_b0": (keras.applications.efficientnet_v2, TORCH_RANGE),
    "efficientnet_v2_b3": (keras.applications.efficientnet_v2, TORCH_RANGE),
    "resnet50_v2": (keras.applications.resnet_v2, TF_RANGE),
    "convnext_tiny": (keras.applications.convnext, TORCH_RANGE),
    "densenet121": (keras.applications.densenet, TORCH_RANGE),
}

# Some of each kind in `make test`, all of them in `make test-long`.
QUICK = ("mobilenet_v2", "mobilenet_v3_small", "efficientnet_v2_b0")
SOME = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.long) for name in BACKBONES]


def make(name, **options):
    keras.utils.set_random_seed(0)
    return build("transfer", SIZE, Objective(3), seed=0, backbone=name, **options)


def backbone_of(model):
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


@pytest.mark.parametrize("name", SOME)
def test_pixels_reach_a_backbone_as_it_was_trained_on_them(name):
    model = make(name, head=HEADS["multiscale"])
    backbone = backbone_of(model)
    # ConvNeXt's is in a stem of several layers.
    convolutions = keras.layers.Conv2D, keras.Sequential
    first = next(layer for layer in backbone.layers if isinstance(layer, convolutions))
    before = keras.Model(backbone.input, first.input)
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.float32)
    pixels[0, :, : SIZE // 2], pixels[0, :, SIZE // 2 :] = 0, 255
    ours = before(model.get_layer("rescaling")(pixels)).numpy()
    module, (low, high) = TRAINED_ON[name]
    # As Keras documents it: preprocess_input, then the model.
    np.testing.assert_allclose(ours, before(module.preprocess_input(pixels.copy())), atol=1e-5)
    # Some pad with zeros before they convolve.
    assert (ours.min(), ours.max()) == pytest.approx((low, high), abs=1e-3)
    assert model.output_shape == (None, 3)


@pytest.mark.parametrize("name", SOME)
def test_fine_tuning_trains_the_top_and_no_statistics(name):
    model = make(name, head=HEADS["multiscale"])
    backbone = backbone_of(model)
    assert not backbone.trainable_variables
    unfreeze_top(model, name)
    trained = trainable_parameters(backbone)
    assert 0.05 < trained / backbone.count_params() < 0.7
    assert not [
        layer.name
        for layer in backbone.layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    assert backbone.layers[-1].name not in BACKBONES[name].first_tuned


@pytest.mark.parametrize("name", SOME)
def test_multiscale_features_come_from_two_layers(name):
    backbone = backbone_of(make(name, head=HEADS["multiscale"]))
    whole, quarters = backbone.get_layer("whole"), backbone.get_layer("quarters")
    assert quarters.input.shape[1] == 2 * whole.input.shape[1]
    assert quarters.output.shape[1:3] == (2, 2)
    features = whole.output.shape[-1] + 4 * quarters.output.shape[-1]
    assert backbone.output_shape == (None, features)
    plain = backbone_of(make(name))
    assert [v.path for v in backbone.weights] == [v.path for v in plain.weights]


@pytest.mark.parametrize("size", [64, 100])  # maps of 4 and of 7 places on a side
def test_multiscale_features_are_averages_of_the_whole_and_of_quarters(size):
    model = build("transfer", size, Objective(2), seed=0, head=HEADS["multiscale"])
    backbone = backbone_of(model)
    give_statistics(backbone, np.random.default_rng(1).uniform(0, 255, (16, size, size, 3)))
    maps = [backbone.get_layer(name).input for name in ("whole", "quarters")]
    pixels = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype(np.float32)
    last, middle = keras.Model(backbone.input, maps)(model.get_layer("rescaling")(pixels))
    half = -(-middle.shape[1] // 2)
    halves = (slice(None, half), slice(-half, None))
    quarters = [np.mean(middle[:, rows, columns], (1, 2)) for rows in halves for columns in halves]
    scales = [np.mean(last, (1, 2)), np.concatenate(quarters, axis=1)]
    expected = [
        (scale - scale.mean(1, keepdims=True)) / np.sqrt(scale.var(1, keepdims=True) + 1e-3)
        for scale in scales
    ]
    found = split_backbone(model)[0](pixels)
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), atol=1e-3)


def test_weights_of_another_backbone_are_refused_in_one_line(tmp_path):
    file = tmp_path / "other.weights.h5"
    small = keras.applications.MobileNetV3Small((SIZE, SIZE, 3), include_top=False, weights=None)
    small.save_weights(file)
    make("mobilenet_v3_small", weights=file)
    for name in ("mobilenet_v3_large", "mobilenet_v2"):
        with pytest.raises(WeightsError) as error:
            make(name, weights=file)
        assert f"cannot be loaded as {name} (" in str(error.value)
        assert f"keras.applications.{BACKBONES[name].constructor} downloads" in str(error.value)
        assert "\n" not in str(error.value)


class Pixels:
    """A few pictures, as `Examples` gives them."""

    def __init__(self, count):
        generator = np.random.default_rng(0)
        self._pixels = generator.integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)

    def indices(self, _):
        return np.arange(len(self._pixels))

    def pictures(self, indices):
        return self._pixels[indices]


def chosen(extractor):
    # As on a machine without a GPU.
    with patch.object(features, "preferred_backends", lambda _: ["XNNPACK", "TensorFlow"]):
        return features.fastest_backend(extractor, Pixels(8))[0]


def test_backbone_that_xnnpack_computes_otherwise_is_left_to_tensorflow(monkeypatch):
    extractor, _ = split_backbone(make("mobilenet_v3_small"))
    with logged() as lines:
        assert chosen(extractor) == "XNNPACK"
    assert not lines
    monkeypatch.setattr(features, "BACKENDS_BOUND", -1.0)
    with logged() as lines:
        assert chosen(extractor) == "TensorFlow"
    (line,) = lines
    assert line.startswith("XNNPACK cannot run this backbone (off by ")
    assert line.endswith("; TensorFlow does, more slowly")


def test_request_to_stop_is_no_failure_of_xnnpack(monkeypatch):
    def stopped(_):
        raise RunStopped("stopped")

    monkeypatch.setitem(features.BACKENDS, "XNNPACK", stopped)
    with pytest.raises(RunStopped):
        chosen(None)


def test_backbone_that_xnnpack_cannot_run_is_left_to_tensorflow():
    # An operation that TensorFlow Lite has not.
    inputs = keras.Input((SIZE, SIZE, 3))
    strange = keras.layers.Lambda(lambda x: tf.raw_ops.Betainc(a=x * 0 + 1, b=x * 0 + 1, x=x / 256))
    extractor = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(strange(inputs)))
    with logged() as lines:
        assert chosen(extractor) == "TensorFlow"
    assert lines[-1].startswith("XNNPACK cannot run this backbone (")
    assert "\n" not in lines[-1]


@pytest.mark.long
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_goes_the_whole_way(name, tmp_path):
    pictures = write_pictures(tmp_path / "pictures", ("cats", "dogs", "mice"), per_class=20)
    config = Config(
        data=str(pictures),
        variant="transfer",
        backbone=name,
        base_weights="none",
        image_size=SIZE,
        epochs=1,
        fine_tune_epochs=1,
        run_dir=str(tmp_path / "run"),
        model_dir=str(tmp_path / "models"),
        gate="off",  # random weights
    )
    with logged() as lines:
        result = run(config, downloads=tmp_path / "downloads")
    # Verified on a server over gRPC and REST before it was published.
    assert (result["model_version"], result["verification"]["flips"]) == (1, 0)
    assert any("computed with XNNPACK" in line for line in lines)
    assert result["config"]["backbone"] == name
    path = result["model_path"]
    answers = []
    for options in (
        Flags(enable_model_warmup=False),
        Flags(enable_model_warmup=False, xnnpack=True),
    ):
        model = load(1, path, options)
        signature = model.signatures[contract.SIGNATURE_BYTES]
        (source,) = signature.inputs.values()
        picture = next(pictures.glob("*/*.jpg")).read_bytes()
        output = signature.outputs[contract.OUTPUT_PROBABILITIES].name
        (probabilities,) = model.run({source.name: np.array([picture], object)}, [output], None)
        answers.append(probabilities)
        xnnpack = isinstance(model, XnnpackModel)
        model.close()
    assert xnnpack
    np.testing.assert_allclose(*answers, atol=TOLERANCE)
