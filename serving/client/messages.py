"""TensorProto to and from plain Python values and NumPy arrays; NumPy is never imported, only met."""

import math
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeGuard

from serving.protos import message


class Kind(NamedTuple):
    """One type of tensor elements."""

    number: int  # of tensorflow.DataType
    name: str  # as TensorFlow and NumPy write it
    field: str  # of TensorProto
    code: str  # of the struct module, and of NumPy; empty where values have no fixed size


# tensorflow/core/framework/types.proto and tensor.proto.
_FLOAT = Kind(1, "float32", "float_val", "f")
_STRING = Kind(7, "string", "string_val", "")
_INT64 = Kind(9, "int64", "int64_val", "q")
_BOOL = Kind(10, "bool", "bool_val", "?")
_HALF = Kind(19, "float16", "half_val", "e")
KINDS = {
    kind.number: kind
    for kind in (
        _FLOAT,
        Kind(2, "float64", "double_val", "d"),
        Kind(3, "int32", "int_val", "i"),
        Kind(4, "uint8", "int_val", "B"),
        Kind(5, "int16", "int_val", "h"),
        Kind(6, "int8", "int_val", "b"),
        _STRING,
        _INT64,
        _BOOL,
        Kind(17, "uint16", "int_val", "H"),
        _HALF,
        Kind(22, "uint32", "uint32_val", "I"),
        Kind(23, "uint64", "uint64_val", "Q"),
    )
}
_BY_TYPE = {bytes: _STRING, str: _STRING, float: _FLOAT, int: _INT64, bool: _BOOL}


def is_array(value: object) -> TypeGuard[Any]:
    """Says whether this is an array of NumPy; nobody can have one who has not imported NumPy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def encode(values: Any, dtype: int | None = None) -> Any:
    """Makes a TensorProto.

    Args:
        values: an array; or one value of bytes, str (written as UTF-8), float, int or bool; or a list of such values,
            or of lists of one length, as deep as it likes.
        dtype: number in the enum tensorflow.DataType; None: that of the array, or float32, int64, bool or string after
            the first value.

    Raises:
        ValueError: values that do not go into the type without loss of kind, or lists of different lengths.
    """
    tensor = message("tensorflow.TensorProto")()
    fill(tensor, values, dtype)
    return tensor


def fill(tensor: Any, values: Any, dtype: int | None = None) -> None:
    """Writes into an empty TensorProto; as `encode`, without the copy of setting a field to its result."""
    if is_array(values):
        _fill_from_array(tensor, values, dtype)
        return
    shape: list[int] = []
    flat: Sequence[Any] = [values]
    while flat and isinstance(flat[0], list | tuple):
        (length, *others) = {len(part) if isinstance(part, list | tuple) else -1 for part in flat}
        if others:
            raise ValueError("lists of different lengths")
        shape.append(length)
        flat = [value for part in flat for value in part]
    if dtype is None:
        if not flat or type(flat[0]) not in _BY_TYPE:
            raise ValueError(f"{type(flat[0]).__name__ if flat else 'nothing'}, whose type of tensor is not known")
        dtype = _BY_TYPE[type(flat[0])].number
    kind = _kind(dtype)
    _set_header(tensor, kind, shape)
    try:
        getattr(tensor, kind.field).extend(_field_values(kind, flat))
    except (TypeError, struct.error) as error:
        raise ValueError(f"values that are no {kind.name}: {error}") from error


def decode(tensor: Any) -> list[Any]:
    """Reads the values of a TensorProto.

    Args:
        tensor: with its values in the typed field, as TensorFlow Serving answers by default; numbers also in
            `tensor_content`.

    Returns:
        The values in row-major order, whatever the shape; strings as bytes.

    Raises:
        ValueError: another type or encoding, or not as many values as the shape says.
    """
    kind = _kind(tensor.dtype)
    if tensor.tensor_content:
        values = _unpack(kind, tensor.tensor_content)
    else:
        values = list(getattr(tensor, kind.field))
        if kind is _HALF:  # Its field holds the bits.
            values = _unpack(kind, struct.pack(f"<{len(values)}H", *values))
    size = math.prod(shape_of(tensor))
    # tensor.proto: values that are left out at the end equal the last one.
    values += values[-1:] * (size - len(values))
    if len(values) != size:
        raise ValueError(f"a tensor with {len(values)} values where its shape says {size}")
    return values


def decode_lists(tensor: Any) -> Any:
    """Reads a TensorProto as lists within lists, or as one value where it has no dimensions; as `decode` otherwise."""
    return _nested(decode(tensor), shape_of(tensor))


def decode_array(tensor: Any) -> Any:
    """Reads a TensorProto as a NumPy array, for a caller that has NumPy; strings as objects; as `decode` otherwise."""
    numpy = sys.modules["numpy"]
    kind = _kind(tensor.dtype)
    if kind.code and tensor.tensor_content:
        try:
            flat = numpy.frombuffer(tensor.tensor_content, f"<{kind.code}").copy()
        except ValueError as error:
            raise ValueError(f"tensor_content that is no {kind.name}: {error}") from error
    else:
        values = getattr(tensor, kind.field) if kind.code and kind is not _HALF else decode(tensor)
        flat = numpy.array(values, kind.code or object)
        if len(flat) and len(flat) < math.prod(shape_of(tensor)):
            flat = numpy.array(decode(tensor), flat.dtype)
    return flat.reshape(shape_of(tensor))


def shape_of(tensor: Any) -> list[int]:
    """Gives the sizes of a TensorProto's dimensions."""
    return [dimension.size for dimension in tensor.tensor_shape.dim]


def _kind(number: int) -> Kind:
    kind = KINDS.get(number)
    if kind is None:
        raise ValueError(f"a tensor of data type number {number}, which this client does not know")
    return kind


def _fill_from_array(tensor: Any, array: Any, dtype: int | None) -> None:
    by_name = {kind.name: kind for kind in KINDS.values()}
    own = _STRING if array.dtype.kind in "SUO" else by_name.get(array.dtype.name)
    if own is None:
        raise ValueError(f"an array of {array.dtype}, which this client does not send")
    kind = own if dtype is None else _kind(dtype)
    if (kind is _STRING) != (own is _STRING):
        raise ValueError(f"an array of {array.dtype} for {kind.name}")
    _set_header(tensor, kind, array.shape)
    if kind is _STRING:
        tensor.string_val.extend(_field_values(kind, array.ravel().tolist()))
        return
    try:
        # Little-endian and in C order, in one copy of memory: 50 times faster than a list of values.
        tensor.tensor_content = array.astype(f"<{kind.code}", casting="same_kind", copy=False).tobytes()
    except TypeError as error:
        raise ValueError(f"an array of {array.dtype} for {kind.name}") from error


def _set_header(tensor: Any, kind: Kind, shape: Iterable[int]) -> None:
    tensor.dtype = kind.number
    # A scalar has a shape too, one without dimensions.
    tensor.tensor_shape.SetInParent()
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)


def _field_values(kind: Kind, flat: Sequence[Any]) -> Iterator[Any] | Sequence[Any]:
    if kind is _STRING:
        return (value.encode() if isinstance(value, str) else value for value in flat)
    if kind is _HALF:
        return [bits for (bits,) in struct.iter_unpack("<H", struct.pack(f"<{len(flat)}e", *flat))]
    if kind.field == "int_val":
        struct.pack(f"<{len(flat)}{kind.code}", *flat)  # The field would take numbers that are too large for the type.
    return flat


def _nested(flat: list[Any], shape: list[int]) -> Any:
    if len(shape) < 2:
        return flat if shape else flat[0]
    step = math.prod(shape[1:])
    return [_nested(flat[row * step : (row + 1) * step], shape[1:]) for row in range(shape[0])]


def _unpack(kind: Kind, content: bytes) -> list[Any]:
    if not kind.code or len(content) % struct.calcsize(f"<{kind.code}"):
        raise ValueError(f"tensor_content of {len(content)} bytes for data type number {kind.number}")
    return [value for (value,) in struct.iter_unpack(f"<{kind.code}", content)]
