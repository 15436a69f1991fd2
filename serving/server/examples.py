"""Classify, Regress and MultiInference: the signatures whose input is a batch of serialized
tf.Examples.

Order and texts of the checks are TensorFlow Serving's (classifier.cc, regressor.cc,
multi_inference.cc).
"""

from collections.abc import Callable, Mapping, Sequence

import grpc
import numpy as np
from google.protobuf.message import Message
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow.python.saved_model import signature_constants
from tensorflow_serving.apis.classification_pb2 import ClassificationResult
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest, MultiInferenceResponse
from tensorflow_serving.apis.input_pb2 import Input
from tensorflow_serving.apis.regression_pb2 import RegressionResult

from serving.server.prediction import DEFAULT_SIGNATURE, Run, checked_feeds, dtype_number
from serving.server.servable import Servable
from serving.server.status import StatusError, invalid_argument

_INPUTS = signature_constants.CLASSIFY_INPUTS  # Regress has the same.
_CLASSES = signature_constants.CLASSIFY_OUTPUT_CLASSES
_SCORES = signature_constants.CLASSIFY_OUTPUT_SCORES
_OUTPUTS = signature_constants.REGRESS_OUTPUTS

# Tensor name to value, as fetched.
_Fetched = Mapping[str, np.ndarray]


def classify(
    servable: Servable, signature_name: str, given: Input, run: Run
) -> ClassificationResult:
    """Gives every example its classes.

    Args:
        servable: the version that is asked for.
        signature_name: empty for the default.
        given: the examples.
        run: runs that version.

    Raises:
        StatusError: as the real server answers.
    """
    signature = _signature(servable, signature_name)
    fetches = _classification_outputs(signature)
    return _classification(signature, *_run(signature, given, fetches, run))


def regress(servable: Servable, signature_name: str, given: Input, run: Run) -> RegressionResult:
    """Gives every example its value; arguments and errors as in `classify`."""
    signature = _signature(servable, signature_name)
    fetches = _regression_outputs(signature)
    return _regression(signature, *_run(signature, given, fetches, run))


def multi_inference(
    servable: Servable, request: MultiInferenceRequest, run: Run
) -> MultiInferenceResponse:
    """Answers several tasks with one run.

    Args:
        servable: the version that the first task asks for.
        request: as it came.
        run: runs that version.

    Returns:
        A result per task, in their order, without model_spec.

    Raises:
        StatusError: as the real server answers.
    """
    if not request.tasks:
        raise invalid_argument("ModelSpec has no name specified.")
    signatures: dict[str, SignatureDef] = {}
    readers = []
    fetches: set[str] = set()
    for task in request.tasks:
        spec = task.model_spec
        if not spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        if spec.name != request.tasks[0].model_spec.name:
            raise invalid_argument(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        name = spec.signature_name or DEFAULT_SIGNATURE
        if name in signatures:
            raise invalid_argument(f"Duplicate evaluation of signature: {name}")
        if name not in servable.signatures:
            raise invalid_argument(f"Requested signature not found in model graph: {name}")
        if task.method_name not in _METHODS:
            raise StatusError(
                grpc.StatusCode.UNIMPLEMENTED,
                f"Unsupported signature method_name: {task.method_name}",
            )
        signature = signatures[name] = servable.signatures[name]
        outputs, field, reader = _METHODS[task.method_name]
        fetches.update(outputs(signature))
        readers.append((field, reader))
        if signature.inputs[_INPUTS].name != next(iter(signatures.values())).inputs[_INPUTS].name:
            raise invalid_argument("Input tensor must be the same for all Signatures.")
    first = next(iter(signatures.values()))
    count, fetched = _run(first, request.input, sorted(fetches), run)
    response = MultiInferenceResponse()
    for (field, reader), signature in zip(readers, signatures.values(), strict=True):
        getattr(response.results.add(), field).CopyFrom(reader(signature, count, fetched))
    return response


def _signature(servable: Servable, signature_name: str) -> SignatureDef:
    name = signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise invalid_argument(f"No signature was found with the name: {name}")
    return servable.signatures[name]


def _run(
    signature: SignatureDef, given: Input, fetches: Sequence[str], run: Run
) -> tuple[int, _Fetched]:
    examples = _serialized(given)
    return len(examples), run(checked_feeds([(signature.inputs[_INPUTS], examples)]), fetches)


def _serialized(given: Input) -> np.ndarray:
    if given.WhichOneof("kind") == "example_list_with_context":
        # Concatenated messages are merged ones: each example gets the features of the context.
        listed = given.example_list_with_context
        serialized = [
            listed.context.SerializeToString() + example.SerializeToString()
            for example in listed.examples
        ]
    else:
        serialized = [one.SerializeToString() for one in given.example_list.examples]
    if not serialized:
        raise invalid_argument("Input is empty.")
    array = np.empty(len(serialized), dtype=object)
    array[:] = serialized
    return array


def _classification_outputs(signature: SignatureDef) -> list[str]:
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(
            f"Expected one or two output Tensors, found {len(signature.outputs)}"
        )
    if _INPUTS not in signature.inputs:
        raise invalid_argument(f"No classification inputs found in SignatureDef: {signature}")
    names = [
        signature.outputs[alias].name for alias in (_CLASSES, _SCORES) if alias in signature.outputs
    ]
    if not names:
        raise invalid_argument(
            f'Expected classification signature outputs to contain at least one of "{_CLASSES}" or'
            f' "{_SCORES}". Signature was: {signature}'
        )
    return names


def _classification(signature: SignatureDef, count: int, fetched: _Fetched) -> ClassificationResult:
    classes = _checked_matrix(signature, _CLASSES, "DT_STRING", count, fetched)
    scores = _checked_matrix(signature, _SCORES, "DT_FLOAT", count, fetched)
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise invalid_argument(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs."
            f" {scores.shape[1]}"
        )
    result = ClassificationResult()
    for row in range(count):
        one = result.classifications.add()
        labels = None if classes is None else classes[row].tolist()
        values = None if scores is None else scores[row].tolist()
        for column in range(len(labels if labels is not None else values or ())):
            entry = one.classes.add()
            if labels is not None:
                entry.label = labels[column].decode("utf-8", "replace")
            if values is not None:
                entry.score = values[column]
    return result


def _checked_matrix(
    signature: SignatureDef, alias: str, dtype: str, count: int, fetched: _Fetched
) -> np.ndarray | None:
    if alias not in signature.outputs:
        return None
    value = fetched[signature.outputs[alias].name]
    if value.ndim != 2:
        raise invalid_argument(
            f"Expected Tensor shape: [batch_size num_classes] but got {_shape(value)}"
        )
    if DataType.Name(dtype_number(value)) != dtype:
        got = DataType.Name(dtype_number(value))
        raise invalid_argument(f"Expected {alias} Tensor of {dtype}. Got: {got}")
    if len(value) != count:
        raise invalid_argument(f"Expected {alias} output batch size of {count}. Got: {len(value)}")
    return value


def _regression_outputs(signature: SignatureDef) -> list[str]:
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if _INPUTS not in signature.inputs:
        raise invalid_argument(f"No regression inputs found in SignatureDef: {signature}")
    if _OUTPUTS not in signature.outputs:
        raise invalid_argument(f"No regression outputs found in SignatureDef: {signature}")
    return [signature.outputs[_OUTPUTS].name]


def _regression(signature: SignatureDef, count: int, fetched: _Fetched) -> RegressionResult:
    value = fetched[signature.outputs[_OUTPUTS].name]
    if not (value.ndim == 1 or (value.ndim == 2 and value.shape[1] == 1)):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got"
            f" {_shape(value)}"
        )
    if len(value) != count:
        raise invalid_argument(
            f"Input batch size did not match output batch size: {count} vs. {len(value)}"
        )
    if DataType.Name(dtype_number(value)) != "DT_FLOAT":
        # Two spaces, as in regressor.cc.
        raise invalid_argument(
            f"Expected output Tensor of DT_FLOAT.  Got: {DataType.Name(dtype_number(value))}"
        )
    result = RegressionResult()
    for number in value.ravel().tolist():
        result.regressions.add(value=number)
    return result


def _shape(value: np.ndarray) -> str:
    return f"[{','.join(map(str, value.shape))}]"


# What to fetch, where the result goes, and how it is read.
_METHODS: dict[str, tuple[Callable[..., list[str]], str, Callable[..., Message]]] = {
    signature_constants.CLASSIFY_METHOD_NAME: (
        _classification_outputs,
        "classification_result",
        _classification,
    ),
    signature_constants.REGRESS_METHOD_NAME: (
        _regression_outputs,
        "regression_result",
        _regression,
    ),
}
