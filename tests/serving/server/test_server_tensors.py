"""Random messages: read as TensorFlow reads them, and through the handlers an answer or a
StatusError, nothing else.
"""

import math
from contextlib import contextmanager

import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from serving.server import loading, tensors
from serving.server.handlers import Handlers
from serving.server.status import StatusError

READ, ASKED, LONG = 400, 2000, 100_000

NUMBERS = {dtype.as_datatype_enum for dtype in tensors._FIELDS}

small = st.lists(st.integers(0, 4), max_size=3)
dimensions = st.one_of(
    small, small, st.lists(st.sampled_from([0, 1, 3, -1, 2**31, 2**62, 2**63 - 1]), max_size=4)
)
bits = st.integers(-(2**31), 2**31 - 1)
floats = st.floats(width=32)
FIELDS = {
    "tensor_content": st.binary(max_size=32),
    "float_val": st.lists(floats, max_size=5),
    "double_val": st.lists(st.floats(), max_size=5),
    "int_val": st.lists(bits, max_size=5),
    "int64_val": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    "uint32_val": st.lists(st.integers(0, 2**32 - 1), max_size=5),
    "uint64_val": st.lists(st.integers(0, 2**64 - 1), max_size=5),
    "bool_val": st.lists(st.booleans(), max_size=5),
    "half_val": st.lists(bits, max_size=5),
    "string_val": st.lists(st.binary(max_size=8), max_size=5),
    "scomplex_val": st.lists(floats, max_size=5),
    "dcomplex_val": st.lists(st.floats(), max_size=5),
}


@st.composite
def some_protos(draw, dtype=None):
    """A tensor of a dtype, or of any, with values in its own field (mostly) or in another one."""
    numbers = (
        [*DataType.values(), *sorted(NUMBERS) * 10] if dtype is None else [dtype.as_datatype_enum]
    )
    number = draw(st.sampled_from(numbers))
    own = next(
        (field for one, (field, _) in tensors._FIELDS.items() if one.as_datatype_enum == number),
        "float_val",
    )
    field = draw(st.sampled_from([own] * 20 + ["tensor_content"] * 3 + list(FIELDS)))
    shape = {"dim": [{"size": size} for size in draw(dimensions)]}
    if draw(st.integers(0, 20)) == 20:
        shape["unknown_rank"] = True
    return TensorProto(dtype=number, tensor_shape=shape, **{field: draw(FIELDS[field])})


protos = some_protos()
aliases = st.sampled_from(["s", "x", "f", "i", "b", "left", "right", "seconds", "", "\x00"])
requests = st.builds(
    PredictRequest,
    model_spec=st.builds(
        dict,
        name=st.sampled_from(["probe", ""]),
        signature_name=st.sampled_from(["", "echo", "add", "arrived", "other"]),
    ),
    inputs=st.dictionaries(aliases, protos, max_size=4),
    output_filter=st.lists(st.sampled_from(["f", "s", "length", "sum", "?"]), max_size=2),
)
# What the signature takes, by name and type, so that many requests reach the graph.
FITTING = {
    "": {"s": tf.string},
    "add": {"left": tf.float32, "right": tf.float32},
    "echo": {"f": tf.float32, "i": tf.int64, "b": tf.bool, "s": tf.string},
}


@st.composite
def fitting_requests(draw):
    name = draw(st.sampled_from(list(FITTING)))
    request = PredictRequest(model_spec={"name": "probe", "signature_name": name})
    for alias, dtype in FITTING[name].items():
        request.inputs[alias].CopyFrom(draw(some_protos(dtype)))
    return request


@pytest.fixture(scope="module")
def handlers(exported):
    probe = loading.load_saved_model(1, f"{exported}/probe/1")

    class Loaded:
        @contextmanager
        def use(self, model, number, label):
            del model, number, label
            yield probe

    yield Handlers(Loaded(), None)
    probe.close()


def decoded(proto):
    try:
        return tensors.decode("x", proto)
    except StatusError as error:
        assert str(error) == "INVALID_ARGUMENT: tensor parsing error: x"
        return None


def check_against_tensorflow(proto):
    array = decoded(proto)
    sizes = [one.size for one in proto.tensor_shape.dim]
    # Looked at singly too: (0, 2**62) has no element, and yet is more than an array can be.
    large = math.prod(sizes) > 2**20 or max(sizes, default=0) > 2**20
    if array is None and (large or proto.dtype not in NUMBERS or proto.tensor_content):
        # More than an array can be; a dtype that has no field; strings in one piece: stricter than
        # TensorFlow.
        return
    if array is None:
        with pytest.raises(tf.errors.InvalidArgumentError):
            tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype))
        return
    tensor = tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype))
    expected = tensor.numpy()
    assert array.shape == tuple(tensor.shape)
    if array.dtype == object:
        assert array.ravel().tolist() == (
            [expected] if tensor.shape.rank == 0 else expected.ravel().tolist()
        )
    else:
        assert array.dtype == expected.dtype
        assert array.tobytes() == expected.tobytes()
    back = TensorProto()
    tensors.encode(array, back)
    again = tensors.decode("x", back)
    # Never as nested lists: those of (2**31, 0) fill the memory.
    assert again.shape == array.shape
    assert again.ravel().tolist() == array.ravel().tolist() or again.tobytes() == array.tobytes()


def check_answer(handlers, request):
    try:
        response = handlers.infer(request, 10.0)
    except StatusError:
        return
    assert PredictResponse.FromString(response.SerializeToString()) is not None


def many(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


@many(READ)
@given(protos)
def test_random_tensor_is_read_as_tensorflow_reads_it(proto):
    check_against_tensorflow(proto)


@many(ASKED)
@given(request=st.one_of(requests, fitting_requests()))
def test_random_request_gets_an_answer_or_a_status(handlers, request):
    check_answer(handlers, request)


@pytest.mark.long
@many(LONG)
@given(request=st.one_of(requests, fitting_requests()))
def test_100_000_random_requests_get_an_answer_or_a_status(handlers, request):
    check_answer(handlers, request)
