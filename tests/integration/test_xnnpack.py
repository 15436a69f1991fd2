"""A published model with its network in XNNPACK, against the same one in TensorFlow."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from serving.server.flags import Flags
from serving.server.loading import load
from serving.server.status import StatusError
from serving.server.xnnpack import TOLERANCE, XnnpackModel
from tests.trained_model import draw
from tests.trainer.variants.test_preprocessing import STORED
from trainer.evaluation.calibration import Doubt, learn_familiarity
from trainer.export import saved_model
from trainer.training.features import split_backbone
from trainer.variants.models import build
from trainer.variants.objective import Objective
from whisker_ml import contract


@pytest.fixture(scope="module")
def pair(trained):
    """The trained model by TensorFlow alone, and with its network in XNNPACK."""
    path = str(trained.store / contract.DEFAULT_MODEL_NAME / "1")
    models = (
        load(1, path, Flags(enable_model_warmup=False)),
        load(1, path, Flags(enable_model_warmup=False, xnnpack=True, num_tflite_pools=2)),
    )
    assert isinstance(models[1], XnnpackModel)
    # Their rows are independent, and requests for them are merged.
    assert all(model.merger is not None for model in models)
    yield models
    for model in models:
        model.close()


def answers(model, name, value, aliases=contract.OUTPUTS, timeout_s=None):
    signature = model.signatures[name]
    (source,) = signature.inputs.values()
    values = model.run(
        {source.name: value}, [signature.outputs[one].name for one in aliases], timeout_s
    )
    return dict(zip(aliases, values, strict=True))


def assert_same(expected, actual):
    for alias in contract.OUTPUTS:
        assert actual[alias].shape == expected[alias].shape
        assert actual[alias].dtype == expected[alias].dtype
        if expected[alias].dtype == np.float32:
            assert np.abs(actual[alias] - expected[alias]).max(initial=0) <= TOLERANCE
        else:
            assert actual[alias].tolist() == expected[alias].tolist()


def test_xnnpack_answers_as_tensorflow_does(pair, trained):
    files = sorted(trained.pictures.glob("*/*.jpg"))[::9]
    pictures = np.array([file.read_bytes() for file in files] + [b"", b"rubbish"], object)
    assert any(file.name == "broken.jpg" for file in sorted(trained.pictures.glob("*/*.jpg")))
    for rows in (pictures, pictures[:1], pictures[-1:]):
        assert_same(*(answers(model, contract.SIGNATURE_BYTES, rows) for model in pair))
    pixels = np.random.default_rng(3).uniform(0, 255, [5, 32, 32, 3]).astype(np.float32)
    assert_same(*(answers(model, contract.SIGNATURE_PIXELS, pixels) for model in pair))


def test_answer_is_the_same_however_the_picture_is_stored(pair):
    picture = Image.open(io.BytesIO(draw("cats", 3))).convert("RGB")
    rows = []
    for tag, turn in STORED.items():
        exif = Image.Exif()
        exif[0x0112] = tag
        stored = turn(picture)
        for form, options in (("PNG", {}), ("WEBP", {"lossless": True})):
            buffer = io.BytesIO()
            stored.save(buffer, form, exif=exif, **options)
            rows.append(buffer.getvalue())
    for model in pair:
        answer = answers(model, contract.SIGNATURE_BYTES, np.array(rows, object))
        assert answer[contract.OUTPUT_VALID].all()
        assert len(set(answer[contract.OUTPUT_LABEL].tolist())) == 1
        assert np.ptp(answer[contract.OUTPUT_PROBABILITY]) < TOLERANCE


@pytest.fixture(scope="module")
def unsure(tmp_path_factory):
    """A model that is not sure of some pictures, and the same as one of before was exported."""
    base = tmp_path_factory.mktemp("unsure")
    model = build("transfer", 32, Objective(2), seed=0, backbone="mobilenet_v2_035")
    extractor, _ = split_backbone(model)
    pixels = np.random.default_rng(0).uniform(0, 255, (40, 32, 32, 3)).astype(np.float32)
    features = extractor(pixels, training=False).numpy()
    familiarity = learn_familiarity(features[:20])
    doubt = Doubt(0.0, float(np.median(familiarity.of(features[20:]))), familiarity)
    saved_model.export(model, Objective(2), ["cats", "dogs"], 32, base / "1", doubt=doubt)
    decorate = tf.function

    def of_before(function=None, **options):
        if function is None:
            return lambda function: of_before(function, **options)

        def answer(value):
            found = function(value)
            return {name: found[name] for name in contract.FIRST_OUTPUTS}

        return decorate(answer if "input_signature" in options else function, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tf, "function", of_before)
        saved_model.export(model, Objective(2), ["cats", "dogs"], 32, base / "2")
    models = [
        load(number, str(base / str(number)), Flags(enable_model_warmup=False, xnnpack=xnnpack))
        for number, xnnpack in ((1, False), (1, True), (2, True))
    ]
    yield pixels[20:], models
    for each in models:
        each.close()


def test_xnnpack_is_unsure_of_the_same_pictures(unsure):
    pixels, models = unsure
    assert isinstance(models[1], XnnpackModel)
    found = [answers(model, contract.SIGNATURE_PIXELS, pixels) for model in models[:2]]
    by_tensorflow, by_xnnpack = (each[contract.OUTPUT_UNSURE] for each in found)
    assert 5 < by_tensorflow.sum() < 15
    assert by_tensorflow.tolist() == by_xnnpack.tolist()
    assert answers(models[1], contract.SIGNATURE_BYTES, np.array([b""], object))["unsure"].all()


def test_model_of_before_runs_in_xnnpack_too(unsure):
    pixels, models = unsure
    new, _, before = models
    assert isinstance(before, XnnpackModel)
    assert contract.OUTPUT_UNSURE not in before.signatures[contract.SIGNATURE_PIXELS].outputs
    expected, found = (
        answers(model, contract.SIGNATURE_PIXELS, pixels, contract.FIRST_OUTPUTS)
        for model in (new, before)
    )
    # Random weights are not sure of any label.
    assert np.abs(found["probabilities"] - expected["probabilities"]).max() <= TOLERANCE
    assert set(found["label"].tolist()) <= {b"cats", b"dogs"}


def test_no_picture_gets_an_empty_answer(pair):
    answer = answers(pair[1], contract.SIGNATURE_BYTES, np.array([], object))
    assert [answer[alias].shape for alias in contract.OUTPUTS] == [
        (0,),
        (0,),
        (0, 2),
        (0, 2),
        (0,),
        (0,),
    ]


def test_xnnpack_really_runs_the_network(pair, monkeypatch):
    pixels = np.zeros([3, 32, 32, 3], np.float32)
    monkeypatch.setattr(pair[1], "_model", None)
    assert len(answers(pair[1], contract.SIGNATURE_PIXELS, pixels)["label"]) == 3


def test_pixels_of_another_size_get_tensorflows_answer(pair):
    pixels = np.zeros([1, 16, 16, 3], np.float32)
    texts = []
    for model in pair:
        with pytest.raises(StatusError) as error:
            answers(model, contract.SIGNATURE_PIXELS, pixels)
        texts.append(str(error.value).splitlines()[0])
    assert texts[0] == texts[1]


def test_deadline_that_has_passed_ends_the_xnnpack_run(pair):
    with pytest.raises(StatusError, match="^DEADLINE_EXCEEDED: "):
        answers(
            pair[1], contract.SIGNATURE_PIXELS, np.zeros([1, 32, 32, 3], np.float32), timeout_s=0
        )
