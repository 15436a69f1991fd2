"""Predict: from a request and a loaded version to the answer. Checks and texts are TensorFlow
Serving's, in order.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import grpc
import numpy as np
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from serving.server import tensors
from serving.server.servable import Servable
from serving.server.status import StatusError, invalid_argument

DEFAULT_SIGNATURE = "serving_default"

# Tensor name to value, and tensor names to fetch, to tensor name to value.
Run = Callable[[Mapping[str, np.ndarray], Sequence[str]], Mapping[str, np.ndarray]]


def predict(
    servable: Servable, request: PredictRequest, run: Run, as_content: bool = False
) -> PredictResponse:
    """Answers a request.

    Args:
        servable: the version that it asks for.
        request: as it came.
        run: runs that version.
        as_content: write outputs as tensor_content rather than into the typed fields.

    Raises:
        StatusError: as the real server answers.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise StatusError(
            grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
        )
    signature = servable.signatures[name]
    _check_count(signature, request.inputs)
    outputs = run_signature(
        signature, _with_defaults(signature, request.inputs), request.output_filter, run
    )
    response = PredictResponse()
    for alias, value in outputs.items():
        tensors.encode(value, response.outputs[alias], as_content)
    return response


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
    aliases = _chosen_outputs(signature, output_filter)
    feeds = checked_feeds([(signature.inputs[alias], value) for alias, value in inputs.items()])
    values = run(feeds, [signature.outputs[alias].name for alias in aliases])
    return {alias: values[signature.outputs[alias].name] for alias in aliases}


def checked_feeds(inputs: Iterable[tuple[TensorInfo, np.ndarray]]) -> dict[str, np.ndarray]:
    """Names the tensors to feed; refuses a wrong dtype, as under batching it would fail strangers'
    requests too.
    """
    # The core counts arguments by tensor name (DirectSession sorts them).
    feeds = {}
    for index, (info, value) in enumerate(sorted(inputs, key=lambda pair: pair[0].name)):
        provided = tensors.dtype_number(value)
        if info.dtype != provided:
            raise invalid_argument(
                f"Expects arg[{index}] to be {tensors.dtype_name(info.dtype)} "
                f"but {tensors.dtype_name(provided)} is provided"
            )
        feeds[info.name] = value
    return feeds


def _check_count(signature: SignatureDef, given: Iterable[str]) -> None:
    sent, expected = set(given), set(signature.inputs)
    if len(sent) > len(expected) or (len(sent) < len(expected) and not signature.defaults):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(expected)}"
            f" len({{{_join(sent)}}}) != len({{{_join(expected)}}}). Sent extra:"
            f" {{{_join(sent - expected)}}}. Missing but required: {{{_join(expected - sent)}}}."
        )


def _with_defaults(
    signature: SignatureDef, given: Mapping[str, TensorProto]
) -> dict[str, np.ndarray]:
    values = {}
    used = set()
    for alias in sorted(signature.inputs):
        if alias in given:
            used.add(alias)
            values[alias] = tensors.decode(alias, given[alias])
        elif alias in signature.defaults:
            values[alias] = tensors.decode(alias, signature.defaults[alias])
        else:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not"
                " found in request and no default value provided. Inputs expected to be in the"
                f" request {{{_join(given)}}}, or default input alias set:"
                f" {_join(signature.defaults)}"
            )
    if len(used) != len(given):
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {_join(used)}, request input:"
            f" {_join(given)}"
        )
    return values


def _chosen_outputs(signature: SignatureDef, output_filter: Sequence[str]) -> list[str]:
    chosen: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {{{_join(signature.outputs)}}}."
            )
        if alias in chosen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        chosen.append(alias)
    return chosen or sorted(signature.outputs)


def _join(names: Iterable[str]) -> str:
    return ",".join(sorted(names))
