import json
import resource
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trained_model import draw
from trainer.errors import RunError
from trainer.evaluation.calibration import Doubt, learn_familiarity
from trainer.export import saved_model
from trainer.export.saved_model import export, measure
from trainer.training.checkpoints import writing
from trainer.training.features import split_backbone
from trainer.training.observers import show_pictures
from trainer.variants import preprocessing
from trainer.variants.models import build
from trainer.variants.objective import Objective
from trainer.variants.preprocessing import decode_and_resize
from whisker_ml import contract

CLASSES, SIZE = ["ape", "bär", "c<at>"], 32
HEAD = Objective(len(CLASSES), temperature=2.5)

# Runs where the project cannot be imported: None in sys.modules makes every attempt an ImportError.
ELSEWHERE = """
import json, sys
sys.modules["trainer"] = sys.modules["serving"] = None
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
answers = []
for count in (1, 3):
    pictures = [open(path, "rb").read() for path in sys.argv[2:]] * count
    given = loaded.signatures["serving_default"](image_bytes=tf.constant(pictures))
    numbers = {name: tensor for name, tensor in given.items() if tensor.dtype != tf.string}
    answers.append({name: tensor.numpy().tolist() for name, tensor in numbers.items()})
    answers[-1]["label"] = [label.decode() for label in given["label"].numpy()]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    keras.utils.set_random_seed(0)
    model = build("preprocessed", SIZE, Objective(len(CLASSES)), seed=0)
    export(model, HEAD, CLASSES, SIZE, folder / "export")
    return folder / "export", model


@pytest.fixture(scope="module")
def signatures(exported):
    return tf.saved_model.load(str(exported[0])).signatures


def test_graph_of_bytes_is_made_once_to_be_saved_and_called(exported, tmp_path, monkeypatch):
    made = []

    def decode_batch(*arguments):
        made.append(arguments)
        return preprocessing.decode_batch(*arguments)

    monkeypatch.setattr(saved_model, "decode_batch", decode_batch)
    answer = export(exported[1], HEAD, CLASSES, SIZE, tmp_path / "export")
    assert answer(tf.constant([draw("ape", 1)]))[contract.OUTPUT_VALID].numpy().all()
    assert len(made) == 1


def test_signatures_are_those_of_the_contract(signatures):
    assert set(signatures) == {contract.SIGNATURE_BYTES, contract.SIGNATURE_PIXELS}
    for name, key, dtype in (
        (contract.SIGNATURE_BYTES, contract.INPUT_BYTES, tf.string),
        (contract.SIGNATURE_PIXELS, contract.INPUT_PIXELS, tf.float32),
    ):
        signature = signatures[name]
        (given,) = signature.structured_input_signature[1].items()
        assert (given[0], given[1].dtype) == (key, dtype)
        assert {
            name: (tensor.dtype, tensor.shape.rank)
            for name, tensor in signature.structured_outputs.items()
        } == {
            contract.OUTPUT_LABEL: (tf.string, 1),
            contract.OUTPUT_PROBABILITY: (tf.float32, 1),
            contract.OUTPUT_PROBABILITIES: (tf.float32, 2),
            contract.OUTPUT_CLASSES: (tf.string, 2),
            contract.OUTPUT_VALID: (tf.bool, 1),
            contract.OUTPUT_UNSURE: (tf.bool, 1),
        }


def test_answers_are_those_of_the_trained_model(exported, signatures):
    pictures = [draw(label, number) for label in CLASSES for number in range(3)]
    given = signatures[contract.SIGNATURE_BYTES](image_bytes=tf.constant(pictures))
    pixels = np.stack(
        [decode_and_resize(tf.constant(picture), SIZE) for picture in pictures]
    ).astype(np.float32)
    expected = tf.nn.softmax(exported[1](pixels, training=False) / 2.5).numpy()
    np.testing.assert_allclose(given[contract.OUTPUT_PROBABILITIES], expected, atol=1e-6)
    labels = [label.decode() for label in given[contract.OUTPUT_LABEL].numpy()]
    assert labels == [CLASSES[best] for best in expected.argmax(axis=1)]
    np.testing.assert_allclose(given[contract.OUTPUT_PROBABILITY], expected.max(axis=1), atol=1e-6)
    assert [name.decode() for name in given[contract.OUTPUT_CLASSES].numpy()[4]] == CLASSES
    by_pixels = signatures[contract.SIGNATURE_PIXELS](pixels=tf.constant(pixels))
    np.testing.assert_allclose(by_pixels[contract.OUTPUT_PROBABILITIES], expected, atol=1e-6)


def test_bytes_that_are_no_picture_get_an_empty_answer_beside_good_ones(signatures):
    given = signatures[contract.SIGNATURE_BYTES](
        image_bytes=tf.constant([b"rubbish", draw("ape", 1)])
    )
    assert given[contract.OUTPUT_VALID].numpy().tolist() == [False, True]
    assert given[contract.OUTPUT_UNSURE].numpy().tolist() == [True, False]
    assert given[contract.OUTPUT_LABEL].numpy()[0] == b""
    assert given[contract.OUTPUT_PROBABILITY].numpy()[0] == 0
    assert not given[contract.OUTPUT_PROBABILITIES].numpy()[0].any()
    assert given[contract.OUTPUT_PROBABILITIES].numpy()[1].sum() == pytest.approx(1)


@pytest.mark.parametrize("variant", ["preprocessed", "transfer"])
def test_answer_is_unsure_below_its_threshold(variant, exported, tmp_path):
    pictures = np.random.default_rng(0).uniform(0, 255, (24, SIZE, SIZE, 3)).astype(np.float32)
    # From plain to loud, or a random backbone would give all the same features.
    pixels = (
        pictures * np.linspace(0.1, 1, 24, dtype=np.float32)[:, np.newaxis, np.newaxis, np.newaxis]
    )
    if variant == "transfer":
        model = build("transfer", SIZE, Objective(3), seed=0)
        features = split_backbone(model)[0](pixels, training=False).numpy()
        familiarity = learn_familiarity(features[::4])
        scores = familiarity.of(features).numpy()
        doubt = Doubt(0.0, float(np.median(scores)), familiarity)
        threshold = doubt.lowest_familiarity
    else:
        model = exported[1]
        scores = HEAD.probabilities(model(pixels, training=False)).numpy().max(axis=1)
        doubt = Doubt(float(np.median(scores)))
        threshold = doubt.lowest_probability
    export(model, HEAD, CLASSES, SIZE, tmp_path / "export", doubt=doubt)
    signature = tf.saved_model.load(str(tmp_path / "export")).signatures["pixels"]
    unsure = signature(pixels=tf.constant(pixels))[contract.OUTPUT_UNSURE].numpy()
    assert 0 < unsure.sum() < len(pixels)
    apart = np.abs(scores - threshold) > 1e-5
    assert apart.sum() > len(pixels) / 2
    assert (unsure == (scores < threshold))[apart].all()


def test_model_answers_in_a_process_that_cannot_import_the_project(exported, signatures, tmp_path):
    paths = [tmp_path / "1.jpg", tmp_path / "2.jpg"]
    for number, path in enumerate(paths):
        path.write_bytes(draw("ape", number))
    ended = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(exported[0]), *map(str, paths)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    two, six = json.loads(ended.stdout)
    here = signatures[contract.SIGNATURE_BYTES](
        image_bytes=tf.constant([path.read_bytes() for path in paths])
    )
    np.testing.assert_allclose(two["probabilities"], here["probabilities"], atol=1e-6)
    np.testing.assert_allclose(six["probabilities"], two["probabilities"] * 3, atol=1e-6)
    assert six["label"] == two["label"] * 3


def test_failed_export_leaves_the_old_one(exported, tmp_path, monkeypatch):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "old").touch()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        export(exported[1], Objective(3), CLASSES, SIZE, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    assert (folder / "old").exists()


def test_cost_counts_bytes_and_every_call(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "data").write_bytes(b"12345")
    (tmp_path / "graph").write_bytes(b"123")
    asked = []
    found = measure(
        tmp_path, lambda pictures: asked.append(pictures.numpy().tolist()), [b"a", b"b"]
    )
    assert asked == [[b"a"], [b"a"], [b"b"]]
    assert (found["size_bytes"], found["calls"]) == (8, 2)
    assert 0 < found["latency_ms"] < 1000


@pytest.mark.parametrize("written", ["export", "tensorboard"])
def test_disk_that_is_full_is_one_line_whoever_writes(exported, tmp_path, written):
    folder = tmp_path / written
    writes = {
        "export": lambda: export(exported[1], HEAD, CLASSES, SIZE, folder),
        "tensorboard": lambda: show_pictures(tmp_path, folder, 0),
    }
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(RunError) as error, writing(str(folder)):
        try:
            # Every file is too large, as on a disk without any space.
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, unlimited[1]))
            writes[written]()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert str(error.value).startswith(f"{folder} cannot be written (")
    assert str(error.value).endswith("; free space and give the same command again")
    assert "File too large" in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob(".*"))


def test_export_of_a_run_that_resumes_stays_as_it_is(exported, tmp_path):
    _, model = exported
    export(model, HEAD, CLASSES, SIZE, tmp_path / "export", keep=True)
    graph = tmp_path / "export" / "saved_model.pb"
    graph.write_bytes(b"as it is")
    # A killed run leaves what it was writing.
    (tmp_path / ".export" / "variables").mkdir(parents=True)
    export(model, HEAD, CLASSES, SIZE, tmp_path / "export", keep=True)
    assert graph.read_bytes() == b"as it is"
    export(model, HEAD, CLASSES, SIZE, tmp_path / "export")
    assert graph.read_bytes() != b"as it is"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
