import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest

from serving.server import tensors
from serving.server.loading import load_saved_model as load
from serving.server.servable import MOST_ROWS, Merger
from serving.server.status import StatusError, invalid_argument
from tests.serving.server.asking import refusal as refused
from tests.serving.server.asking import request, running, wait_until


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported / "half" / "1", tmp_path / "1")


def refusal(path, **options):
    with pytest.raises(StatusError) as error:
        load(1, str(path), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folder_without_saved_model_is_not_found(copy):
    (copy / "saved_model.pb").unlink()
    assert (
        refusal(copy)
        == "NOT_FOUND: Could not find SavedModel .pb or .pbtxt at supplied export directory path:"
        f" {copy}"
    )


def test_version_in_text_form_is_served(copy):
    graph = SavedModel.FromString((copy / "saved_model.pb").read_bytes())
    (copy / "saved_model.pbtxt").write_text(text_format.MessageToString(graph))
    (copy / "saved_model.pb").unlink()
    load(1, str(copy)).close()


def test_version_without_variables_index_is_refused_as_incomplete(copy):
    (copy / "variables" / "variables.index").unlink()
    assert refusal(copy).startswith(
        f"FAILED_PRECONDITION: {copy} is incomplete: variables/variables.index is missing. Copy the"
        " whole version"
    )


def test_version_without_variables_data_is_refused(copy):
    (copy / "variables" / "variables.data-00000-of-00001").unlink()
    assert "variables.data-00000-of-00001; No such file or directory" in refusal(copy)


def test_saved_model_that_is_rubbish_is_refused(copy):
    (copy / "saved_model.pb").write_bytes(b"rubbish")
    assert refusal(copy).startswith(f"UNKNOWN: {copy} cannot be loaded: Cannot parse file")


def test_metagraph_with_other_tags_is_refused(copy):
    assert "with available tags '[{'serve'}]'" in refusal(copy, tags=("gpu", "serve"))


def test_run_that_takes_too_long_ends_with_deadline_exceeded(exported):
    probe = load(1, f"{exported}/probe/1")
    wait = probe.signatures["wait"]
    feeds = {wait.inputs["x"].name: np.zeros(1, np.float32)}
    start = time.monotonic()
    with pytest.raises(StatusError, match="^DEADLINE_EXCEEDED: "):
        probe.run(feeds, [wait.outputs["x"].name], timeout_s=0.1)
    assert 0.1 <= time.monotonic() - start < 3
    probe.close()


def encoded(array, **options):
    proto = TensorProto()
    tensors.encode(array, proto, **options)
    return proto


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "complex64"]
)
def test_every_number_survives_the_way_out_and_back_in_typed_fields(dtype):
    array = np.array([[0, 1.5, 7]]).astype(dtype)
    proto = encoded(array)
    assert proto.tensor_content == b""
    back = tensors.decode("x", proto)
    assert (back.dtype, back.tolist()) == (array.dtype, array.tolist())


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "uint64", "bool", "complex128"]
)
def test_content_is_written_where_it_is_asked_for(dtype):
    array = np.array([[0, 1, 7]]).astype(dtype)
    proto = encoded(array, as_content=True)
    assert proto.tensor_content == array.tobytes()
    assert tensors.decode("x", proto).tolist() == array.tolist()
    assert list(encoded(np.array([b"a"], object), as_content=True).string_val) == [b"a"]


def test_strings_and_bools_use_their_fields():
    proto = encoded(np.array([b"a\x00", b""], dtype=object))
    assert list(proto.string_val) == [b"a\x00", b""]
    assert tensors.decode("x", proto).tolist() == [b"a\x00", b""]
    assert list(encoded(np.array([True, False])).bool_val) == [True, False]


@pytest.mark.parametrize(
    "text",
    [
        'dtype: DT_FLOAT tensor_shape { dim { size: -1 } } tensor_content: "abcd"',
        'dtype: DT_FLOAT tensor_shape { dim { size: 2 } } tensor_content: "abcd"',
        'dtype: DT_STRING tensor_shape { dim { size: 1 } } tensor_content: "a"',
        "dtype: DT_RESOURCE tensor_shape { dim { size: 1 } }",
        "dtype: DT_FLOAT tensor_shape { dim { size: 1125899906842624 } } float_val: 1",
        "tensor_shape { dim { size: 1 } } float_val: 1",
    ],
)
def test_tensor_that_does_not_fit_together_is_refused(text):
    with pytest.raises(StatusError, match="^INVALID_ARGUMENT: tensor parsing error: x$"):
        tensors.decode("x", text_format.Parse(text, TensorProto()))


v1 = tf.compat.v1
FLOATS = tf.TensorSpec([None], tf.float32, name="x")


def add_one(x):
    return x + 1


class Calls(tf.Module):
    @tf.function(input_signature=[FLOATS])
    def eager(self, x):
        return {"y": tf.py_function(add_one, [x], tf.float32)}

    @tf.function(input_signature=[FLOATS])
    def numpy(self, x):
        return {"y": tf.numpy_function(add_one, [x], tf.float32)}

    @tf.function(input_signature=[FLOATS])
    def inside(self, x):
        def body(row):
            called = tf.numpy_function(add_one, [row], tf.float32, stateful=False)
            return tf.cond(row > 0, lambda: called, lambda: row)

        return {"y": tf.map_fn(body, x)}

    @tf.function(input_signature=[FLOATS])
    def plain(self, x):
        return {"y": x + 1}


@pytest.fixture(scope="module")
def calling(tmp_path_factory, exported):
    """`half`, and a model for each function of `Calls`; all are in each one's graph."""
    root = tmp_path_factory.mktemp("calls")
    shutil.copytree(exported / "half", root / "half")
    calls = Calls()
    for name in ("eager", "numpy", "inside", "plain"):
        signatures = {"serving_default": calls.plain, "other": getattr(calls, name)}
        tf.saved_model.save(calls, str(root / name / "1"), signatures)
    return root


@pytest.mark.parametrize(
    ("name", "node"), [("eager", "EagerPyFunc"), ("numpy", "PyFunc"), ("inside", "PyFunc")]
)
def test_signature_that_calls_python_is_refused_with_its_name(calling, name, node):
    path = f"{calling}/{name}/1"
    with pytest.raises(StatusError) as error:
        load(1, path)
    start, end = str(error.value).split("(node ")
    assert start == f"UNIMPLEMENTED: {path} cannot be served: its signature other calls Python "
    assert node in end.split(",")[0]
    assert "\n" not in end


def test_function_that_no_signature_uses_does_not_matter(calling):
    model = load(1, f"{calling}/plain/1")
    signature = model.signatures["other"]
    (y,) = model.run(
        {signature.inputs["x"].name: np.ones(1, np.float32)}, [signature.outputs["y"].name], None
    )
    assert y.tolist() == [2.0]
    model.close()


def test_initialization_that_calls_python_is_refused_before_it_runs(tmp_path):
    ran = []

    def fill():
        ran.append(1)
        return np.float32(1)

    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        initial = v1.Variable(0.0, use_resource=False)
        main_op = initial.assign(tf.numpy_function(fill, [], tf.float32)).op
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": x + initial})
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(tmp_path / "1"))
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, main_op=main_op
        )
        builder.save()
        with pytest.raises(StatusError, match="its initialization calls Python .node PyFunc, "):
            load(1, str(tmp_path / "1"))
    assert not ran


def test_other_models_are_served_and_the_error_is_a_line(calling, tmp_path):
    listed = "".join(
        f'config {{ name: "{name}" base_path: "{calling}/{name}" model_platform: "tensorflow" }} '
        for name in ("eager", "half", "numpy")
    )
    (tmp_path / "models.config").write_text(f"model_config_list {{ {listed} }}")
    with running(
        tmp_path,
        f"--model_config_file={tmp_path}/models.config",
        "--start_with_what_loads",
        "--max_num_load_retries=0",
    ) as server:
        for name in ("eager", "numpy"):
            message = GetModelStatusRequest(model_spec={"name": name})
            (version,) = server.client.status(message).model_version_status
            assert version.state == version.END
            assert version.status.error_code == grpc.StatusCode.UNIMPLEMENTED.value[0]
            assert "calls Python" in version.status.error_message
            assert "\n" not in version.status.error_message
            assert refused(server.client.predict, request(name, {"x": np.ones(1, np.float32)}))[
                0
            ] == ("NOT_FOUND")
        ones = np.ones((1, 1), np.float32)
        assert list(server.client.predict(request("half", {"x": ones})).outputs["y"].float_val) == [
            3.5
        ]
        assert "Traceback" not in server.log.read_text()


WAIT_S = 20


class Model:
    """Doubles its input; notes the rows of each run, and waits for `go` where it is told to."""

    def __init__(self):
        self.merger = Merger(1)
        self.runs, self.limits = [], []
        self.began, self.go = threading.Event(), threading.Event()
        self.go.set()

    def execute(self, inputs, timeout_s):
        self.runs.append(len(inputs["x"]))
        self.limits.append(timeout_s)
        self.began.set()
        assert self.go.wait(WAIT_S)
        if (inputs["x"] < 0).any():
            raise invalid_argument("below zero")
        return {"y": 2 * inputs["x"]}

    def ask(self, *values, key="key", timeout_s=None):
        inputs = {"x": np.float32(values)}
        return self.merger.run(key, self.execute, inputs, timeout_s)["y"].tolist()

    def waiting(self):
        return sum(map(len, self.merger._queues.values()))


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def busy(model):
    """A model in the midst of a run, and a pool to ask it from."""
    model.go.clear()
    with ThreadPoolExecutor(80) as pool:
        first = pool.submit(model.ask, 1)
        assert model.began.wait(WAIT_S)
        try:
            yield pool
        finally:
            model.go.set()
        assert first.result(WAIT_S) == [2]


def ask_all(model, pool, *requests, **options):
    """Asks in this order, and lets the model go once all of them wait."""
    futures = []
    for values in requests:
        futures.append(pool.submit(model.ask, *values, **options))
        wait_until(lambda: model.waiting() == len(futures))
    model.go.set()
    return futures


def test_request_that_finds_the_model_idle_runs_at_once_and_alone(model):
    assert [model.ask(1), model.ask(2)] == [[2], [4]]
    assert model.runs == [1, 1]


def test_requests_that_wait_share_runs_of_few_sizes(model, busy):
    answers = ask_all(model, busy, *[[number] for number in range(7)])
    assert [answer.result(WAIT_S) for answer in answers] == [[2 * n] for n in range(7)]
    assert model.runs == [1, 4, 2, 1]


def test_no_run_has_more_rows_than_the_largest_size(model, busy):
    answers = ask_all(model, busy, *[[number] for number in range(70)])
    assert [answer.result(WAIT_S) for answer in answers] == [[2 * n] for n in range(70)]
    assert model.runs == [1, 32, 32, 4, 2]


def test_requests_of_several_rows_stay_whole(model, busy):
    answers = ask_all(model, busy, [1, 2, 3], [4, 5], [6])
    assert [answer.result(WAIT_S) for answer in answers] == [[2, 4, 6], [8, 10], [12]]
    assert model.runs == [1, 3, 2, 1]


def test_large_request_is_run_in_pieces_between_which_others_get_their_turn(model, busy):
    (large,) = ask_all(model, busy, range(100))
    assert large.result(WAIT_S) == [2 * number for number in range(100)]
    assert model.runs == [1, 32, 32, 32, 4]
    assert model.ask(*range(MOST_ROWS)) == [2 * number for number in range(MOST_ROWS)]


def test_request_without_rows_is_answered(model):
    assert model.ask() == []


def test_fault_of_one_request_fails_that_one_alone(model, busy):
    answers = ask_all(model, busy, [1], [-1], [3], [4])
    assert [answers[n].result(WAIT_S) for n in (0, 2, 3)] == [[2], [6], [8]]
    with pytest.raises(StatusError, match="below zero"):
        answers[1].result(WAIT_S)


def test_requests_for_something_else_or_of_another_shape_are_not_merged(model, busy):
    one = busy.submit(model.ask, 1)
    other = busy.submit(model.ask, 2, key="other")
    shaped = busy.submit(
        model.merger.run, "key", model.execute, {"x": np.ones((1, 2), np.float32)}, None
    )
    wait_until(lambda: model.waiting() == 3)
    model.go.set()
    assert (one.result(WAIT_S), other.result(WAIT_S)) == ([2], [4])
    assert shaped.result(WAIT_S)["y"].tolist() == [[2, 2]]
    assert model.runs == [1, 1, 1, 1]


@pytest.mark.usefixtures("busy")
def test_request_whose_deadline_passes_while_it_waits_is_given_up(model):
    with pytest.raises(StatusError, match="before the request ran"):
        model.ask(1, timeout_s=0.01)
    assert model.waiting() == 0
    model.go.set()
    assert model.ask(3) == [6]


def test_run_has_the_latest_deadline_and_none_where_one_request_has_none(model, busy):
    limited = [busy.submit(model.ask, 1, timeout_s=seconds) for seconds in (100, 200)]
    wait_until(lambda: model.waiting() == 2)
    free = busy.submit(model.ask, 1, key="other")
    mixed = busy.submit(model.ask, 1, key="other", timeout_s=100)
    wait_until(lambda: model.waiting() == 4)
    model.go.set()
    for answer in (*limited, free, mixed):
        assert answer.result(WAIT_S) == [2]
    assert model.limits[1] == pytest.approx(200, abs=WAIT_S)
    assert model.limits[2] is None
