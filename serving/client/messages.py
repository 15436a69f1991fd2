"""TensorProto to and from plain Python values."""

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from serving.protos import message


class _Kind(NamedTuple):
    number: int  # of tensorflow.DataType
    field: str  # of TensorProto
    code: str  # of the struct module; empty where values have no fixed size


# tensorflow/core/framework/types.proto and tensor.proto.
_FLOAT = _Kind(1, "float_val", "f")
_DOUBLE = _Kind(2, "double_val", "d")
_INT32 = _Kind(3, "int_val", "i")
_STRING = _Kind(7, "string_val", "")
_INT64 = _Kind(9, "int64_val", "q")
_BOOL = _Kind(10, "bool_val", "?")

_BY_NUMBER = {kind.number: kind for kind in (_FLOAT, _DOUBLE, _INT32, _STRING, _INT64, _BOOL)}
_BY_TYPE = {bytes: _STRING, str: _STRING, float: _FLOAT, int: _INT64, bool: _BOOL}

Value = bytes | str | float | int | bool


def encode(values: Sequence[Value]) -> Any:
    """Makes a TensorProto of rank 1.

    Args:
        values: at least one, all of one type: bytes or str (string), float (float32), int (int64), bool (bool).
    """
    kind = _BY_TYPE[type(values[0])]
    tensor = message("tensorflow.TensorProto")(dtype=kind.number)
    tensor.tensor_shape.dim.add(size=len(values))
    getattr(tensor, kind.field).extend(value.encode() if isinstance(value, str) else value for value in values)
    return tensor


def decode(tensor: Any) -> list[Any]:
    """Reads a TensorProto of string, float32, float64, int32, int64 or bool.

    Args:
        tensor: with its values in the typed field, as TensorFlow Serving answers by default; numbers also in
            `tensor_content`.

    Returns:
        The values in row-major order, whatever the shape; strings as bytes.

    Raises:
        ValueError: another type or encoding, or not as many values as the shape says.
    """
    kind = _BY_NUMBER.get(tensor.dtype)
    if kind is None:
        raise ValueError(f"a tensor of data type number {tensor.dtype}, which this client does not read")
    values = _unpack(kind, tensor.tensor_content) if tensor.tensor_content else list(getattr(tensor, kind.field))
    size = math.prod(dimension.size for dimension in tensor.tensor_shape.dim)
    # tensor.proto: values that are left out at the end equal the last one.
    values += values[-1:] * (size - len(values))
    if len(values) != size:
        raise ValueError(f"a tensor with {len(values)} values where its shape says {size}")
    return values


def _unpack(kind: _Kind, content: bytes) -> list[Any]:
    if not kind.code or len(content) % struct.calcsize(f"<{kind.code}"):
        raise ValueError(f"tensor_content of {len(content)} bytes for data type number {kind.number}")
    return [value for (value,) in struct.iter_unpack(f"<{kind.code}", content)]
