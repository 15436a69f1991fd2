"""Arrays from a REST predict request: by rows (``instances``) or by columns (``inputs``).

Follows tensorflow_serving/util/json_tensor.cc in what is accepted and in the texts.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.example.example_pb2 import Example
from tensorflow.core.example.feature_pb2 import Feature
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.regression_pb2 import RegressionRequest

from serving.server.rest_json import (
    FLOAT_BITS,
    INTEGERS,
    Repeated,
    as_float,
    decode_base64,
    is_base64,
    malformed,
    number,
    quote,
    type_name,
)
from serving.server.status import StatusError, invalid_argument, unimplemented
from serving.server.tensors import dtype_name, known_dtype

_MAX_RANK = 31  # NumPy 1 holds 32 dimensions, and rows add one.
# What JSON may say for a value of a dtype, but for strings, which are decoded.
_AS_THEY_ARE: dict[tf.DType, set[type]] = {
    **{dtype: {int, float} for dtype in FLOAT_BITS},
    **{dtype: {int} for dtype in INTEGERS},
    tf.bool: {bool},
    tf.string: set(),
}


def inputs(document: Mapping[str, Any], dtypes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Makes the arrays of a request.

    Args:
        document: from `rest_json.parse`.
        dtypes: input name to number in the enum DataType, at least one.

    Raises:
        StatusError: the document does not fit the inputs.
    """
    if "instances" not in document and "inputs" not in document:
        raise invalid_argument("Missing 'inputs' or 'instances' key")
    if "instances" not in document:
        return _columns(document["inputs"], dtypes)
    rows = document["instances"]
    if "inputs" in document:
        raise malformed(
            document,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        )
    if not isinstance(rows, list):
        raise malformed(document, "Expecting 'instances' to be an list/array")
    if not rows:
        raise malformed(document, "No values in 'instances' array")
    return _rows(rows, dtypes)


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _rows(rows: list[Any], dtypes: Mapping[str, int]) -> dict[str, np.ndarray]:
    named = _is_named(rows[0])
    if not named and len(dtypes) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors"
            " required as per tensorinfo_map"
        )
    columns = {}
    if named and all(_is_named(row) and row.keys() == dtypes.keys() for row in rows):
        columns = {name: [row[name] for row in rows] for name in dtypes}
    elif not named and not any(map(_is_named, rows)):
        columns = dict.fromkeys(dtypes, rows)
    try:
        return {name: _tensor(columns[name], dtype) for name, dtype in dtypes.items()}
    except (KeyError, StatusError):
        return _row_by_row(rows, named, dtypes)


def _row_by_row(rows: list[Any], named: bool, dtypes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Does the same slowly, and so finds the first thing that is wrong."""
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in dtypes}
    for index, row in enumerate(rows):
        if _is_named(row) != named:
            expected, got = ("object", "list") if named else ("value/list", "object")
            raise invalid_argument(
                f"Expecting {expected} but got {got} at item {index} of input list"
            )
        for name, value in row.items() if named else zip(dtypes, [row], strict=True):
            try:
                if name not in dtypes:
                    raise invalid_argument(f"JSON object: does not have named input: {name}")
                arrays[name].append(_tensor(value, dtypes[name]))
                _check_shape(arrays[name][-1].shape, arrays[name][0].shape)
            except StatusError as error:
                key = f" key: {name}" if named else ""
                raise invalid_argument(
                    f"Failed to process element: {index}{key} of 'instances' list. Error: {error}"
                ) from error
        if named and row.keys() != dtypes.keys():
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object: {quote(row)}"
                f" keys must be equal to: {','.join(sorted(dtypes))}"
            )
    return {name: np.stack(each) for name, each in arrays.items()}


def _columns(value: Any, dtypes: Mapping[str, int]) -> dict[str, np.ndarray]:
    if _is_named(value):
        for name in dtypes:
            if name not in value:
                raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        return {name: _tensor(value[name], dtype) for name, dtype in dtypes.items()}
    if len(dtypes) > 1:
        raise invalid_argument(
            "inputs is a plain value/list, but expecting an object as multiple input tensors"
            " required as per tensorinfo_map"
        )
    return {name: _tensor(value, dtype) for name, dtype in dtypes.items()}


def _tensor(value: Any, dtype_enum: int) -> np.ndarray:
    """Makes an array level by level, which is many times faster than value by value."""
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    if len(shape) > _MAX_RANK:
        raise invalid_argument(
            f"Expecting at most {_MAX_RANK} levels of lists but got: {len(shape)}"
        )
    dtype = known_dtype(dtype_enum)
    if dtype is None:
        raise _not_convertible(inner, dtype_enum)
    leaves = [value]
    for level, size in enumerate(shape):
        if set(map(type, leaves)) != {list} or set(map(len, leaves)) != {size}:
            raise _uneven(leaves, level, shape)
        leaves = list(chain.from_iterable(leaves))
    types = set(map(type, leaves))
    if list in types:
        raise invalid_argument(
            f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)}"
        )
    if not (types <= _AS_THEY_ARE.get(dtype, set()) and _in_range(leaves, dtype)):
        leaves = [_leaf(leaf, dtype) for leaf in leaves]
    return np.array(leaves, dtype.as_numpy_dtype).reshape(shape)


def _uneven(values: list[Any], level: int, shape: Sequence[int]) -> StatusError:
    """Makes the error about the first value of a level that is no list of the size expected."""
    for value in values:
        if not isinstance(value, list):
            return malformed(
                value,
                f"found at incorrect level: {level + 1} in the JSON DOM. Expected at level:"
                f" {len(shape)}",
            )
        if len(value) != shape[level]:
            break
    return invalid_argument(
        f"Encountered list at unexpected size: {len(value)} at level: {level} expected size:"
        f" {shape[level]}"
    )


def _in_range(leaves: list[Any], dtype: tf.DType) -> bool:
    """Tells whether every number keeps its value."""
    if dtype in INTEGERS:
        return not leaves or dtype.min <= min(leaves) <= max(leaves) <= dtype.max
    if dtype not in FLOAT_BITS:
        return True
    largest = 2 ** FLOAT_BITS[dtype] - 1
    if any(type(leaf) is int and abs(leaf) > largest for leaf in leaves):
        return False
    return bool((np.abs(np.array(leaves, np.float64)) <= dtype.max).all())


def _leaf(value: Any, dtype: tf.DType) -> Any:
    name = dtype_name(dtype.as_datatype_enum)
    if isinstance(value, dict) and dtype == tf.string:
        return decode_base64(value)
    if dtype not in _AS_THEY_ARE and not isinstance(value, dict):
        raise _not_convertible(value, dtype.as_datatype_enum)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if dtype in FLOAT_BITS:
            return as_float(value, dtype)
        if dtype in INTEGERS and isinstance(value, int) and dtype.min <= value <= dtype.max:
            return value
    if isinstance(value, bool) and dtype == tf.bool:
        return value
    if isinstance(value, str) and dtype == tf.string:
        return value.encode("utf-8")
    raise malformed(value, f"Type: {type_name(value)} is not of expected type: {name}")


def _not_convertible(value: Any, dtype_enum: int) -> StatusError:
    return unimplemented(
        f"Conversion of JSON Value: {quote(value)} to type: {dtype_name(dtype_enum)}"
    )


def _check_shape(shape: tuple[int, ...], first: tuple[int, ...]) -> None:
    if math.prod(shape) != math.prod(first):
        raise invalid_argument(
            f"Expecting tensor size: {math.prod(first)} but got: {math.prod(shape)}"
        )
    if shape != first:
        raise invalid_argument(
            f"Expecting shape {list(first)} but got: {list(shape)}".replace(", ", ",")
        )


# JSON of the REST classify and regress APIs to a request with tf.Examples.
#
# Follows tensorflow_serving/util/json_tensor.cc in what is accepted and in the texts.


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
    for name, content in (value.last if isinstance(value, Repeated) else value).items():
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
        raise invalid_argument(
            f"Unexpected element type in feature: {name} expecting type:"
            f" {present.removesuffix('_list')}"
        )
    return getattr(feature, kind).value
