import math
import struct

import ml_dtypes
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


def test_decode_of_scalar_and_of_no_elements():
    assert decode(tensor("DT_INT32", [], int_val=[7])) == [7]
    assert decode(tensor("DT_STRING", [0])) == []


@pytest.mark.parametrize(
    ("proto", "text"),
    [
        (tensor("DT_RESOURCE", [1]), "data type number 20"),
        (tensor("DT_FLOAT", [1], float_val=[1.0, 2.0]), r"of shape \[1\] with 2 values"),
        (tensor("DT_FLOAT", [2]), r"of shape \[2\] with 0 values"),
        (tensor("DT_STRING", [1], tensor_content=b"\x01a"), "2 bytes that are not string"),
        (tensor("DT_FLOAT", [1], tensor_content=b"abc"), "3 bytes that are not float32"),
    ],
    ids=["type", "too_many", "too_few", "packed_strings", "torn"],
)
def test_decode_refuses_what_it_cannot_read_whole(proto, text):
    with pytest.raises(ValueError, match=text):
        decode(proto)


@pytest.mark.parametrize("as_content", [False, True])
def test_bfloat16_and_quantized_numbers_are_read_without_packages_that_have_them(as_content):
    # 1, -2, NaN and the smallest: https://en.wikipedia.org/wiki/Bfloat16_floating-point_format.
    bits = [0x3F80, 0xC000, 0x7FC0, 0x0001]
    fields = {"tensor_content": struct.pack("<4H", *bits)} if as_content else {"half_val": bits}
    proto = tensor("DT_BFLOAT16", [4], **fields)
    expected = np.array([1, -2, math.nan, 2**-133], np.float32)
    assert decode_array(proto).dtype == np.float32
    assert np.array_equal(decode_array(proto), expected, equal_nan=True)
    assert np.array_equal(decode_lists(proto), expected, equal_nan=True)
    for dtype, code, values in (
        ("DT_QINT8", "b", [-128, 127]), ("DT_QUINT8", "B", [0, 255]), ("DT_QINT32", "i", [-1, 1]),
        ("DT_QINT16", "h", [-1, 1 << 14]), ("DT_QUINT16", "H", [0, 65535]),
    ):  # fmt: skip
        content = struct.pack(f"<2{code}", *values)
        fields = {"tensor_content": content} if as_content else {"int_val": values}
        proto = tensor(dtype, [2], **fields)
        assert decode_lists(proto) == decode_array(proto).tolist() == values
        assert decode_array(proto).dtype == code


def test_byte_of_a_bool_that_is_neither_0_nor_1_is_true():
    proto = tensor("DT_BOOL", [3], tensor_content=b"\0\1\2")
    assert decode_lists(proto) == [False, True, True]
    assert (decode_array(proto) == np.array([False, True, True])).all()


def test_bfloat16_is_rounded_as_tensorflow_rounds_it():
    draw = np.random.default_rng(1)
    some = draw.integers(0, 1 << 32, 20_000, np.uint32).view(np.float32)
    halfway = (draw.integers(0, 1 << 16, 2_000, np.uint32) << 16 | 0x8000).view(np.float32)
    values = np.concatenate([some, halfway, np.float32([0, -0.0, 3.4e38, np.inf, -np.inf, np.nan])])
    with np.errstate(invalid="ignore"):
        rounded = values.astype(ml_dtypes.bfloat16)
    expected = rounded.astype(np.float32)
    for given in (values, values.tolist(), rounded):
        assert np.array_equal(decode_array(encode(given, 14)), expected, equal_nan=True)


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


# tensor.proto; what has no field of its own is in int_val.
FIELDS = {
    "float16": "half_val",
    "float32": "float_val",
    "float64": "double_val",
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "bool": "bool_val",
}


@pytest.mark.parametrize("name", [*NUMBERS, "bool"])
def test_typed_field_and_tensor_content_read_alike(name):
    array = np.array([[0, 1], [2, 100]]).astype(name)
    dtype = encode(array).dtype
    stored = array.view("u2") if name == "float16" else array
    in_field = tensor(dtype, [2, 2], **{FIELDS.get(name, "int_val"): stored.ravel().tolist()})
    in_content = encode(array.tolist(), dtype)
    assert in_content == encode(array)
    for proto in (in_field, in_content):
        back = decode_array(proto)
        assert (back.dtype, back.tolist()) == (array.dtype, array.tolist())
        assert decode_lists(proto) == array.tolist()


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


@pytest.mark.parametrize(
    ("values", "dtype", "text"),
    [
        ([300], 4, "values that are not uint8"),
        ([1.5], 9, "values that are not int64"),
        (["one"], 1, "values that are not float32"),
        ([1], 7, "values that are not strings: int"),
        (["yes"], 10, "values that are not bool"),
        ([None], None, "NoneType, whose type of tensor is not known"),
        ([[1], 2], 9, "lists of different lengths"),
        (np.array([1.5]), 9, "an array of float64 for int64"),
        (np.array([1.5]), 7, "an array of float64 for string"),
        (
            np.array(["2026"], "M8[Y]"),
            None,
            r"an array of datetime64\[Y\], which this client does not",
        ),
        (np.array([1j]), 1, "an array of complex128 for float32"),
        ([1e300], 1, "values that are not float32"),
        (["one"], 8, "values that are not complex64"),
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
