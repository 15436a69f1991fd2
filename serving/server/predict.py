"""Predict, Classify, Regress and MultiInference: from a request and a loaded version to the answer.

Order and texts of the checks are TensorFlow Serving's (predict_util.cc, classifier.cc,
regressor.cc, multi_inference.cc).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow.python.saved_model.signature_constants import (
    CLASSIFY_INPUTS,
    CLASSIFY_METHOD_NAME,
    CLASSIFY_OUTPUT_CLASSES,
    CLASSIFY_OUTPUT_SCORES,
    DEFAULT_SERVING_SIGNATURE_DEF_KEY,
    REGRESS_METHOD_NAME,
    REGRESS_OUTPUTS,
)
from tensorflow_serving.apis.classification_pb2 import (
    ClassificationRequest,
    ClassificationResponse,
    ClassificationResult,
)
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest, MultiInferenceResponse
from tensorflow_serving.apis.input_pb2 import Input
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.regression_pb2 import (
    RegressionRequest,
    RegressionResponse,
    RegressionResult,
)

from serving.server.servable import Servable
from serving.server.status import failed_precondition, invalid_argument, unimplemented
from serving.server.tensors import (
    MOST_BYTES,
    checked_feeds,
    chosen_outputs,
    dtype_number,
    encode,
    read_inputs,
)

DEFAULT_SIGNATURE = DEFAULT_SERVING_SIGNATURE_DEF_KEY

# Tensor name to value, and tensor names to fetch, to tensor name to value.
Run = Callable[[Mapping[str, np.ndarray], Sequence[str]], Mapping[str, np.ndarray]]


def answer(
    servable: Servable,
    request: Any,
    run: Run,
    as_content: bool = False,
    most_bytes: int = MOST_BYTES,
) -> Any:
    """Answers a request.

    Args:
        servable: the version that it asks for.
        request: of Predict, Classify, Regress or MultiInference, as it came.
        run: runs that version.
        as_content: write outputs of Predict as tensor_content rather than into the typed fields.
        most_bytes: that an input of Predict may take.

    Returns:
        The response of the same method.

    Raises:
        StatusError: as the real server answers.
    """
    if isinstance(request, MultiInferenceRequest):
        return _multi_inference(servable, request, run)
    spec = request.model_spec
    name = spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    response: Any
    if isinstance(request, PredictRequest):
        if signature is None:
            raise failed_precondition(f'Serving signature key "{name}" not found.')
        inputs = read_inputs(signature, request.inputs, most_bytes)
        outputs = run_signature(signature, inputs, request.output_filter, run)
        response = PredictResponse()
        for alias, value in outputs.items():
            encode(value, response.outputs[alias], as_content)
    else:
        if signature is None:
            raise invalid_argument(f"No signature was found with the name: {name}")
        method, make_response = _ON_EXAMPLES[type(request)]
        count, fetched = _run([signature], request.input, _outputs(signature, method), run)
        response = make_response(result=_METHODS[method][1](signature, count, fetched))
    _name_version(response.model_spec, spec, servable)
    return response


def _name_version(answered: ModelSpec, requested: ModelSpec, servable: Servable) -> None:
    answered.name = requested.name
    answered.signature_name = requested.signature_name or DEFAULT_SIGNATURE
    answered.version.value = servable.version


def run_signature(
    signature: SignatureDef,
    inputs: Mapping[str, np.ndarray],
    output_filter: Sequence[str],
    run: Run,
) -> dict[str, np.ndarray]:
    """Runs a signature.

    Args:
        signature: of the version that `run` runs.
        inputs: alias to value, for each input of the signature.
        output_filter: aliases to answer; empty for all.
        run: see there.

    Returns:
        Alias to value, in the order asked for.
    """
    aliases = chosen_outputs(signature, output_filter)
    feeds = checked_feeds([(signature.inputs[alias], value) for alias, value in inputs.items()])
    values = run(feeds, [signature.outputs[alias].name for alias in aliases])
    return {alias: values[signature.outputs[alias].name] for alias in aliases}


# Signatures whose input is a batch of serialized tf.Examples.

# Tensor name to value, as fetched.
_Fetched = Mapping[str, np.ndarray]


def _multi_inference(
    servable: Servable, request: MultiInferenceRequest, run: Run
) -> MultiInferenceResponse:
    """Answers several tasks with one run."""
    if not request.tasks:
        raise invalid_argument("ModelSpec has no name specified.")
    signatures: dict[str, SignatureDef] = {}
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
            raise unimplemented(f"Unsupported signature method_name: {task.method_name}")
        signature = signatures[name] = servable.signatures[name]
        fetches.update(_outputs(signature, task.method_name))
    count, fetched = _run(signatures.values(), request.input, sorted(fetches), run)
    response = MultiInferenceResponse()
    for task, signature in zip(request.tasks, signatures.values(), strict=True):
        field, read = _METHODS[task.method_name]
        result = response.results.add()
        getattr(result, field).CopyFrom(read(signature, count, fetched))
        _name_version(result.model_spec, task.model_spec, servable)
    return response


def _run(
    signatures: Iterable[SignatureDef], given: Input, fetches: Sequence[str], run: Run
) -> tuple[int, _Fetched]:
    # Concatenated messages are merged ones: each example gets the features of the context.
    with_context = given.example_list_with_context
    serialized = [
        with_context.context.SerializeToString() + example.SerializeToString()
        for example in with_context.examples or given.example_list.examples
    ]
    if not serialized:
        raise invalid_argument("Input is empty.")
    # In exports of TensorFlow 2 each signature has an input tensor of its own.
    infos = {one.inputs[CLASSIFY_INPUTS].name: one.inputs[CLASSIFY_INPUTS] for one in signatures}
    feeds = checked_feeds((info, np.array(serialized, object)) for info in infos.values())
    return len(serialized), run(feeds, fetches)


def _outputs(signature: SignatureDef, method: str) -> list[str]:
    """Names the tensors that a method reads."""
    regress = method == REGRESS_METHOD_NAME
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if regress and len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(
            f"Expected one or two output Tensors, found {len(signature.outputs)}"
        )
    noun = "regression" if regress else "classification"
    if CLASSIFY_INPUTS not in signature.inputs:
        raise invalid_argument(f"No {noun} inputs found in SignatureDef: {signature}")
    wanted = (REGRESS_OUTPUTS,) if regress else (CLASSIFY_OUTPUT_CLASSES, CLASSIFY_OUTPUT_SCORES)
    names = [signature.outputs[alias].name for alias in wanted if alias in signature.outputs]
    if regress and not names:
        raise invalid_argument(f"No regression outputs found in SignatureDef: {signature}")
    if not names:
        raise invalid_argument(
            "Expected classification signature outputs to contain at least one of"
            f' "{CLASSIFY_OUTPUT_CLASSES}" or "{CLASSIFY_OUTPUT_SCORES}". Signature was:'
            f" {signature}"
        )
    return names


def _classification(signature: SignatureDef, count: int, fetched: _Fetched) -> ClassificationResult:
    classes = _matrix(signature, CLASSIFY_OUTPUT_CLASSES, "DT_STRING", count, fetched)
    scores = _matrix(signature, CLASSIFY_OUTPUT_SCORES, "DT_FLOAT", count, fetched)
    if classes is None:
        classes = np.full_like(scores, b"", object)
    if scores is None:
        scores = np.zeros(classes.shape)
    if classes.shape[1] != scores.shape[1]:
        raise invalid_argument(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs."
            f" {scores.shape[1]}"
        )
    result = ClassificationResult()
    for labels, values in zip(classes, scores, strict=True):
        classification = result.classifications.add()
        for label, score in zip(labels.tolist(), values.tolist(), strict=True):
            classification.classes.add(label=label.decode("utf-8", "replace"), score=score)
    return result


def _matrix(
    signature: SignatureDef, alias: str, dtype: str, count: int, fetched: _Fetched
) -> np.ndarray | None:
    if alias not in signature.outputs:
        return None
    value = fetched[signature.outputs[alias].name]
    if value.ndim != 2:
        raise invalid_argument(
            f"Expected Tensor shape: [batch_size num_classes] but got {_shape(value)}"
        )
    found = DataType.Name(dtype_number(value))
    if found != dtype:
        raise invalid_argument(f"Expected {alias} Tensor of {dtype}. Got: {found}")
    if len(value) != count:
        raise invalid_argument(f"Expected {alias} output batch size of {count}. Got: {len(value)}")
    return value


def _regression(signature: SignatureDef, count: int, fetched: _Fetched) -> RegressionResult:
    value = fetched[signature.outputs[REGRESS_OUTPUTS].name]
    if value.ndim != 1 and value.shape[1:] != (1,):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got"
            f" {_shape(value)}"
        )
    if len(value) != count:
        raise invalid_argument(
            f"Input batch size did not match output batch size: {count} vs. {len(value)}"
        )
    found = DataType.Name(dtype_number(value))
    if found != "DT_FLOAT":
        # Two spaces, as in regressor.cc.
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {found}")
    return RegressionResult(regressions=[{"value": number} for number in value.ravel().tolist()])


def _shape(value: np.ndarray) -> str:
    return f"[{','.join(map(str, value.shape))}]"


# Where the result of a task goes, and how it is read.
_METHODS: dict[str, tuple[str, Callable[..., Any]]] = {
    CLASSIFY_METHOD_NAME: ("classification_result", _classification),
    REGRESS_METHOD_NAME: ("regression_result", _regression),
}
# By the class of a request: its method, and the class of the response.
_ON_EXAMPLES: dict[type, tuple[str, Callable[..., Any]]] = {
    ClassificationRequest: (CLASSIFY_METHOD_NAME, ClassificationResponse),
    RegressionRequest: (REGRESS_METHOD_NAME, RegressionResponse),
}
