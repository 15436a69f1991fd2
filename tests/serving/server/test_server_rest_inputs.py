import numpy as np
import pytest
import tensorflow as tf

from serving.server import rest_inputs, rest_json
from serving.server.status import StatusError

FLOAT, DOUBLE, INT32, INT64, UINT8 = (
    one.as_datatype_enum for one in (tf.float32, tf.float64, tf.int32, tf.int64, tf.uint8)
)
BOOL, STRING, HALF = tf.bool.as_datatype_enum, tf.string.as_datatype_enum, tf.half.as_datatype_enum


def inputs(text, **dtypes):
    document = rest_json.parse(text.encode())
    return {name: array.tolist() for name, array in rest_inputs.inputs(document, dtypes).items()}


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
    assert inputs('{"instances": ["\u00e4", {"b64": "AP8="}]}', x=STRING) == {
        "x": ["ä".encode(), b"\x00\xff"]
    }
    assert inputs('{"instances": [{"b64": "AP\\n8="}]}', x=STRING) == {"x": [b"\x00\xff"]}
    assert inputs('{"instances": [18446744073709551616, -Infinity]}', x=FLOAT) == {
        "x": [2.0**64, -np.inf]
    }
    assert inputs('{"instances": [16777215, 0.1]}', x=FLOAT) == {
        "x": [16777215.0, float(np.float32(0.1))]
    }
    assert inputs('{"instances": [[]]}', x=HALF) == {"x": [[]]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', "Missing 'inputs' or 'instances' key"),
        (
            '{"inputs": 1, "instances": []}',
            (
                'JSON Value: {\n    "inputs": 1,\n    "instances": []\n} Not formatted'
                " correctly expecting only one of 'inputs' or 'instances' keys to exist "
            ),
        ),
        (
            '{"instances": 1}',
            "JSON Value: {\n    \"instances\": 1\n} Expecting 'instances' to be an list/array",
        ),
        (
            '{"instances": []}',
            "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array",
        ),
        (
            '{"instances": ["x"]}',
            (
                "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "
                'JSON Value: "x" Type: String is not of expected type: float'
            ),
        ),
        (
            '{"instances": [[1, 2], [3]]}',
            (
                "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
                "Expecting tensor size: 2 but got: 1"
            ),
        ),
        (
            '{"instances": [[1, 2], [[3], [4]]]}',
            (
                "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
                "Expecting shape [2] but got: [2,1]"
            ),
        ),
        (
            '{"instances": [1, {"x": 1}]}',
            "Expecting value/list but got object at item 1 of input list",
        ),
        ('{"instances": [{"x": 1}, 1]}', "Expecting object but got list at item 1 of input list"),
        (
            '{"instances": [{"x": 1}, {"z": 1}]}',
            (
                "Failed to process element: 1 key: z of 'instances' list. Error: INVALID_ARGUMENT: "
                "JSON object: does not have named input: z"
            ),
        ),
        (
            '{"instances": [{"x": "a"}]}',
            (
                "Failed to process element: 0 key: x of 'instances' list. Error: INVALID_ARGUMENT: "
                'JSON Value: "a" Type: String is not of expected type: float'
            ),
        ),
        (
            '{"instances": [{"x": 1}, {}]}',
            (
                "Failed to process element: 1 of 'instances' list. JSON object: {} keys must be"
                " equal to: x"
            ),
        ),
        (
            '{"inputs": [[1, 2], [3]]}',
            "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
        ),
        (
            '{"inputs": [[1], 3]}',
            "JSON Value: 3 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        ('{"inputs": [1, [3]]}', "Encountered list at unexpected level: 1 expected < 1"),
        (
            '{"inputs": ' + "[" * 40 + "]" * 40 + "}",
            "Expecting at most 31 levels of lists but got: 40",
        ),
        ('{"inputs": {"z": 1}}', "Missing named input: x in 'inputs' object."),
        (
            '{"inputs": {"b64": "YQ=="}}',
            'JSON Value: {\n    "b64": "YQ=="\n} Type: Object is not of expected type: float',
        ),
        ('{"inputs": [true]}', "JSON Value: true Type: True is not of expected type: float"),
        ('{"inputs": [1.5, true]}', "JSON Value: true Type: True is not of expected type: float"),
        ('{"inputs": [null]}', "JSON Value: null Type: Null is not of expected type: float"),
        (
            '{"inputs": [16777216]}',
            "Cannot convert JSON value: 16777216 to float without loss of precision.",
        ),
        (
            '{"inputs": [1e39]}',
            "Cannot convert JSON value: 1e+39 to float without loss of precision.",
        ),
        ('{"inputs": [1e400]}', "JSON Parse error: Number too big to be stored in double."),
        (
            f'{{"inputs": [1{"0" * 400}]}}',
            "JSON Parse error: Number too big to be stored in double.",
        ),
    ],
)
def test_malformed_request_is_refused_with_the_reason(text, expected):
    assert message(text, x=FLOAT) == f"INVALID_ARGUMENT: {expected}"


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        ("[1.5]", INT32, "JSON Value: 1.5 Type: Number is not of expected type: int32"),
        (
            "[2147483648]",
            INT32,
            "JSON Value: 2147483648 Type: Number is not of expected type: int32",
        ),
        ("[256]", UINT8, "JSON Value: 256 Type: Number is not of expected type: uint8"),
        ("[1]", BOOL, "JSON Value: 1 Type: Number is not of expected type: bool"),
        ("[1]", STRING, "JSON Value: 1 Type: Number is not of expected type: string"),
        ('[{"b64": "*"}]', STRING, "Unable to base64 decode"),
        ('[{"b64": "YQ="}]', STRING, "Unable to base64 decode"),
        (
            '[{"c": "*"}]',
            STRING,
            'JSON Value: {\n    "c": "*"\n} not formatted correctly for base64 data',
        ),
    ],
)
def test_value_of_another_type_is_refused(text, dtype, expected):
    assert message(f'{{"inputs": {text}}}', x=dtype) == f"INVALID_ARGUMENT: {expected}"


def test_type_without_a_form_in_json_is_unimplemented():
    assert (
        message('{"inputs": [1]}', x=HALF)
        == "UNIMPLEMENTED: Conversion of JSON Value: 1 to type: half"
    )


def test_several_inputs_need_names():
    assert message('{"instances": [1]}', x=FLOAT, y=FLOAT).endswith(
        "instances is a plain list, but expecting list of objects as multiple input tensors"
        " required as per tensorinfo_map"
    )
    assert message('{"inputs": [1]}', x=FLOAT, y=FLOAT).endswith(
        "inputs is a plain value/list, but expecting an object as multiple input tensors required"
        " as per tensorinfo_map"
    )
