"""Models that call Python: refused as they are loaded, where the real server has no such function
either.
"""

import shutil

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest

from serving.server.servable import load
from serving.server.status import StatusError
from tests.serving.server.asking import refusal, request, running

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
def exported(tmp_path_factory, exported):
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
def test_signature_that_calls_python_is_refused_with_its_name(exported, name, node):
    path = f"{exported}/{name}/1"
    with pytest.raises(StatusError) as error:
        load(1, path)
    start, end = str(error.value).split("(node ")
    assert start == f"UNIMPLEMENTED: {path} cannot be served: its signature other calls Python "
    assert node in end.split(",")[0]
    assert "\n" not in end


def test_function_that_no_signature_uses_does_not_matter(exported):
    model = load(1, f"{exported}/plain/1")
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


def test_other_models_are_served_and_the_error_is_a_line(exported, tmp_path):
    listed = "".join(
        f'config {{ name: "{name}" base_path: "{exported}/{name}" model_platform: "tensorflow" }} '
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
            assert refusal(server.client.predict, request(name, {"x": np.ones(1, np.float32)}))[
                0
            ] == ("NOT_FOUND")
        ones = np.ones((1, 1), np.float32)
        assert list(server.client.predict(request("half", {"x": ones})).outputs["y"].float_val) == [
            3.5
        ]
        assert "Traceback" not in server.log.read_text()
