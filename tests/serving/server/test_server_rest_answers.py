import json

import numpy as np
import pytest
from tensorflow_serving.apis.classification_pb2 import ClassificationResult
from tensorflow_serving.apis.regression_pb2 import RegressionResult

from serving.server import rest_outputs
from serving.server.rest_outputs import dump_outputs
from serving.server.status import StatusError


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
    assert (
        rest_outputs.dump_classes(classes).decode()
        == '{"results": [[["ä\\"", 0.1], ["", 1.0]], []]}'
    )
    numbers = RegressionResult(regressions=[{"value": 2.5}, {"value": 1 / 3}])
    assert rest_outputs.dump_numbers(numbers) == b'{"results": [2.5, 0.333333343]}'


def test_results_that_are_empty_are_refused():
    with pytest.raises(
        StatusError, match="^INVALID_ARGUMENT: Cannot convert empty ClassificationResults to JSON$"
    ):
        rest_outputs.dump_classes(ClassificationResult())
    with pytest.raises(
        StatusError, match="^INVALID_ARGUMENT: Cannot convert empty RegressionResults to JSON$"
    ):
        rest_outputs.dump_numbers(RegressionResult())
