"""What a request sends and asks for, held against a signature.

Order and texts of the checks are those of TensorFlow Serving (predict_util.cc) and of TensorFlow.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

from serving.server.status import invalid_argument
from serving.server.tensors import decode, dtype_name, dtype_number


def checked_feeds(inputs: Iterable[tuple[TensorInfo, np.ndarray]]) -> dict[str, np.ndarray]:
    """Names the tensors to feed.

    Args:
        inputs: what the signature says of a tensor, and its value.

    Returns:
        Tensor name to value.

    Raises:
        StatusError: INVALID_ARGUMENT, a wrong dtype, which under batching would fail strangers'
            requests too, or two values for one tensor.
    """
    # The core counts arguments by tensor name (DirectSession sorts them).
    feeds, endpoints = {}, set()
    for index, (info, value) in enumerate(sorted(inputs, key=lambda pair: pair[0].name)):
        provided = dtype_number(value)
        endpoint = info.name if ":" in info.name else f"{info.name}:0"
        if info.name and endpoint in endpoints:  # The name of a composite tensor is empty.
            raise invalid_argument(f'Endpoint "{endpoint}" fed more than once.')
        endpoints.add(endpoint)
        # A signature may leave the dtype out, or give that of a variable (100 more).
        if info.dtype and info.dtype % 100 != provided:
            raise invalid_argument(
                f"Expects arg[{index}] to be {dtype_name(info.dtype)} "
                f"but {dtype_name(provided)} is provided"
            )
        feeds[info.name] = value
    return feeds


def read_inputs(
    signature: SignatureDef, given: Mapping[str, TensorProto], most_bytes: int
) -> dict[str, np.ndarray]:
    """Reads the inputs of a request, and takes the signature's defaults for those that it leaves
    out.

    Args:
        signature: what is asked for.
        given: alias to value, as it came.
        most_bytes: that an input may take.

    Returns:
        Alias to value, for each input of the signature.

    Raises:
        StatusError: INVALID_ARGUMENT, there are others, or one cannot be read.
    """
    _check_count(signature, given)
    values = {}
    used = set()
    for alias in sorted(signature.inputs):
        if alias in given:
            used.add(alias)
            values[alias] = decode(alias, given[alias], most_bytes)
        elif alias in signature.defaults:
            values[alias] = decode(alias, signature.defaults[alias])
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


def _check_count(signature: SignatureDef, given: Iterable[str]) -> None:
    sent, expected = set(given), set(signature.inputs)
    if len(sent) > len(expected) or (len(sent) < len(expected) and not signature.defaults):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(expected)}"
            f" len({{{_join(sent)}}}) != len({{{_join(expected)}}}). Sent extra:"
            f" {{{_join(sent - expected)}}}. Missing but required: {{{_join(expected - sent)}}}."
        )


def chosen_outputs(signature: SignatureDef, output_filter: Sequence[str]) -> list[str]:
    """Lists the aliases to answer: those of a filter, or all.

    Raises:
        StatusError: INVALID_ARGUMENT, the signature has no such output, or one comes twice.
    """
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
