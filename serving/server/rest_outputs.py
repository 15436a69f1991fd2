"""Answers of the model as JSON of the REST API: predictions, classes, numbers.

Numbers are written as tensorflow_serving/util/json_tensor.cc writes them, and outputs are refused
with its texts.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.classification_pb2 import ClassificationResult
from tensorflow_serving.apis.regression_pb2 import RegressionResult

from serving.server.status import invalid_argument
from serving.server.tensors import dtype_name, dtype_number

_INTEGERS = (tf.int32, tf.int16, tf.int8, tf.uint8, tf.int64, tf.uint32, tf.uint64)
_DIGITS = {np.dtype(np.float32): 9, np.dtype(np.float64): 17}  # std::numeric_limits<>::max_digits10
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def dump_outputs(outputs: Mapping[str, np.ndarray], by_row: bool) -> bytes:
    """Writes an answer: ``predictions``, a list with an element per row, or ``outputs``.

    Args:
        outputs: name to array; by row they have the same first dimension.
        by_row: the request had ``instances``.

    Raises:
        StatusError: INVALID_ARGUMENT, by row: scalars or different first dimensions; a dtype that
            has no form in JSON.
    """
    if not outputs:
        raise invalid_argument("Cannot convert empty tensor map to JSON")
    if by_row:
        _check_rows(outputs)
    if len(outputs) > 1 and by_row:
        rows = zip(*(_elements(name, array) for name, array in outputs.items()), strict=True)
        answer = _list([_object(outputs, row) for row in rows])
    else:
        values = [
            _list(_elements(name, array)) if array.ndim else _elements(name, array)[0]
            for name, array in outputs.items()
        ]
        answer = _object(outputs, values) if len(values) > 1 else values[0]
    # Bytes that are no UTF-8 go out as they are.
    return _object(["predictions" if by_row else "outputs"], [answer]).encode(
        "utf-8", "surrogateescape"
    )


def dump_classes(result: ClassificationResult) -> bytes:
    """Writes ``{"results": [[["label", score], …], …]}``.

    Raises:
        StatusError: INVALID_ARGUMENT, there is nothing to write.
    """
    if not result.classifications:
        raise invalid_argument("Cannot convert empty ClassificationResults to JSON")
    examples = []
    for classification in result.classifications:
        scores = _decimals(np.array([each.score for each in classification.classes], np.float32))
        labels = [json.dumps(each.label, ensure_ascii=False) for each in classification.classes]
        examples.append(_list([_list(pair) for pair in zip(labels, scores, strict=True)]))
    return _object(["results"], [_list(examples)]).encode("utf-8")


def dump_numbers(result: RegressionResult) -> bytes:
    """Writes ``{"results": [value, …]}``.

    Raises:
        StatusError: INVALID_ARGUMENT, there is nothing to write.
    """
    if not result.regressions:
        raise invalid_argument("Cannot convert empty RegressionResults to JSON")
    values = np.array([regression.value for regression in result.regressions], np.float32)
    return _object(["results"], [_list(_decimals(values))]).encode("utf-8")


def _check_rows(outputs: Mapping[str, np.ndarray]) -> None:
    rows = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if rows not in (None, len(array)):
            raise invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {rows}"
            )
        rows = len(array)


def _elements(name: str, array: np.ndarray) -> list[str]:
    """Writes each element of the first dimension; a scalar is the only one."""
    shape = array.shape
    texts = _scalars(name, array.ravel())
    for axis in range(len(shape) - 1, 0, -1):
        size = shape[axis]
        texts = [
            _list(texts[each * size : (each + 1) * size]) for each in range(math.prod(shape[:axis]))
        ]
    return texts


def _scalars(name: str, flat: np.ndarray) -> list[str]:
    dtype = tf.as_dtype(flat.dtype)
    if flat.dtype in _DIGITS:
        return _decimals(flat)
    if dtype in _INTEGERS:
        return list(map(str, flat.tolist()))
    if dtype == tf.bool:
        return ["true" if value else "false" for value in flat.tolist()]
    if dtype == tf.string and name.endswith("_bytes"):
        return [
            f'{{"b64": "{base64.b64encode(value).decode("ascii")}"}}' for value in flat.tolist()
        ]
    if dtype == tf.string:
        return [
            json.dumps(value.decode("utf-8", "surrogateescape"), ensure_ascii=False)
            for value in flat.tolist()
        ]
    raise invalid_argument(
        f"Failed to write JSON value for tensor type: {dtype_name(dtype_number(flat))}"
    )


def _decimals(values: np.ndarray) -> list[str]:
    """Writes floats: six digits where those give the float back, else as many as it takes; none
    looks like an int.
    """
    numbers = values.tolist()
    six = [f"{value:.6g}" for value in numbers]
    enough = (np.array(list(map(float, six))).astype(values.dtype) == values).tolist()
    digits = _DIGITS[values.dtype]
    texts = [
        short if same else f"{value:.{digits}g}"
        for short, same, value in zip(six, enough, numbers, strict=True)
    ]
    return [
        text if "." in text or "e" in text else _NOT_FINITE.get(text, f"{text}.0") for text in texts
    ]


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(texts)}]"


def _object(names: Mapping[str, object] | Sequence[str], texts: Sequence[str]) -> str:
    pairs = (f"{json.dumps(name)}: {text}" for name, text in zip(names, texts, strict=True))
    return f"{{{', '.join(pairs)}}}"
