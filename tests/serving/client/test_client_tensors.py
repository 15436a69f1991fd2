import struct

import numpy as np
import pytest

from serving.client.tensors import decode, decode_array, decode_lists, encode, input_parts
from serving.protos import message


def tensor(dtype, shape, **fields):
    proto = message("tensorflow.TensorProto")(dtype=dtype, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    "values",
    [[b"\xff\xd8", b""], [0.5, -2.0], [True, False], [-1, 1 << 40]],
    ids=["bytes", "float", "bool", "int"],
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
        (
            tensor("DT_STRING", [1], tensor_content=b"\x01a"),
            "tensor_content of 2 bytes for data type number 7",
        ),
        (
            tensor("DT_FLOAT", [1], tensor_content=b"abc"),
            "tensor_content of 3 bytes for data type number 1",
        ),
    ],
    ids=["type", "too_many", "too_few", "packed_strings", "torn"],
)
def test_decode_refuses_what_it_cannot_read_whole(proto, text):
    with pytest.raises(ValueError, match=text):
        decode(proto)


NUMBERS = [
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]


@pytest.mark.parametrize("name", [*NUMBERS, "bool"])
def test_array_of_any_type_and_order_in_memory_comes_back(name):
    array = np.arange(12).reshape(2, 6).astype(name)[:, ::2]
    assert not array.flags.c_contiguous
    for given in (array, array.astype(array.dtype.newbyteorder(">")), np.asfortranarray(array)):
        back = decode_array(encode(given))
        assert (back.dtype, back.tolist()) == (np.dtype(name), array.tolist())
        back[0, 0] = 1  # It is the caller's to change.
        assert decode_lists(encode(given)) == array.tolist()


@pytest.mark.parametrize("name", [*NUMBERS, "bool"])
def test_typed_field_and_tensor_content_read_alike(name):
    array = np.array([[0, 1], [2, 100]]).astype(name)
    in_field = encode(array.tolist(), encode(array).dtype)
    assert not in_field.tensor_content
    assert (decode_array(in_field).dtype, decode_array(in_field).tolist()) == (
        array.dtype,
        array.tolist(),
    )
    assert decode_lists(in_field) == array.tolist()


@pytest.mark.parametrize(
    "values", [[[[1, 2, 3]], [[4, 5, 6]]], 7, [[], []], []], ids=["deep", "scalar", "flat", "none"]
)
def test_lists_keep_their_shape(values):
    assert decode_lists(encode(values, 9)) == values
    assert decode_array(encode(values, 9)).tolist() == values


def test_array_of_strings_goes_as_strings():
    for array in (np.array(["Kätzchen", "b"]), np.array([b"\xff", b""], object)):
        expected = [value.encode() if isinstance(value, str) else value for value in array.tolist()]
        assert decode_array(encode(array)).tolist() == decode(encode(array)) == expected


def test_array_of_fewer_values_than_elements_repeats_the_last():
    assert decode_array(tensor("DT_FLOAT", [2, 2], float_val=[1.0, 2.0])).tolist() == [
        [1.0, 2.0],
        [2.0, 2.0],
    ]


@pytest.mark.parametrize(
    ("values", "dtype", "text"),
    [
        ([300], 4, "values that are no uint8"),
        ([1.5], 9, "values that are no int64"),
        (["one"], 1, "values that are no float32"),
        ([1], 7, "values that are no string: int"),
        (["yes"], 10, "values that are no bool"),
        ([None], None, "NoneType, whose type of tensor is not known"),
        ([[1], 2], 9, "lists of different lengths"),
        (np.array([1.5]), 9, "an array of float64 for int64"),
        (np.array([1.5]), 7, "an array of float64 for string"),
        (np.array([1j]), None, "an array of complex128, which this client does not send"),
        ([1], 99, "data type number 99"),
    ],
)
def test_values_that_do_not_go_into_the_type_are_refused(values, dtype, text):
    with pytest.raises(ValueError, match=text):
        encode(values, dtype)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000, 3_000_000])
def test_parts_of_an_input_are_what_protobuf_itself_writes(size):
    request = message("tensorflow.serving.PredictRequest")()
    request.inputs["image_bytes"].CopyFrom(tensor("DT_STRING", [1], string_val=[bytes(size)]))
    assert b"".join(input_parts("image_bytes", [bytes(size)])) == request.SerializeToString()
