import json
import math

import numpy as np
import pytest
from tensorflow_serving.apis.classification_pb2 import ClassificationResult
from tensorflow_serving.apis.regression_pb2 import RegressionResult

from serving.server.rest_json import dump_classes, dump_numbers, dump_outputs, is_base64, parse
from serving.server.status import StatusError


def test_what_surrounds_the_object_is_ignored():
    assert parse(b'\xef\xbb\xbf \t\r\n{"inputs": [1]} and more') == {"inputs": [1]}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "The document is empty"),
        (b" \n", "The document is empty. at offset: 2"),
        (b"{", "Missing a name for object member. at offset: 1"),
        (b"{1: 2}", "Missing a name for object member. at offset: 1"),
        ('{"ä" 2}'.encode(), "Missing a colon after a name of object member. at offset: 6"),
        (b'{"a": [{}, "[\\"" 2]}', "Missing a comma or ] after an array element. at offset: 17"),
        (b'{"a": [{}, "[\\""] 2}', "Missing a comma or } after an object member. at offset: 18"),
        (b'{"a": x}', "Invalid value. at offset: 6"),
        (b'{"a": "x', "Missing a closing quotation mark in string. at offset: 6"),
        (b'{"a": "\\x"}', "Invalid escape character in string. at offset: 7"),
        (b'{"a": "\\u12"}', "Incorrect hex digit after \\u escape in string. at offset: 8"),
        (b'{"a": "\n"}', "Invalid encoding in string. at offset: 7"),
        (b'{"a": "\xff"}', "Invalid encoding in string. at offset: 7"),
        (b'{"a": "\\ud83d"}', "The surrogate pair in string is invalid."),
    ],
)
def test_text_that_is_no_json_is_refused_in_the_words_of_the_real_server(body, expected):
    with pytest.raises(StatusError) as error:
        parse(body)
    assert str(error.value) == f"INVALID_ARGUMENT: JSON Parse error: {expected}"


@pytest.mark.parametrize(
    "body", [b'{"inputs": ' + b"[" * 100_000, b'{"inputs": [' + b"1" * 5000 + b"]}"]
)
def test_text_that_no_parser_should_follow_is_refused(body):
    with pytest.raises(StatusError, match="^INVALID_ARGUMENT: JSON Parse error: "):
        parse(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[1]", "JSON Value: [\n    1\n] Is not object"),
        (b'"' + b"x" * 500 + b'"', f'JSON Value: "{"x" * 255} Is not object'),
        (
            b'{"signature_name": 1}',
            (
                'JSON Value: {\n    "signature_name": 1\n} not formatted correctly. '
                "'signature_name' key must be a string value."
            ),
        ),
    ],
)
def test_json_that_is_no_request_is_quoted(body, expected):
    with pytest.raises(StatusError) as error:
        parse(body)
    assert str(error.value) == f"INVALID_ARGUMENT: {expected}"


def test_surrogate_pairs_are_characters():
    assert parse(b'{"a": "\\ud83d\\ude00", "b": "\\\\ud83d"}') == {
        "a": "\U0001f600",
        "b": "\\ud83d",
    }


def test_numbers_that_are_not_finite_are_read_as_rapidjson_reads_them():
    body = (
        b'{"a": [Inf, -Inf, Infinity, -Infinity, 1.5], "b": [NaN, -NaN], "Inf": "NaN -Inf \\"Inf"}'
    )
    document = parse(body)
    assert document["a"] == [math.inf, -math.inf, math.inf, -math.inf, 1.5]
    assert all(map(math.isnan, document["b"]))
    assert document["Inf"] == 'NaN -Inf "Inf'
    assert parse(b'{"a": -NaN}{"a": x}')["a"] != 0


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"a": +Inf}', "Invalid value. at offset: 6"),
        (b'{"a": +1}', "Invalid value. at offset: 6"),
        (b'{"a": inf}', "Invalid value. at offset: 6"),
        (b'{"a": nan}', "Invalid value. at offset: 6"),
        (b'{"a": [Inf, +NaN]}', "Invalid value. at offset: 12"),
        (b'{"a": [-Inf 1]}', "Missing a comma or ] after an array element. at offset: 12"),
        (b'{"a": Inf "Inf}', "Missing a comma or } after an object member. at offset: 10"),
        (b'{"a": --Inf}', "Invalid value. at offset: 6"),
        (b'{"a": 1e400, "b": Inf}', None),
    ],
)
def test_what_only_looks_like_them_is_refused_where_it_stands(body, text):
    if text is None:
        # Looked at where it is used, as in a document without the other.
        assert parse(body)["a"] == math.inf
        return
    with pytest.raises(StatusError) as error:
        parse(body)
    assert str(error.value) == f"INVALID_ARGUMENT: JSON Parse error: {text}"


def test_first_of_two_members_of_a_name_counts():
    body = b'{"a": 1, "b": {"x": 1, "x": 2}, "a": Inf, "c": {"b64": "YQ==", "b64": "Yg=="}}'
    document = parse(body)
    assert document == {"a": 1, "b": {"x": 1}, "c": {"b64": "YQ=="}}
    assert list(document) == ["a", "b", "c"]
    # One with two members is no base64 to the real server either.
    assert not is_base64(document["c"])
    assert is_base64(parse(b'{"c": {"b64": "YQ=="}}')["c"])


def test_floats_print_with_six_digits_where_those_are_enough_and_nine_where_not():
    values = np.array([0.2, 1, 1 / 3, 16777217, 9e6, 3e-5, -0.0, np.nan, -np.inf], np.float32)
    text = dump_outputs({"y": values}, by_row=True).decode()
    assert (
        text == '{"predictions": [0.2, 1.0, 0.333333343, 16777216.0, 9e+06, 3e-05, -0.0, NaN,'
        " -Infinity]}"
    )
    assert np.array_equal(
        np.array(json.loads(text)["predictions"], np.float32), values, equal_nan=True
    )


def test_doubles_print_with_six_digits_where_those_are_enough_and_seventeen_where_not():
    values = np.array([0.1, 1 / 3, 1e300, 123456789.0])
    assert (
        dump_outputs({"y": values}, by_row=False)
        == b'{"outputs": [0.1, 0.33333333333333331, 1e+300, 123456789.0]}'
    )


def test_outputs_keep_their_shape():
    for shape in ((2, 3), (3, 1, 2), (2, 0), (0, 2), (1, 2, 2, 2)):
        array = np.arange(np.prod(shape)).reshape(shape)
        for by_row, key in ((True, "predictions"), (False, "outputs")):
            assert json.loads(dump_outputs({"y": array}, by_row)) == {key: array.tolist()}


def test_outputs_by_row_and_by_column():
    one = {"y": np.array([[1, 2], [3, 4]], np.int32)}
    assert dump_outputs(one, by_row=True) == b'{"predictions": [[1, 2], [3, 4]]}'
    assert dump_outputs(one, by_row=False) == b'{"outputs": [[1, 2], [3, 4]]}'
    two = {"a": np.array([1.5, 2.5]), "b_bytes": np.array([b"\x00", b"x"], dtype=object)}
    assert json.loads(dump_outputs(two, by_row=True)) == {
        "predictions": [
            {"a": 1.5, "b_bytes": {"b64": "AA=="}},
            {"a": 2.5, "b_bytes": {"b64": "eA=="}},
        ]
    }
    assert json.loads(dump_outputs(two, by_row=False)) == {
        "outputs": {"a": [1.5, 2.5], "b_bytes": [{"b64": "AA=="}, {"b64": "eA=="}]}
    }
    assert dump_outputs({"y": np.array(True)}, by_row=False) == b'{"outputs": true}'


def test_strings_go_out_raw_even_if_they_are_no_utf8():
    text = dump_outputs({"y": np.array(["ä".encode(), b"\xff"], dtype=object)}, by_row=True)
    assert text == '{"predictions": ["ä", "'.encode() + b'\xff"]}'


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ({}, "Cannot convert empty tensor map to JSON"),
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
        dump_outputs(outputs, by_row=True)
    assert str(error.value) == f"INVALID_ARGUMENT: {expected}"


def test_classes_and_numbers():
    classes = ClassificationResult(
        classifications=[
            {"classes": [{"label": 'ä"', "score": 0.1}, {"label": "", "score": 1}]},
            {"classes": []},
        ]
    )
    assert dump_classes(classes).decode() == '{"results": [[["ä\\"", 0.1], ["", 1.0]], []]}'
    numbers = RegressionResult(regressions=[{"value": 2.5}, {"value": 1 / 3}])
    assert dump_numbers(numbers) == b'{"results": [2.5, 0.333333343]}'


def test_results_that_are_empty_are_refused():
    with pytest.raises(
        StatusError, match="^INVALID_ARGUMENT: Cannot convert empty ClassificationResults to JSON$"
    ):
        dump_classes(ClassificationResult())
    with pytest.raises(
        StatusError, match="^INVALID_ARGUMENT: Cannot convert empty RegressionResults to JSON$"
    ):
        dump_numbers(RegressionResult())
