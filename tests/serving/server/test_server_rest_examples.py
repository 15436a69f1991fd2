import pytest
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest

from serving.server import rest_inputs, rest_json
from serving.server.status import StatusError


def filled(text):
    request = ClassificationRequest()
    rest_inputs.fill(rest_json.parse(text.encode()), request)
    return request


def test_values_choose_the_kind_of_their_feature():
    request = filled(
        '{"signature_name": "s", "examples": [{"i": [1, -2], "one": 3, "b": true, "f": [0.5, NaN],'
        ' "e": [], "s": ["ä", {"b64": "AP8="}], "big": 18446744073709551616}, {}]}'
    )
    assert request.model_spec.signature_name == "s"
    first, second = request.input.example_list.examples
    features = first.features.feature
    assert list(features["i"].int64_list.value) == [1, -2]
    assert list(features["one"].int64_list.value) == [3]
    assert list(features["b"].int64_list.value) == [1]
    assert features["f"].float_list.value[0] == 0.5
    assert features["f"].float_list.value[1] != features["f"].float_list.value[1]
    assert features["e"].WhichOneof("kind") is None
    assert list(features["s"].bytes_list.value) == ["ä".encode(), b"\x00\xff"]
    assert list(features["big"].float_list.value) == [2.0**64]
    assert not second.features.feature


def test_last_of_two_features_of_a_name_counts():
    # The real server puts one member after the other into a map.
    request = filled('{"examples": [{"x": 1, "y": 2, "x": 3.5}], "examples": []}')
    (example,) = request.input.example_list.examples
    assert list(example.features.feature["x"].float_list.value) == [3.5]
    assert list(example.features.feature["y"].int64_list.value) == [2]


def test_context_is_told_from_examples():
    given = filled('{"context": {"c": 1}, "examples": [{"x": 2}]}').input.example_list_with_context
    assert list(given.context.features.feature["c"].int64_list.value) == [1]
    assert list(given.examples[0].features.feature["x"].int64_list.value) == [2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "{}",
            "JSON Value: {} When method is classify, key 'examples' is expected and was not found",
        ),
        (
            '{"examples": 1}',
            "JSON Value: {\n    \"examples\": 1\n} Expecting 'examples' value to be an list/array",
        ),
        (
            '{"examples": []}',
            "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array",
        ),
        ('{"examples": [1]}', "Example must be JSON object but got JSON Number"),
        ('{"context": [], "examples": [{}]}', "Example must be JSON object but got JSON Array"),
        (
            '{"examples": [{"x": [1, "a"]}]}',
            "Unexpected element type in feature: x expecting type: int64",
        ),
        (
            '{"examples": [{"x": [1.5, 1]}]}',
            "Unexpected element type in feature: x expecting type: float",
        ),
        (
            '{"examples": [{"x": ["a", true]}]}',
            "Unexpected element type in feature: x expecting type: bytes",
        ),
        ('{"examples": [{"x": null}]}', "Feature: x has element with unexpected JSON type: Null"),
        ('{"examples": [{"x": [[1]]}]}', "Feature: x has element with unexpected JSON type: Array"),
        (
            '{"examples": [{"x": {"y": 1}}]}',
            "Feature: x has element with unexpected JSON type: Object",
        ),
        (
            '{"examples": [{"x": 9223372036854775808}]}',
            "Feature: x has uint64 element. Only int64 is supported.",
        ),
        (
            '{"examples": [{"x": 1e39}]}',
            "Cannot convert JSON value: 1e+39 to float without loss of precision.",
        ),
        ('{"examples": [{"x": {"b64": "*"}}]}', "Unable to base64 decode"),
    ],
)
def test_examples_without_a_form_are_refused(text, expected):
    with pytest.raises(StatusError) as error:
        filled(text)
    assert str(error.value) == f"INVALID_ARGUMENT: {expected}"
