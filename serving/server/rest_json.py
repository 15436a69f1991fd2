"""JSON of the REST predict API to arrays and back: rows (``instances``) and columns (``inputs``).

Follows tensorflow_serving/util/json_tensor.cc in what is accepted and in the texts.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf

from serving.server.status import StatusError, invalid_argument
from serving.server.tensors import dtype_name, dtype_number

_QUOTED = 256  # Characters of a value that an error text quotes.
_INTEGERS = (tf.int32, tf.int16, tf.int8, tf.uint8, tf.int64, tf.uint32, tf.uint64)
# Significant bits: a larger whole number would lose its last digits.
_FLOAT_BITS = {tf.float32: 24, tf.float64: 53}


def parse(body: bytes) -> dict[str, Any]:
    """Reads the object that a request body starts with; what follows it is ignored.

    Raises:
        StatusError: INVALID_ARGUMENT, the body does not start with a JSON object.
    """
    try:
        text = body.decode("utf-8-sig").lstrip()
        if not text:
            raise invalid_argument("JSON Parse error: The document is empty")
        document, _ = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        raise invalid_argument(f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    except (ValueError, RecursionError) as error:
        # Bytes that are no UTF-8; a number of thousands of digits; lists nested thousands deep.
        raise invalid_argument(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {_quote(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise _malformed(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return document


def inputs(document: Mapping[str, Any], dtypes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Makes the arrays of a request.

    Args:
        document: from `parse`.
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
        raise _malformed(
            document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        )
    if not isinstance(rows, list):
        raise _malformed(document, "Expecting 'instances' to be an list/array")
    if not rows:
        raise _malformed(document, "No values in 'instances' array")
    return _rows(rows, dtypes)


def dump_outputs(outputs: Mapping[str, np.ndarray], by_row: bool) -> bytes:
    """Writes an answer: ``predictions``, a list with an element per row, or ``outputs``.

    Args:
        outputs: name to array; by row they have the same first dimension.
        by_row: the request had ``instances``.

    Raises:
        StatusError: INVALID_ARGUMENT, by row: scalars or different first dimensions; a dtype that has no form in JSON.
    """
    if by_row:
        _check_rows(outputs)
    values = {name: _json_value(name, array) for name, array in outputs.items()}
    answer: Any = values
    if len(values) == 1:
        (answer,) = values.values()
    elif by_row:
        answer = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    text = json.dumps({"predictions" if by_row else "outputs": answer}, ensure_ascii=False)
    # Bytes that are no UTF-8 go out as they are.
    return text.encode("utf-8", "surrogateescape")


def _rows(rows: list[Any], dtypes: Mapping[str, int]) -> dict[str, np.ndarray]:
    named = _is_named(rows[0])
    if not named and len(dtypes) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    arrays: list[dict[str, np.ndarray]] = []
    for index, row in enumerate(rows):
        if _is_named(row) != named:
            expected, got = ("object", "list") if named else ("value/list", "object")
            raise invalid_argument(f"Expecting {expected} but got {got} at item {index} of input list")
        if named and set(row) != set(dtypes):
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object: {_quote(row)} "
                f"keys must be equal to: {','.join(sorted(dtypes))}"
            )
        try:
            arrays.append({name: _tensor(row[name] if named else row, dtype) for name, dtype in dtypes.items()})
            for name, array in arrays[-1].items():
                _check_shape(array.shape, arrays[0][name].shape)
        except StatusError as error:
            raise invalid_argument(f"Failed to process element: {index} of 'instances' list. Error: {error}") from error
    return {name: np.stack([row[name] for row in arrays]) for name in dtypes}


def _columns(value: Any, dtypes: Mapping[str, int]) -> dict[str, np.ndarray]:
    if _is_named(value):
        for name in dtypes:
            if name not in value:
                raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        return {name: _tensor(value[name], dtype) for name, dtype in dtypes.items()}
    if len(dtypes) > 1:
        raise invalid_argument(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    return {name: _tensor(value, dtype) for name, dtype in dtypes.items()}


def _is_named(value: Any) -> bool:
    """Tells an object of named inputs from a value, of which ``{"b64": "…"}`` is one."""
    return isinstance(value, dict) and not (len(value) == 1 and isinstance(value.get("b64"), str))


def _tensor(value: Any, dtype_enum: int) -> np.ndarray:
    dtype = tf.as_dtype(dtype_enum)
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    leaves = [_leaf(leaf, dtype) for leaf in _leaves(value, shape)]
    array = np.empty(len(leaves), dtype=dtype.as_numpy_dtype)
    array[:] = leaves
    return array.reshape(shape)


def _leaves(value: Any, shape: list[int]) -> Iterator[Any]:
    if not shape and not isinstance(value, list):
        yield value
    elif not shape or not isinstance(value, list) or len(value) != shape[0]:
        size, expected = len(value) if isinstance(value, list) else "none", shape[0] if shape else "none"
        raise invalid_argument(f"Encountered list at unexpected size: {size} expected size: {expected}")
    else:
        for element in value:
            yield from _leaves(element, shape[1:])


def _leaf(value: Any, dtype: tf.DType) -> Any:
    name = dtype_name(dtype.as_datatype_enum)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if dtype in _FLOAT_BITS and number:
        largest = 2 ** _FLOAT_BITS[dtype] - 1 if isinstance(value, int) else float(dtype.max)
        if largest < abs(value) != float("inf"):
            raise invalid_argument(f"Cannot convert JSON value: {_quote(value)} to {name} without loss of precision.")
        return value
    if dtype in _INTEGERS and number and isinstance(value, int) and dtype.min <= value <= dtype.max:
        return value
    if dtype == tf.bool and isinstance(value, bool):
        return value
    if dtype == tf.string and isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if dtype == tf.string and isinstance(value, dict):
        return _decode_base64(value)
    if dtype not in (*_FLOAT_BITS, *_INTEGERS, tf.bool, tf.string):
        raise StatusError(grpc.StatusCode.UNIMPLEMENTED, f"Conversion of JSON Value: {_quote(value)} to type: {name}")
    raise _malformed(value, f"Type: {_type_name(value)} is not of expected type: {name}")


def _decode_base64(value: dict[str, Any]) -> bytes:
    if _is_named(value):
        raise _malformed(value, "not formatted correctly for base64 data")
    text = value["b64"]
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise invalid_argument("Unable to base64 decode") from error


def _check_shape(shape: tuple[int, ...], first: tuple[int, ...]) -> None:
    if np.prod(shape) != np.prod(first):
        raise invalid_argument(f"Expecting tensor size: {np.prod(first):.0f} but got: {np.prod(shape):.0f}")
    if shape != first:
        raise invalid_argument(f"Expecting shape {list(first)} but got: {list(shape)}".replace(", ", ","))


def _check_rows(outputs: Mapping[str, np.ndarray]) -> None:
    rows = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if rows not in (None, len(array)):
            raise invalid_argument(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {rows}")
        rows = len(array)


def _json_value(name: str, array: np.ndarray) -> Any:
    dtype = tf.as_dtype(array.dtype)
    if dtype in (tf.float64, tf.bool, *_INTEGERS):
        return array.tolist()
    if dtype == tf.float32:
        flat = _decimals(array.ravel())
    elif dtype == tf.string:
        flat = [_json_string(name, value) for value in array.ravel().tolist()]
    else:
        raise invalid_argument(f"Failed to write JSON value for tensor type: {dtype_name(dtype_number(array))}")
    nested = np.empty(len(flat), dtype=object)
    nested[:] = flat
    return nested.reshape(array.shape).tolist()


def _decimals(values: np.ndarray) -> list[Any]:
    """Gives doubles that print as the floats do: six digits where those are enough to get the float back, else nine."""
    six = [float(f"{value:.6g}") for value in values.tolist()]
    enough = np.asarray(six, dtype=np.float32) == values
    nine = (float(f"{value:.9g}") for value in values.tolist())
    return [short if same else long for short, long, same in zip(six, nine, enough.tolist(), strict=True)]


def _json_string(name: str, value: bytes) -> Any:
    if name.endswith("_bytes"):
        return {"b64": base64.b64encode(value).decode("ascii")}
    return value.decode("utf-8", "surrogateescape")


def _type_name(value: Any) -> str:
    names = {bool: str(value), type(None): "Null", dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def _malformed(value: Any, text: str) -> StatusError:
    return invalid_argument(f"JSON Value: {_quote(value)} {text}")


def _quote(value: Any) -> str:
    return json.dumps(value)[:_QUOTED]
