import json

import numpy as np
import pytest
import tensorflow as tf

from serving.server import rest_json
from serving.server.status import StatusError

FLOAT, DOUBLE, INT32, INT64, UINT8 = (
    one.as_datatype_enum for one in (tf.float32, tf.float64, tf.int32, tf.int64, tf.uint8)
)
BOOL, STRING, HALF = tf.bool.as_datatype_enum, tf.string.as_datatype_enum, tf.half.as_datatype_enum


def inputs(text, **dtypes):
    document = rest_json.parse(text.encode())
    return {name: array.tolist() for name, array in rest_json.inputs(document, dtypes).items()}


def message(text, **dtypes):
    with pytest.raises(StatusError) as error:
        inputs(text, **dtypes)
    return str(error.value)


def test_plain_rows_and_columns_of_one_input():
    assert inputs('{"instances": [[1, 2.5], [3, 4]]}', x=FLOAT) == {"x": [[1.0, 2.5], [3.0, 4.0]]}
    assert inputs('{"instances": [1, 2]}', x=INT32) == {"x": [1, 2]}
    assert inputs('{"inputs": [[1, 2.5]]}', x=FLOAT) == {"x": [[1.0, 2.5]]}
    assert inputs('{"inputs": 7}', x=INT64) == {"x": 7}
    assert inputs('{"inputs": {"x": [1], "extra": 2}}', x=FLOAT) == {"x": [1.0]}
    assert inputs('{"inputs": [[], []]}', x=FLOAT) == {"x": [[], []]}


def test_named_rows_and_columns_of_several_inputs():
    rows = '{"instances": [{"x": [1], "s": "a"}, {"s": {"b64": "Yg=="}, "x": [2]}]}'
    columns = '{"inputs": {"x": [[1], [2]], "s": ["a", {"b64": "Yg"}]}}'
    expected = {"x": [[1.0], [2.0]], "s": [b"a", b"b"]}
    assert inputs(rows, x=FLOAT, s=STRING) == expected
    assert inputs(columns, x=FLOAT, s=STRING) == expected


def test_types_keep_their_dtype_and_their_values():
    assert inputs('{"inputs": [true, false]}', x=BOOL) == {"x": [True, False]}
    assert inputs('{"inputs": [9223372036854775807]}', x=INT64) == {"x": [9223372036854775807]}
    assert inputs('{"inputs": [1e300, NaN, -Infinity]}', x=DOUBLE)["x"][::2] == [1e300, -np.inf]
    assert inputs('{"instances": ["\u00e4", {"b64": "AP8="}]}', x=STRING) == {"x": ["ä".encode(), b"\x00\xff"]}


def test_what_follows_the_object_is_ignored():
    assert inputs('  {"inputs": [1]} and more', x=FLOAT) == {"x": [1.0]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("{", "JSON Parse error: Expecting property name enclosed in double quotes at offset: 1"),
        ("[1]", "JSON Value: [1] Is not object"),
        ('{"inputs": ' + "[" * 100_000, "JSON Parse error: maximum recursion depth exceeded"),
        ('{"a": 1}', "Missing 'inputs' or 'instances' key"),
        (
            '{"signature_name": 1}',
            "JSON Value: {\"signature_name\": 1} not formatted correctly. 'signature_name' key must be a string value.",
        ),
        (
            '{"inputs": 1, "instances": []}',
            'JSON Value: {"inputs": 1, "instances": []} Not formatted correctly expecting only one of '
            "'inputs' or 'instances' keys to exist ",
        ),
        ('{"instances": 1}', "JSON Value: {\"instances\": 1} Expecting 'instances' to be an list/array"),
        ('{"instances": []}', "JSON Value: {\"instances\": []} No values in 'instances' array"),
        (
            '{"instances": ["x"]}',
            "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "
            'JSON Value: "x" Type: String is not of expected type: float',
        ),
        (
            '{"instances": [[1, 2], [3]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting tensor size: 2 but got: 1",
        ),
        (
            '{"instances": [[1, 2], [[3], [4]]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting shape [2] but got: [2,1]",
        ),
        ('{"instances": [1, {"x": 1}]}', "Expecting value/list but got object at item 1 of input list"),
        ('{"instances": [{"x": 1}, 1]}', "Expecting object but got list at item 1 of input list"),
        (
            '{"instances": [{"z": 1}]}',
            "Failed to process element: 0 of 'instances' list. JSON object: {\"z\": 1} keys must be equal to: x",
        ),
        ('{"inputs": [[1, 2], [3]]}', "Encountered list at unexpected size: 1 expected size: 2"),
        ('{"inputs": [[1], 3]}', "Encountered list at unexpected size: none expected size: 1"),
        ('{"inputs": {"z": 1}}', "Missing named input: x in 'inputs' object."),
        ('{"inputs": {"b64": "YQ=="}}', 'JSON Value: {"b64": "YQ=="} Type: Object is not of expected type: float'),
        ('{"inputs": [true]}', "JSON Value: true Type: True is not of expected type: float"),
        ('{"inputs": [null]}', "JSON Value: null Type: Null is not of expected type: float"),
        ('{"inputs": [16777217]}', "Cannot convert JSON value: 16777217 to float without loss of precision."),
        ('{"inputs": [1e39]}', "Cannot convert JSON value: 1e+39 to float without loss of precision."),
    ],
)
def test_malformed_request_is_refused_with_the_reason(text, expected):
    assert message(text, x=FLOAT).startswith(f"INVALID_ARGUMENT: {expected}")


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        ("[1.5]", INT32, "JSON Value: 1.5 Type: Number is not of expected type: int32"),
        ("[2147483648]", INT32, "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        ("[256]", UINT8, "JSON Value: 256 Type: Number is not of expected type: uint8"),
        ("[1]", BOOL, "JSON Value: 1 Type: Number is not of expected type: bool"),
        ("[1]", STRING, "JSON Value: 1 Type: Number is not of expected type: string"),
        ('[{"b64": "*"}]', STRING, "Unable to base64 decode"),
        ('[{"c": "*"}]', STRING, 'JSON Value: {"c": "*"} not formatted correctly for base64 data'),
    ],
)
def test_value_of_another_type_is_refused(text, dtype, expected):
    assert message(f'{{"inputs": {text}}}', x=dtype) == f"INVALID_ARGUMENT: {expected}"


def test_type_without_a_form_in_json_is_unimplemented():
    assert message('{"inputs": [1]}', x=HALF) == "UNIMPLEMENTED: Conversion of JSON Value: 1 to type: half"


def test_several_inputs_need_names():
    assert message('{"instances": [1]}', x=FLOAT, y=FLOAT).endswith(
        "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
        "tensorinfo_map"
    )
    assert message('{"inputs": [1]}', x=FLOAT, y=FLOAT).endswith(
        "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map"
    )


def test_floats_print_with_six_digits_where_those_are_enough_and_nine_where_not():
    values = np.array([0.2, 1, 1 / 3, 16777216, 1e-7, np.nan, np.inf], np.float32)
    text = rest_json.dump_outputs({"y": values}, by_row=True).decode()
    assert text == '{"predictions": [0.2, 1.0, 0.333333343, 16777216.0, 1e-07, NaN, Infinity]}'
    assert np.array_equal(np.array(json.loads(text)["predictions"], np.float32), values, equal_nan=True)


def test_outputs_by_row_and_by_column():
    one = {"y": np.array([[1, 2], [3, 4]], np.int32)}
    assert rest_json.dump_outputs(one, by_row=True) == b'{"predictions": [[1, 2], [3, 4]]}'
    assert rest_json.dump_outputs(one, by_row=False) == b'{"outputs": [[1, 2], [3, 4]]}'
    two = {"a": np.array([1.5, 2.5]), "b_bytes": np.array([b"\x00", b"x"], dtype=object)}
    assert json.loads(rest_json.dump_outputs(two, by_row=True)) == {
        "predictions": [{"a": 1.5, "b_bytes": {"b64": "AA=="}}, {"a": 2.5, "b_bytes": {"b64": "eA=="}}]
    }
    assert json.loads(rest_json.dump_outputs(two, by_row=False)) == {
        "outputs": {"a": [1.5, 2.5], "b_bytes": [{"b64": "AA=="}, {"b64": "eA=="}]}
    }
    assert rest_json.dump_outputs({"y": np.array(True)}, by_row=False) == b'{"outputs": true}'


def test_strings_go_out_raw_even_if_they_are_no_utf8():
    text = rest_json.dump_outputs({"y": np.array(["ä".encode(), b"\xff"], dtype=object)}, by_row=True)
    assert text == '{"predictions": ["ä", "'.encode() + b'\xff"]}'


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ({"y": np.array(1.0)}, "Tensor name: y has no shape information "),
        (
            {"y": np.zeros(2), "z": np.zeros(3)},
            "Tensor name: z has inconsistent batch size: 3 expecting: 2",
        ),
        ({"y": np.zeros(2, np.float16)}, "Failed to write JSON value for tensor type: half"),
    ],
)
def test_outputs_that_are_no_rows_are_refused(outputs, expected):
    with pytest.raises(StatusError) as error:
        rest_json.dump_outputs(outputs, by_row=True)
    assert str(error.value) == f"INVALID_ARGUMENT: {expected}"
