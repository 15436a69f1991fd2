import struct

import pytest

from serving.client.messages import decode, encode
from serving.protos import message


def tensor(dtype, shape, **fields):
    proto = message("tensorflow.TensorProto")(dtype=dtype, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    "values", [[b"\xff\xd8", b""], [0.5, -2.0], [True, False], [-1, 1 << 40]], ids=["bytes", "float", "bool", "int"]
)
def test_decode_gives_back_what_encode_was_given(values):
    assert decode(encode(values)) == values


def test_encode_writes_text_as_utf8():
    assert decode(encode(["Kätzchen"])) == ["Kätzchen".encode()]


@pytest.mark.parametrize(
    ("dtype", "code"), [("DT_FLOAT", "f"), ("DT_DOUBLE", "d"), ("DT_INT32", "i"), ("DT_INT64", "q")]
)
def test_decode_reads_numbers_in_tensor_content(dtype, code):
    proto = tensor(dtype, [1, 3], tensor_content=struct.pack(f"<3{code}", 1, 2, -3))
    assert decode(proto) == [1, 2, -3]


def test_decode_repeats_the_last_value_where_values_are_left_out():
    assert decode(tensor("DT_FLOAT", [4], float_val=[1.0, 2.0])) == [1.0, 2.0, 2.0, 2.0]


def test_decode_of_scalar_and_of_no_elements():
    assert decode(tensor("DT_INT32", [], int_val=[7])) == [7]
    assert decode(tensor("DT_STRING", [0])) == []


@pytest.mark.parametrize(
    ("proto", "text"),
    [
        (tensor("DT_BFLOAT16", [1], half_val=[1]), "data type number 14"),
        (tensor("DT_FLOAT", [1], float_val=[1.0, 2.0]), "2 values where its shape says 1"),
        (tensor("DT_FLOAT", [2]), "0 values where its shape says 2"),
        (tensor("DT_STRING", [1], tensor_content=b"\x01a"), "tensor_content of 2 bytes for data type number 7"),
        (tensor("DT_FLOAT", [1], tensor_content=b"abc"), "tensor_content of 3 bytes for data type number 1"),
    ],
    ids=["type", "too_many", "too_few", "packed_strings", "torn"],
)
def test_decode_refuses_what_it_cannot_read_whole(proto, text):
    with pytest.raises(ValueError, match=text):
        decode(proto)
