"""TensorProto to and from plain Python values and NumPy arrays; NumPy is never imported, only
met.
"""

import math
import struct
import sys
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from operator import mul
from typing import Any, NamedTuple, TypeGuard

from serving.protos import message


class Kind(NamedTuple):
    """One type of tensor elements."""

    number: int  # of tensorflow.DataType
    name: str  # as TensorFlow and NumPy write it
    field: str  # of TensorProto
    code: str  # of NumPy, and but for complex numbers of struct; empty: values of any size
    stored: str = ""  # code of the field's values, where they are not simply the elements


# tensorflow/core/framework/types.proto and tensor.proto.
FLOAT = Kind(1, "float32", "float_val", "f")
STRING = Kind(7, "string", "string_val", "")
_COMPLEX64 = Kind(8, "complex64", "scomplex_val", "F", "f")  # real and imaginary parts in turn
_INT64 = Kind(9, "int64", "int64_val", "q")
BOOL = Kind(10, "bool", "bool_val", "?")
# Neither Python nor NumPy has it: it is read as float32, whose upper half it is.
_BFLOAT16 = Kind(14, "bfloat16", "half_val", "f", "H")
ARRAY_KINDS = {
    kind.number: kind
    for kind in (
        FLOAT,
        Kind(2, "float64", "double_val", "d"),
        Kind(3, "int32", "int_val", "i"),
        Kind(4, "uint8", "int_val", "B", "B"),
        Kind(5, "int16", "int_val", "h", "h"),
        Kind(6, "int8", "int_val", "b", "b"),
        STRING,
        _COMPLEX64,
        _INT64,
        BOOL,
        # Quantized numbers are the integers that stand for them.
        Kind(11, "qint8", "int_val", "b", "b"),
        Kind(12, "quint8", "int_val", "B", "B"),
        Kind(13, "qint32", "int_val", "i"),
        _BFLOAT16,
        Kind(15, "qint16", "int_val", "h", "h"),
        Kind(16, "quint16", "int_val", "H", "H"),
        Kind(17, "uint16", "int_val", "H", "H"),
        Kind(18, "complex128", "dcomplex_val", "D", "d"),
        Kind(19, "float16", "half_val", "e", "H"),
        Kind(22, "uint32", "uint32_val", "I"),
        Kind(23, "uint64", "uint64_val", "Q"),
    )
}
_PARTS = {"F": "ff", "D": "dd"}  # of a complex number, as codes of struct
_NARROW = ("b", "B", "h", "H")  # whose field has room for more
_CONTENT_FIELD, _STRING_FIELD = 4, 8  # of TensorProto
_BY_TYPE = {bytes: STRING, str: STRING, float: FLOAT, int: _INT64, bool: BOOL}
_BY_TYPE[complex] = _COMPLEX64
_MOST_DIMENSIONS = 254  # TensorFlow's own limit (tensor_shape.h, MaxDimensions).


Part = bytes | memoryview


def is_array(value: object) -> TypeGuard[Any]:
    """Says whether this is an array of NumPy; nobody can have one who has not imported NumPy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def encode(values: Any, dtype: int | None = None) -> Any:
    """Makes a TensorProto; arguments and errors as those of `tensor_parts`."""
    return message("tensorflow.TensorProto").FromString(b"".join(tensor_parts(values, dtype)))


def input_parts(name: str, values: Any, dtype: int | None = None) -> list[Part]:
    """Serializes one entry of PredictRequest.inputs; appended to a serialized request, it is in it.

    Args:
        name: of the input.
        values: as `tensor_parts` takes them, with the same errors.
        dtype: as there.
    """
    tensor = tensor_parts(values, dtype)
    # Field 2 of the request, with the entry's key in field 1 and its value in field 2
    # (predict.proto).
    size = sum(map(len, tensor))
    inner = _prefix(1, len(name.encode())) + name.encode() + _prefix(2, size)
    return [_prefix(2, len(inner) + size) + inner, *tensor]


def tensor_parts(values: Any, dtype: int | None = None) -> list[Part]:
    """Serializes a TensorProto into parts that are to be joined, with pictures and arrays as they
    lie in memory.

    A message would copy those twice more, which for 160 × 160 pixels costs more than the whole
    request otherwise.

    Args:
        values: an array; or one value of bytes, str (written as UTF-8), float, int, bool or
            complex; or a list of such values, or of lists of one length, as deep as it likes.
        dtype: number in the enum tensorflow.DataType; None: that of the array, or float32, int64,
            bool, complex64 or string after the first value.

    Raises:
        ValueError: values that do not go into the type without loss of kind, or lists of different
            lengths.
    """
    if is_array(values):
        return _array_parts(values, dtype)
    shape: list[int] = []
    flat: Sequence[Any] = [values]
    while flat and isinstance(flat[0], list | tuple):
        length, *others = {len(part) if isinstance(part, list | tuple) else -1 for part in flat}
        if others:
            raise ValueError("lists of different lengths")
        shape.append(length)
        flat = [value for part in flat for value in part]
    if dtype is None:
        if not flat or type(flat[0]) not in _BY_TYPE:
            raise ValueError(
                f"{type(flat[0]).__name__ if flat else 'nothing'}, whose type of tensor is not"
                " known"
            )
        dtype = _BY_TYPE[type(flat[0])].number
    kind = _kind(dtype)
    header = _header(kind.number, tuple(shape))
    if kind is STRING:
        return [header, *_string_parts(flat)]
    try:
        if kind is BOOL and not {*flat} <= {False, True}:
            raise TypeError("expected true or false")
        code = kind.code
        if code in _PARTS:
            flat = [part for value in flat for part in (value.real, value.imag)]
            code = _PARTS[code][0]
        content = struct.pack(f"<{len(flat)}{code}", *flat)
    except (TypeError, AttributeError, OverflowError, struct.error) as error:
        raise ValueError(f"values that are not {kind.name}: {error}") from error
    return [header, *_content_parts(kind, content)]


def decode(tensor: Any) -> list[Any]:
    """Reads the values of a TensorProto.

    Args:
        tensor: with all its values in the typed field, as TensorFlow Serving answers by default;
            numbers also in `tensor_content`. Values that are left out at the end because they equal
            the last one (tensor.proto) are not made up: a few bytes would ask for all memory.

    Returns:
        The values in row-major order, whatever the shape; strings as bytes, bfloat16 as float.

    Raises:
        ValueError: another type or encoding, no shape of a value, or not as many values as it says.
    """
    kind, shape = _kind(tensor.dtype), shape_of(tensor)
    values: list[Any] = []
    if tensor.tensor_content:
        values = _unpack(kind, tensor.tensor_content)
    else:
        values = list(getattr(tensor, kind.field))
        if kind.stored:
            try:
                content = struct.pack(f"<{len(values)}{kind.stored}", *values)
            except struct.error as error:
                raise ValueError(f"values that are not {kind.name}: {error}") from error
            values = _unpack(kind, content)
    _check_count(len(values), shape)
    return values


def decode_lists(tensor: Any) -> Any:
    """Reads a TensorProto as lists within lists, or as one value where it has no dimensions; as
    `decode` otherwise.
    """
    values, shape = decode(tensor), shape_of(tensor)
    for depth in range(len(shape) - 1, 0, -1):
        size = shape[depth]
        rows = range(math.prod(shape[:depth]))
        values = [values[row * size : (row + 1) * size] for row in rows]
    return values if shape else values[0]


def inner_lists(tensor: Any) -> int:
    """Counts the lists within the list that `decode_lists` makes, which empty ones and dimensions
    of 1 can make any number, without a value for each.
    """
    return sum(accumulate(shape_of(tensor)[:-1], mul))


def decode_array(tensor: Any) -> Any:
    """Reads a TensorProto as a NumPy array, for a caller that has NumPy; strings as objects,
    bfloat16 as float32; as `decode` otherwise.
    """
    numpy = sys.modules["numpy"]
    kind, shape = _kind(tensor.dtype), shape_of(tensor)
    if kind is STRING:
        return numpy.array(decode(tensor), object).reshape(shape)
    if tensor.tensor_content:
        content = tensor.tensor_content
    else:
        values = numpy.array(getattr(tensor, kind.field))
        content = values.astype(f"<{kind.stored or kind.code}", copy=False)
        if kind.stored in _NARROW and (content != values).any():
            raise ValueError(f"values that are not {kind.name}")
    try:
        if kind is _BFLOAT16:
            content = _widened(content)
        flat = numpy.frombuffer(content, f"<{kind.code}")
    except ValueError as error:
        raise ValueError(f"values that are not {kind.name}: {error}") from error
    if kind is BOOL:
        flat = flat.view("u1") != 0  # Of another byte NumPy makes a truth that is not True.
    _check_count(len(flat), shape)
    # The caller's to change, which the bytes of a message are not.
    return (flat if flat.flags.writeable else flat.copy()).reshape(shape)


def shape_of(tensor: Any) -> list[int]:
    """Gives the sizes of a TensorProto's dimensions.

    Raises:
        ValueError: no value has such a shape.
    """
    dimensions = tensor.tensor_shape.dim
    # First, as the product of very many sizes is a number that takes for ever.
    if len(dimensions) > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor of {len(dimensions)} dimensions")
    shape = [dimension.size for dimension in dimensions]
    if tensor.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise ValueError("a tensor of unknown shape")
    return shape


def _check_count(count: int, shape: list[int]) -> None:
    if count != math.prod(shape):
        raise ValueError(f"a tensor of shape {shape} with {count} values")


def _kind(number: int) -> Kind:
    kind = ARRAY_KINDS.get(number)
    if kind is None:
        raise ValueError(f"a tensor of data type number {number}, which this client does not know")
    return kind


def _array_parts(array: Any, dtype: int | None) -> list[Part]:
    by_name = {kind.name: kind for kind in ARRAY_KINDS.values()}
    own = STRING if array.dtype.kind in "SUO" else by_name.get(array.dtype.name)
    if own is None:
        raise ValueError(f"an array of {array.dtype}, which this client does not send")
    kind = own if dtype is None else _kind(dtype)
    if (kind is STRING) != (own is STRING):
        raise ValueError(f"an array of {array.dtype} for {kind.name}")
    header = _header(kind.number, array.shape)
    if kind is STRING:
        return [header, *_string_parts(array.ravel().tolist())]
    try:
        # Little-endian and in C order.
        content = array.astype(f"<{kind.code}", order="C", casting="same_kind", copy=False)
    except TypeError as error:
        raise ValueError(f"an array of {array.dtype} for {kind.name}") from error
    return [header, *_content_parts(kind, memoryview(content.reshape(-1).view("u1")))]


def _content_parts(kind: Kind, content: Part) -> list[Part]:
    data = _narrowed(content) if kind is _BFLOAT16 else content
    return [_prefix(_CONTENT_FIELD, len(data)), data]


@lru_cache(maxsize=64)
def _header(number: int, shape: tuple[int, ...]) -> bytes:
    """Serializes type and shape; nearly all requests of a client have the same."""
    tensor = message("tensorflow.TensorProto")(dtype=number)
    # A scalar has a shape too, one without dimensions.
    tensor.tensor_shape.SetInParent()
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor.SerializeToString()


def _string_parts(flat: Sequence[Any]) -> list[Part]:
    parts: list[Part] = []
    for value in flat:
        if not isinstance(value, bytes | str):
            raise ValueError(f"values that are not strings: {type(value).__name__}")
        data = value if isinstance(value, bytes) else value.encode()
        parts += [_prefix(_STRING_FIELD, len(data)), data]
    return parts


def _prefix(field: int, length: int) -> bytes:
    """What stands before a length-delimited field (protobuf.dev/programming-guides/encoding)."""
    if length < 128:
        return bytes((field << 3 | 2, length))
    varint = bytearray((field << 3 | 2,))
    while length > 127:
        varint.append(length & 127 | 128)
        length >>= 7
    varint.append(length)
    return bytes(varint)


def _unpack(kind: Kind, content: bytes) -> list[Any]:
    try:
        if kind is _BFLOAT16:
            content = _widened(content)
        found = struct.iter_unpack(f"<{_PARTS.get(kind.code, kind.code)}", content)
    except (ValueError, struct.error) as error:
        raise ValueError(f"{len(content)} bytes that are not {kind.name}: {error}") from error
    if kind.code in _PARTS:
        return [complex(*parts) for parts in found]
    return [value for (value,) in found]


def _widened(content: Any) -> bytes:
    """Makes float32 of bfloat16, both little-endian, by the bits that it lacks."""
    halves = bytes(content)
    wide = bytearray(2 * len(halves))
    wide[2::4], wide[3::4] = halves[::2], halves[1::2]
    return bytes(wide)


def _narrowed(content: Any) -> bytes:
    """Makes bfloat16 of float32, both little-endian, rounded half to even."""
    halves = []
    for (bits,) in struct.iter_unpack("<I", content):
        if bits & 0x7FFFFFFF > 0x7F800000:  # A NaN, which rounding could make a number.
            halves.append(bits >> 16 | 0x40)
        else:
            halves.append(bits + 0x7FFF + (bits >> 16 & 1) >> 16)
    return struct.pack(f"<{len(halves)}H", *halves)
