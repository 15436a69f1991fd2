"""Signatures out of the ordinary, over the wire: every dtype as input and as output, sparse and
ragged tensors, names without an index, two names for one tensor.
"""

import json

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from serving.server.tensors import dtype_name, known_dtype
from tests.serving.server.asking import Client, refusal, request, running

v1 = tf.compat.v1
INVALID = "INVALID_ARGUMENT"
# Some number that the enum has not, as a later TensorFlow might write it.
DTYPES = [*DataType.values(), 77]
MISSING = "specified in either feed_devices or fetch_devices was not found in the Graph"


def dtype_of(number):
    """The dtype of a tensor that a signature calls so; float where there is none."""
    try:
        return tf.as_dtype(number).base_dtype
    except TypeError:
        return tf.float32


def made(dtype, x):
    """A tensor of a dtype from one of ones; of dtypes without operations one that nobody feeds."""
    if dtype == tf.string:
        return tf.as_string(tf.cast(x, tf.int32))
    if dtype == tf.resource:
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[])
    if dtype == tf.variant:
        return tf.raw_ops.EmptyTensorList(
            element_shape=-1, max_num_elements=1, element_dtype=tf.float32
        )
    if dtype.is_quantized:
        same = tf.as_dtype(dtype.name.removeprefix("q").replace("quint", "uint"))
        return tf.bitcast(tf.cast(x, same), dtype)
    if known_dtype(dtype.as_datatype_enum) or dtype.name in ("float8_e5m2", "float8_e4m3fn"):
        return tf.cast(x, dtype)
    return v1.placeholder(dtype, [None])


def signature(inputs, outputs):
    return SignatureDef(method_name="tensorflow/serving/predict", inputs=inputs, outputs=outputs)


def info(name, number=tf.float32.as_datatype_enum):
    return TensorInfo(name=name, dtype=number)


def sparse(tensor):
    return TensorInfo(
        dtype=tensor.dtype.as_datatype_enum,
        coo_sparse={
            "values_tensor_name": tensor.values.name,
            "indices_tensor_name": tensor.indices.name,
            "dense_shape_tensor_name": tensor.dense_shape.name,
        },
    )


def ragged(tensor):
    components = [info(tensor.values.name), info(tensor.row_splits.name, DataType.DT_INT64)]
    return TensorInfo(composite_tensor={"components": components})


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A model with those signatures; builders refuse most of them, so they are written in
    afterwards.
    """
    path = tmp_path_factory.mktemp("odd") / "1"
    signatures = {}
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        other = v1.placeholder(tf.float32, [None], name="other")
        tf.add(x, other, name="sum")
        tf.multiply(x, 2.0, name="double")
        tf.no_op(name="nothing")
        for number in DTYPES:
            given = v1.placeholder(dtype_of(number), [None], name=f"in_{number}")
            tf.fill(tf.shape(given), 7, name=f"sevens_{number}")
            answered = tf.identity(made(dtype_of(number), x), name=f"out_{number}")
            signatures[f"in_{number}"] = signature(
                {"given": info(f"in_{number}:0", number)}, {"sevens": info(f"sevens_{number}:0", 3)}
            )
            signatures[f"out_{number}"] = signature(
                {"given": info("x:0")},
                {"answered": info(answered.name, number), "y": info("double:0")},
            )
        indices = tf.where(x > 0)
        kept = tf.SparseTensor(indices, tf.gather_nd(x, indices), tf.shape(x, tf.int64))
        rows = tf.RaggedTensor.from_row_splits(x, [0, tf.size(x)])
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, [tf.saved_model.SERVING])
        builder.save()
        plain = {"x": info("x:0")}
        signatures |= {
            "serving_default": signature({"x": info("x")}, {"y": info("double")}),
            "sparse_out": signature(plain, {"kept": sparse(kept), "y": info("double:0")}),
            "ragged_out": signature(plain, {"rows": ragged(rows), "y": info("double:0")}),
            "sparse_in": signature({"kept": sparse(kept)}, {"y": info("double:0")}),
            "ragged_in": signature({"a": ragged(rows), "b": ragged(rows)}, {"y": info("sum:0")}),
            "twice": signature({"a": info("x:0"), "b": info("x:0")}, {"y": info("double:0")}),
            "two_forms": signature({"a": info("x"), "b": info("x:0")}, {"y": info("double:0")}),
            "same": signature(plain, {"a": info("double:0"), "b": info("double")}),
            "echo": signature(plain, {"x": info("x:0")}),
            "elsewhere": signature(plain, {"y": info("gone:0")}),
            "beyond": signature(plain, {"y": info("double:1")}),
            "nothing": signature(plain, {"y": info("nothing")}),
        }
    saved = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    for name, one in signatures.items():
        saved.meta_graphs[0].signature_def[name].CopyFrom(one)
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())
    return path.parent


@pytest.fixture(scope="module", params=[[], ["--enable_batching"]], ids=["alone", "batched"])
def client(odd, request, tmp_path_factory):
    arguments = [f"--model_base_path={odd}", "--model_name=odd", *request.param]
    with running(tmp_path_factory.mktemp("server"), *arguments) as server:
        yield server.client


ONES = np.ones(2, np.float32)


def ask(client, signature, output_filter=(), **inputs):
    message = request("odd", inputs, signature)
    message.output_filter.extend(output_filter)
    return client.predict(message).outputs


def rest(client, signature, **body):
    return client.http(
        "/v1/models/odd:predict", json.dumps({"signature_name": signature, **body}).encode()
    )


def outcome(client: Client, message: PredictRequest):
    """Gives the code and the text of an answer."""
    try:
        client.predict(message)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


@pytest.mark.parametrize("number", DTYPES)
def test_every_dtype_as_output_is_answered_or_refused_in_a_line(client, number):
    name = f"out_{number}"
    status, answer = rest(client, name, instances=[1, 1])
    known = known_dtype(dtype_of(number).as_datatype_enum)
    if known is None:
        code, text = outcome(client, request("odd", {"given": ONES}, name))
        expected = (
            f"Failed to write value for tensor type: {dtype_of(number).name} (of {name}:0): leave"
            " this output out, or cast it in the model"
        )
        assert (code, text) == (INVALID, expected)
        assert (status, answer) == (400, {"error": expected})
    else:
        answered = ask(client, name, given=ONES)["answered"]
        assert answered.dtype == known.as_datatype_enum
        one = b"1" if known == tf.string else known.as_numpy_dtype(1)
        assert tf.make_ndarray(answered).tolist() == [one, one]
        text = f"Failed to write JSON value for tensor type: {dtype_name(known.as_datatype_enum)}"
        if known in (tf.half, tf.bfloat16, tf.uint16, tf.complex64, tf.complex128):
            assert (status, answer) == (400, {"error": text})
        else:
            assert (status, len(answer["predictions"])) == (200, 2)
    assert list(ask(client, name, ["y"], given=ONES)["y"].float_val) == [2, 2]


@pytest.mark.parametrize("number", DTYPES)
def test_every_dtype_as_input_is_answered_or_refused_in_a_line(client, number):
    name = f"in_{number}"
    known = known_dtype(dtype_of(number).as_datatype_enum)
    message = PredictRequest(model_spec={"name": "odd", "signature_name": name})
    # A value that stands for two.
    message.inputs["given"].dtype = dtype_of(number).as_datatype_enum
    message.inputs["given"].tensor_shape.dim.add(size=2)
    expected = (INVALID, "tensor parsing error: given") if known is None else ("OK", "")
    if number not in DataType.values():
        text = f"Expects arg[0] to be unknown dtype enum ({number}) but float is provided"
        expected = (INVALID, text)
    assert outcome(client, message) == expected
    message.inputs["given"].dtype = number
    code, text = outcome(client, message)
    assert code in ("OK", INVALID)
    assert "\n" not in text
    for value in (1, "a", True, {"b64": "YQ=="}, None, []):
        for body in ({"instances": [value, value]}, {"inputs": [value, value]}):
            status, answer = rest(client, name, **body)
            assert status in (200, 400, 501), answer
            assert "\n" not in answer.get("error", "").replace("{\n", "").replace("\n}", "")
    assert rest(client, name, inputs=[])[0] in (200, 501)


@pytest.mark.parametrize(
    ("number", "name"), [(0, "INVALID"), (77, "unknown dtype enum (77)"), (101, "float_ref")]
)
def test_dtype_without_a_form_in_json_is_named(client, number, name):
    text = f"Conversion of JSON Value: 1 to type: {name}"
    assert rest(client, f"in_{number}", inputs=[1, 1]) == (501, {"error": text})
    assert rest(client, f"in_{number}", instances=[1, 1]) == (
        400,
        {
            "error": (
                "Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: " + text
            )
        },
    )


def test_dtype_of_the_graph_counts_where_the_signature_has_none(client):
    assert ask(client, "in_0", given=ONES)["sevens"].int_val == [7, 7]
    assert refusal(ask, client, "in_0", given=np.ones(2, np.int32)) == (
        INVALID,
        "Expects arg[0] to be float but int32 is provided",
    )


@pytest.mark.parametrize("name", ["sparse_out", "ragged_out"])
def test_composite_output_is_refused_as_by_the_core_and_others_are_answered(client, name):
    text = f"Tensor :0, {MISSING}"
    assert refusal(ask, client, name, x=ONES) == (INVALID, text)
    assert rest(client, name, instances=[1, 1]) == (400, {"error": text})
    assert list(ask(client, name, ["y"], x=ONES)["y"].float_val) == [2, 2]


def test_composite_input_is_refused_as_by_the_core(client):
    text = f"Tensor :0, {MISSING}"
    assert refusal(ask, client, "sparse_in", kept=ONES) == (INVALID, text)
    assert rest(client, "sparse_in", inputs=[1, 1]) == (400, {"error": text})
    assert refusal(ask, client, "ragged_in", a=ONES, b=ONES) == (INVALID, text)


def test_name_without_an_index_is_that_of_the_first_output(client):
    assert list(ask(client, "", x=ONES)["y"].float_val) == [2, 2]
    assert rest(client, "", instances=[1, 2]) == (200, {"predictions": [2.0, 4.0]})


@pytest.mark.parametrize("name", ["twice", "two_forms"])
def test_two_values_for_one_tensor_are_refused(client, name):
    text = 'Endpoint "x:0" fed more than once.'
    assert refusal(ask, client, name, a=ONES, b=2 * ONES) == (INVALID, text)
    assert rest(client, name, inputs={"a": [1], "b": [2]}) == (400, {"error": text})


def test_two_outputs_may_be_one_tensor(client):
    outputs = ask(client, "same", x=ONES)
    assert [list(outputs[alias].float_val) for alias in ("a", "b")] == [[2, 2], [2, 2]]


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("echo", INVALID, "x:0 is both fed and fetched."),
        ("elsewhere", INVALID, f"Tensor gone:0, {MISSING}"),
        (
            "beyond",
            "OUT_OF_RANGE",
            "Node 'double' (type: 'Mul', num of outputs: 1) does not have output 1",
        ),
        (
            "nothing",
            "OUT_OF_RANGE",
            "Node 'nothing' (type: 'NoOp', num of outputs: 0) does not have output 0",
        ),
    ],
)
def test_tensor_that_cannot_be_fetched_is_named_as_by_the_core(client, name, code, text):
    assert refusal(ask, client, name, x=ONES) == (code, text)
    assert rest(client, name, instances=[1, 1]) == (400, {"error": text})
