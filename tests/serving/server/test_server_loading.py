"""What happens to a version while it is loaded: warm-up, and which runtime it gets."""

import json
import logging
import queue
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from serving.server import servable
from serving.server.flags import Flags
from serving.server.loading import load
from serving.server.model_server import serve
from serving.server.status import StatusError
from tests.serving.server.asking import Client, request, wait_until
from tests.serving.server.heads import CLASSIFY, REGRESS, export_heads, given

ONE = np.array([[1]], np.float32)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    path = tmp_path_factory.mktemp("heads") / "1"
    export_heads(path)
    return path


@pytest.fixture
def version(heads, tmp_path):
    """A copy that a test may add to."""
    path = tmp_path / "1"
    shutil.copytree(heads, path)
    (path / "assets.extra").mkdir()
    return path


def spec(signature):
    return {"name": "heads", "signature_name": signature, "version": {"value": 7}}


PREDICT_LOG = PredictionLog(
    predict_log={"request": request("heads", {"x": ONE}, version={"value": 7})}
)
OTHER_LOGS = [
    PredictionLog(classify_log={"request": {"model_spec": spec("classify"), "input": given(1)}}),
    PredictionLog(regress_log={"request": {"model_spec": spec("regress"), "input": given(1)}}),
    PredictionLog(
        multi_inference_log={
            "request": {
                "tasks": [
                    {"model_spec": spec("classify"), "method_name": CLASSIFY},
                    {"model_spec": spec("regress"), "method_name": REGRESS},
                ],
                "input": given(1),
            }
        }
    ),
    PredictionLog(),
]


def write_records(version, *records):
    with tf.io.TFRecordWriter(f"{version}/assets.extra/tf_serving_warmup_requests") as writer:
        for record in records:
            writer.write(record if isinstance(record, bytes) else record.SerializeToString())


def refusal(version, **options):
    with pytest.raises(StatusError) as error:
        load(1, str(version), Flags(**options))
    return str(error.value)


@pytest.mark.parametrize(("iterations", "runs"), [(1, 4), (3, 12)])
def test_records_of_every_method_are_answered_while_loading(
    version, monkeypatch, iterations, runs, caplog
):
    write_records(version, PREDICT_LOG, *OTHER_LOGS)
    counted = []
    run = servable.SavedModel.run
    monkeypatch.setattr(
        servable.SavedModel, "run", lambda self, *rest: counted.append(1) or run(self, *rest)
    )
    with caplog.at_level(logging.INFO):
        load(1, str(version), Flags(num_request_iterations_for_warmup=iterations)).close()
    assert len(counted) == runs
    assert "Number of warmup records read: 5" in caplog.text


def test_version_without_records_says_where_they_would_be(heads, caplog):
    with caplog.at_level(logging.INFO):
        load(1, str(heads), Flags()).close()
    assert (
        f"No warmup data file found at {heads}/assets.extra/tf_serving_warmup_requests"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [PREDICT_LOG, PredictionLog(regress_log={"request": {"model_spec": spec("regress")}})],
            "INVALID_ARGUMENT: Input is empty.",
        ),
        ([PredictionLog(session_run_log={})], "UNIMPLEMENTED: Unsupported log_type for warmup: 5"),
        ([b"\x0a\xff"], "INVALID_ARGUMENT: Failed to parse warmup record: "),
        (
            [PredictionLog()] * 1001,
            "INVALID_ARGUMENT: Number of warmup records exceeds the maximum (1000) at ",
        ),
        (
            [PredictionLog(multi_inference_log={})],
            "INVALID_ARGUMENT: ModelSpec has no name specified.",
        ),
    ],
    ids=["a request that fails", "another kind", "no PredictionLog", "too many", "no tasks"],
)
def test_record_that_fails_fails_the_load(version, records, message):
    write_records(version, *records)
    assert refusal(version).startswith(message)
    load(1, str(version), Flags(enable_model_warmup=False)).close()


def test_a_thousand_records_are_not_too_many(version):
    write_records(version, *[PredictionLog()] * 1000)
    load(1, str(version), Flags()).close()


def test_warm_up_file_that_is_no_tfrecord_is_named_as_such(version):
    (version / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"rubbish" * 10)
    text = refusal(version)
    assert text.startswith("DATA_LOSS: corrupted record at 0")
    assert text.endswith(". Please verify your warmup data is in TFRecord format.")


class Sum(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def row(self, x):
        return {"sum": tf.reduce_sum(x, axis=1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="x")])
    def double(self, x):
        return {"sum": 2 * x}

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.float32)]
    )
    def add(self, x, y):
        return {"sum": x + y}


@pytest.fixture(scope="module")
def lite(tmp_path_factory, heads):
    """A version with a `model.tflite` of two signatures beside its SavedModel."""
    path = shutil.copytree(heads, tmp_path_factory.mktemp("lite") / "1")
    module = Sum()
    signatures = {"serving_default": module.row, "double": module.double, "add": module.add}
    tf.saved_model.save(module, str(path.parent / "sum"), signatures)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(path.parent / "sum"), signature_keys=list(signatures)
    )
    (path / "model.tflite").write_bytes(converter.convert())
    return path


def lite_answer(model, signature, **values):
    chosen = model.signatures[signature]
    feeds = {chosen.inputs[alias].name: value for alias, value in values.items()}
    (answer,) = model.run(feeds, [chosen.outputs["sum"].name], None)
    return answer.tolist()


def test_tflite_model_is_served_with_its_own_signatures_where_preferred(lite):
    model = load(1, str(lite), Flags(prefer_tflite_model=True))
    assert sorted(model.signatures) == ["add", "double", "serving_default"]
    inputs = model.signatures["serving_default"].inputs["x"]
    assert (inputs.dtype, [one.size for one in inputs.tensor_shape.dim]) == (
        tf.float32.as_datatype_enum,
        [-1, 2],
    )
    for rows in (1, 3, 1, 0):
        values = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
        assert lite_answer(model, "serving_default", x=values) == values.sum(axis=1).tolist()
    assert lite_answer(model, "double", x=np.array([4], np.int32)) == [8]
    model.close()
    plain = load(1, str(lite), Flags())
    assert "classify" in plain.signatures
    plain.close()


def test_tflite_signatures_may_run_together(lite):
    # As MultiInference asks for those of several tasks.
    model = load(1, str(lite), Flags(prefer_tflite_model=True))
    row, double = model.signatures["serving_default"], model.signatures["double"]
    feeds = {
        row.inputs["x"].name: np.ones((1, 2), np.float32),
        double.inputs["x"].name: np.array([4], np.int32),
    }
    sums = [signature.outputs["sum"].name for signature in (double, row)]
    assert [value.tolist() for value in model.run(feeds, sums, None)] == [[8], [2.0]]
    model.close()


def test_run_that_an_interpreter_refuses_is_an_internal_error(lite):
    model = load(1, str(lite), Flags(prefer_tflite_model=True))
    two = np.ones(2, np.float32)
    with pytest.raises(StatusError, match="^INTERNAL: Failed to run interpreter. "):
        lite_answer(model, "add", x=two, y=np.ones(3, np.float32))
    assert lite_answer(model, "add", x=two, y=two) == [2.0, 2.0]
    model.close()


def test_tflite_file_that_is_rubbish_is_refused(version):
    (version / "model.tflite").write_bytes(b"rubbish" * 100)
    text = refusal(version, prefer_tflite_model=True)
    assert text.startswith("INVALID_ARGUMENT: Cannot build Interpreter from buffer. ")


def test_model_that_is_not_whiskers_is_served_by_tensorflow_with_the_reason(heads, caplog):
    model = load(1, str(heads), Flags(xnnpack=True))
    assert isinstance(model, servable.SavedModel)
    assert (
        f"{heads} is served by TensorFlow alone: it does not have the signatures of a Whisker model"
        in caplog.text
    )
    assert model.merger is None
    model.close()


def test_flags_reach_loading_and_answers(lite, tmp_path, caplog):
    (lite / "assets.extra").mkdir()
    value = {"x": np.array([[1, 2]], np.float32)}
    write_records(lite, PredictionLog(predict_log={"request": request("any", value)}))
    flags = Flags(
        model_base_path=str(lite.parent),
        ports_file=str(tmp_path / "ports.json"),
        prefer_tflite_model=True,
        num_request_iterations_for_warmup=2,
        enable_serialization_as_tensor_content=True,
    )
    stop = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as thread, caplog.at_level(logging.INFO):
        served = thread.submit(serve, flags, stop)
        wait_until(lambda: (tmp_path / "ports.json").exists() or served.done())
        client = Client(**json.loads((tmp_path / "ports.json").read_text()))
        outputs = client.predict(request("default", value)).outputs
        assert (outputs["sum"].tensor_content, list(outputs["sum"].float_val)) == (
            np.float32(3).tobytes(),
            [],
        )
        client.channel.close()
        stop.put(signal.SIGTERM)
        assert served.result(30)
    assert "Number of warmup records read: 1" in caplog.text


def test_a_pool_is_an_interpreter(lite):
    model = load(1, str(lite), Flags(prefer_tflite_model=True, num_tflite_pools=3))
    assert model._interpreters._idle.qsize() == 3
    model.close()


def test_tags_are_parted_by_commas(heads):
    assert "with tags 'serve', 'gpu'" in refusal(heads, saved_model_tags="serve,gpu")
