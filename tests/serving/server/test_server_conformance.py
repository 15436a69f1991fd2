"""Answers and refusals of every gRPC method, over the wire; texts are TensorFlow Serving's or those
of its core.
"""

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import get_model_metadata_pb2

from tests.serving.server.asking import refusal, request, write_config
from tests.serving.server.heads import (
    CLASSIFY,
    REGRESS,
    example,
    export_functions,
    export_heads,
    given,
)

INVALID = "INVALID_ARGUMENT"


@pytest.fixture(scope="module")
def models(models):
    export_heads(models / "heads" / "1")
    export_functions(models / "functions" / "1")
    config = models / "models.config"
    write_config(models)
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{models}/{name}" model_platform: "tensorflow" }}'
        for name in ("heads", "functions")
    )
    config.write_text(config.read_text().rstrip().removesuffix("}") + entries + "}")
    return models


def spec(signature="", name="heads", **fields):
    return {"name": name, "signature_name": signature, **fields}


def classify(client, signature, **fields):
    return client.call(
        "PredictionService/Classify",
        **{"model_spec": spec(signature), "input": given(0.25), **fields},
    )


def regress(client, signature, **fields):
    return client.call(
        "PredictionService/Regress", **{"model_spec": spec(signature), "input": given(1), **fields}
    )


def multi(client, *tasks, **fields):
    listed = [{"model_spec": spec(signature), "method_name": method} for signature, method in tasks]
    return client.call(
        "PredictionService/MultiInference", **{"tasks": listed, "input": given(0.25, 1), **fields}
    )


def metadata(client, **fields):
    return client.call("PredictionService/GetModelMetadata", **fields)


def classes(result):
    return [[(one.label, one.score) for one in row.classes] for row in result.classifications]


def test_tf1_model_predicts(client):
    response = client.predict(request("heads", {"x": np.array([[1], [4]], np.float32)}))
    assert list(response.outputs["y"].float_val) == [2.5, 4.0]
    assert response.model_spec.signature_name == "serving_default"


def test_classify_gives_labels_and_scores(client):
    response = classify(client, "classify", input=given(0.25, 1))
    assert classes(response.result) == [
        [("cats", 0.25), ("dogs", 0.75)],
        [("cats", 1.0), ("dogs", 0.0)],
    ]
    answered = response.model_spec
    assert (answered.name, answered.signature_name, answered.version.value) == (
        "heads",
        "classify",
        1,
    )


def test_classify_without_labels_or_scores_leaves_them_empty(client):
    assert classes(classify(client, "scores").result) == [[("", 0.25), ("", 0.75)]]
    assert classes(classify(client, "labels").result) == [[("cats", 0.0), ("dogs", 0.0)]]


@pytest.mark.parametrize("signature", ["regress", "regress_column"])
def test_regress_gives_a_value_per_example(client, signature):
    response = regress(client, signature, input=given(1, 4))
    assert [one.value for one in response.result.regressions] == [2.5, 4.0]
    assert response.model_spec.signature_name == signature


def test_context_adds_its_features_to_each_example(client):
    with_context = {
        "context": example(shift=10),
        "examples": [example(x=1), example(x=4, shift=20)],
    }
    response = regress(client, "regress", input={"example_list_with_context": with_context})
    assert [one.value for one in response.result.regressions] == [12.5, 24.0]


def test_multi_inference_answers_every_task(client):
    response = multi(client, ("classify", CLASSIFY), ("regress", REGRESS))
    first, second = response.results
    assert classes(first.classification_result) == [
        [("cats", 0.25), ("dogs", 0.75)],
        [("cats", 1.0), ("dogs", 0.0)],
    ]
    assert [one.value for one in second.regression_result.regressions] == [2.125, 2.5]
    assert [one.model_spec.signature_name for one in response.results] == ["classify", "regress"]
    assert {one.model_spec.version.value for one in response.results} == {1}


@pytest.mark.parametrize("model", ["heads", "functions"])
def test_multi_inference_feeds_the_examples_to_the_input_of_every_task(client, model):
    tasks = [
        {"model_spec": spec(signature, model), "method_name": method}
        for signature, method in (
            ("regress", REGRESS),
            ("elsewhere", REGRESS),
            ("scores", CLASSIFY),
        )
    ]
    first, second, third = multi(client, tasks=tasks).results
    assert [one.value for one in first.regression_result.regressions] == [2.125, 2.5]
    assert [one.value for one in second.regression_result.regressions] == [0.0, 0.0]
    assert classes(third.classification_result) == [
        [("", 0.25), ("", 0.75)],
        [("", 1.0), ("", 0.0)],
    ]


def test_metadata_is_the_signatures_and_the_version(client):
    response = metadata(client, model_spec=spec("classify"), metadata_field=["signature_def"])
    assert (response.model_spec.name, response.model_spec.version.value) == ("heads", 1)
    assert response.model_spec.signature_name == ""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["regress"].method_name == REGRESS
    assert signatures.signature_def["regress"].inputs["inputs"].name == "tf_example:0"


def test_default_value_stands_for_an_input_that_is_not_sent(client):
    one = np.array([[1]], np.float32)
    assert client.predict(request("heads", {"x": one}, "optional")).outputs["sum"].float_val == [
        11.0
    ]
    both = {"x": one, "a": np.array([2], np.float32)}
    assert client.predict(request("heads", both, "optional")).outputs["sum"].float_val == [3.0]


def test_last_value_stands_for_those_that_are_missing(client):
    message = request("heads", {"x": np.zeros([2, 1], np.float32)})
    message.inputs["x"].CopyFrom(
        text_format.Parse(
            "dtype: DT_FLOAT tensor_shape { dim { size: 3 } dim { size: 1 } } float_val: 2"
            " float_val: 4",
            TensorProto(),
        )
    )
    assert list(client.predict(message).outputs["y"].float_val) == [3.0, 4.0, 4.0]


@pytest.mark.parametrize(
    ("inputs", "signature", "code", "start"),
    [
        (
            {"examples": [example(y=1).SerializeToString()]},
            "examples",
            INVALID,
            "Name: <unknown>, Feature: x (data type: float) is required but could not be found.",
        ),
        (
            {"examples": [b"\xff"]},
            "examples",
            INVALID,
            "Could not parse example input, value: '\ufffd'\n\t [[{{node ParseExample/",
        ),
    ],
    ids=["no feature", "no example"],
)
def test_predict_on_examples_is_refused_with_the_text_of_the_core(
    client, inputs, signature, code, start
):
    actual, text = refusal(client.predict, request("heads", inputs, signature))
    assert actual == code
    assert text.startswith(start)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (
            {"q": [1], "p": np.ones([1, 1], np.float32)},
            "Expects arg[0] to be float but int32 is provided",
        ),
        (
            {"q": np.ones(1, np.float32), "p": ["x"]},
            "Expects arg[1] to be float but string is provided",
        ),
    ],
)
def test_wrong_type_is_named_by_its_place_among_the_tensor_names(client, inputs, text):
    assert refusal(client.predict, request("heads", inputs, "add")) == (INVALID, text)


def test_input_without_default_is_named(client):
    text = (
        "Signature input alias: x(feed name: x:0) not found in request and no default value"
        " provided. Inputs expected to be in the request {a}, or default input alias set: a"
    )
    assert refusal(client.predict, request("heads", {"a": np.ones(1, np.float32)}, "optional")) == (
        INVALID,
        text,
    )


def test_unknown_input_beside_defaults_is_named(client):
    message = request("heads", {"x": np.ones([1, 1], np.float32), "z": [1.0]}, "optional")
    text = "Inputs contains invalid name. Used request inputs: x, request input: x,z"
    assert refusal(client.predict, message) == (INVALID, text)


COMMON = [
    ({"model_spec": None}, INVALID, "Missing ModelSpec"),
    ({"model_spec": {}}, INVALID, "ModelSpec has no name specified."),
    (
        {"model_spec": spec(name="none")},
        "NOT_FOUND",
        "Servable not found for request: Latest(none)",
    ),
    (
        {"model_spec": spec(version={"value": 7})},
        "NOT_FOUND",
        "Servable not found for request: Specific(heads, 7)",
    ),
    (
        {"model_spec": spec(version_label="gold")},
        INVALID,
        "Unrecognized servable version label: gold",
    ),
]


@pytest.mark.parametrize(("fields", "code", "text"), COMMON)
@pytest.mark.parametrize("method", [classify, regress, metadata])
def test_model_that_is_not_there_is_refused(client, method, fields, code, text):
    if method is metadata:
        call = {"metadata_field": ["signature_def"], **fields}
        assert refusal(metadata, client, **call) == (code, text)
    else:
        assert refusal(method, client, "", **fields) == (code, text)


@pytest.mark.parametrize(
    ("method", "signature", "text"),
    [
        (classify, "other", "No signature was found with the name: other"),
        (classify, "bad_two_inputs", "Expected one input Tensor."),
        (classify, "bad_three_outputs", "Expected one or two output Tensors, found 3"),
        (classify, "bad_rank", "Expected Tensor shape: [batch_size num_classes] but got [1]"),
        (classify, "bad_scores_type", "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
        (classify, "bad_classes_type", "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
        (
            classify,
            "bad_columns",
            "Tensors class and score should match in dim_size(1). Got 2 vs. 1",
        ),
        (classify, "bad_float_input", "Expects arg[0] to be float but string is provided"),
        (regress, "other", "No signature was found with the name: other"),
        (regress, "bad_two_inputs", "Expected one input Tensor."),
        (regress, "classify", "Expected one output Tensor."),
        (
            regress,
            "bad_value_shape",
            (
                "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got"
                " [1,2]"
            ),
        ),
        (regress, "bad_value_type", "Expected output Tensor of DT_FLOAT.  Got: DT_INT32"),
    ],
)
def test_signature_of_another_kind_is_refused(client, method, signature, text):
    assert refusal(method, client, signature) == (INVALID, text)


@pytest.mark.parametrize(
    ("method", "signature", "start"),
    [
        (
            classify,
            "bad_input_name",
            'No classification inputs found in SignatureDef: inputs {\n  key: "x"\n',
        ),
        (
            classify,
            "bad_output_names",
            (
                'Expected classification signature outputs to contain at least one of "classes" or'
                ' "scores". Signature was: inputs {\n'
            ),
        ),
        (regress, "bad_input_name", "No regression inputs found in SignatureDef: inputs {\n"),
        (regress, "scores", "No regression outputs found in SignatureDef: inputs {\n"),
    ],
)
def test_signature_with_other_names_is_quoted(client, method, signature, start):
    code, text = refusal(method, client, signature)
    assert code == INVALID
    assert text.startswith(start)


@pytest.mark.parametrize(
    ("method", "signature", "text"),
    [
        (classify, "bad_scores_rows", "Expected scores output batch size of 3. Got: 1"),
        (regress, "bad_value_rows", "Input batch size did not match output batch size: 3 vs. 1"),
    ],
)
def test_answer_of_another_number_of_rows_is_refused(client, method, signature, text):
    assert refusal(method, client, signature, input=given(1, 2, 3)) == (INVALID, text)


@pytest.mark.parametrize(
    "empty", [{}, {"example_list": {}}, {"example_list_with_context": {"context": example(x=1)}}]
)
def test_input_without_examples_is_refused(client, empty):
    assert refusal(classify, client, "classify", input=empty) == (INVALID, "Input is empty.")
    assert refusal(regress, client, "regress", input=empty) == (INVALID, "Input is empty.")
    assert refusal(multi, client, ("regress", REGRESS), input=empty) == (INVALID, "Input is empty.")


@pytest.mark.parametrize(
    ("tasks", "code", "text"),
    [
        ([], INVALID, "ModelSpec has no name specified."),
        ([("", "", CLASSIFY)], INVALID, "ModelSpec has no name specified."),
        ([("none", "", CLASSIFY)], "NOT_FOUND", "Servable not found for request: Latest(none)"),
        (
            [("heads", "regress", REGRESS), ("", "", CLASSIFY)],
            INVALID,
            "Found ModelSpec with an empty model name.",
        ),
        (
            [("heads", "regress", REGRESS), ("half", "", CLASSIFY)],
            INVALID,
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            [("heads", "regress", REGRESS)] * 2,
            INVALID,
            "Duplicate evaluation of signature: regress",
        ),
        (
            [("heads", "other", REGRESS)],
            INVALID,
            "Requested signature not found in model graph: other",
        ),
        (
            [("heads", "regress", "predict")],
            "UNIMPLEMENTED",
            "Unsupported signature method_name: predict",
        ),
        ([("heads", "bad_two_inputs", CLASSIFY)], INVALID, "Expected one input Tensor."),
    ],
)
def test_multi_inference_is_refused(client, tasks, code, text):
    listed = [
        {"model_spec": spec(signature, name), "method_name": method}
        for name, signature, method in tasks
    ]
    assert refusal(multi, client, tasks=listed) == (code, text)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ([], "GetModelMetadataRequest must specify at least one metadata_field"),
        (["signature_def", "size"], "Metadata field size is not supported"),
    ],
)
def test_metadata_other_than_signatures_is_refused(client, fields, text):
    assert refusal(metadata, client, model_spec=spec(), metadata_field=fields) == (INVALID, text)


def test_reload_of_anything_but_a_list_is_refused(client):
    text = (
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is"
        " currently supported"
    )
    for config in ({}, {"custom_model_config": {}}):
        assert refusal(client.call, "ModelService/HandleReloadConfigRequest", config=config) == (
            INVALID,
            text,
        )
