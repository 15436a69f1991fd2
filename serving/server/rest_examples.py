"""JSON of the REST classify and regress APIs to a request with tf.Examples.

Follows tensorflow_serving/util/json_tensor.cc in what is accepted and in the texts.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.example.example_pb2 import Example
from tensorflow.core.example.feature_pb2 import Feature
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.regression_pb2 import RegressionRequest

from serving.server.rest_json import (
    as_float,
    decode_base64,
    is_base64,
    malformed,
    number,
    type_name,
)
from serving.server.status import StatusError, invalid_argument

_KIND_NAMES = {"int64_list": "int64", "float_list": "float", "bytes_list": "bytes"}


def fill(document: Mapping[str, Any], request: ClassificationRequest | RegressionRequest) -> None:
    """Puts signature name, examples and context of a request body into a message.

    Args:
        document: from `rest_json.parse`.
        request: its model_spec names the model.

    Raises:
        StatusError: INVALID_ARGUMENT, the document has no examples, or one that has no form as a
            tf.Example.
    """
    request.model_spec.signature_name = document.get("signature_name", "")
    if "context" in document:
        _fill_example(document["context"], request.input.example_list_with_context.context)
        examples = request.input.example_list_with_context.examples
    else:
        examples = request.input.example_list.examples
    if "examples" not in document:
        # The real server says classify for regress too.
        raise malformed(
            document, "When method is classify, key 'examples' is expected and was not found"
        )
    if not isinstance(document["examples"], list):
        raise malformed(document, "Expecting 'examples' value to be an list/array")
    if not document["examples"]:
        raise malformed(document, "'examples' value is an empty array")
    for value in document["examples"]:
        _fill_example(value, examples.add())


def _fill_example(value: Any, example: Example) -> None:
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {type_name(value)}")
    # An example without features is one too.
    example.features.SetInParent()
    for name, content in value.items():
        feature = example.features.feature[name]
        for each in content if isinstance(content, list) else [content]:
            _add(each, name, feature)


def _add(value: Any, name: str, feature: Feature) -> None:
    if isinstance(value, bool):
        _list_of("int64_list", name, feature).append(int(value))
    elif isinstance(value, str):
        _list_of("bytes_list", name, feature).append(value.encode("utf-8"))
    elif is_base64(value):
        _list_of("bytes_list", name, feature).append(decode_base64(value))
    elif not isinstance(value, (int, float)):
        raise invalid_argument(
            f"Feature: {name} has element with unexpected JSON type: {type_name(value)}"
        )
    elif isinstance(number(value), float):
        _list_of("float_list", name, feature).append(as_float(value, tf.float32))
    else:
        values = _list_of("int64_list", name, feature)
        if value >= 2**63:
            raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
        values.append(value)


def _list_of(kind: str, name: str, feature: Feature) -> Any:
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        raise _mixed(name, present)
    return getattr(feature, kind).value


def _mixed(name: str, present: str) -> StatusError:
    return invalid_argument(
        f"Unexpected element type in feature: {name} expecting type: {_KIND_NAMES[present]}"
    )
