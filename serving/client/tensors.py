"""TensorProto to and from plain Python values and NumPy arrays; NumPy is never imported, only
met.
"""

import math
import struct
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeGuard

from serving.client.errors import InvalidRequest, UnexpectedReply
from serving.protos import message
from whisker_ml import contract


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
ARRAY_KINDS = {
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
_CONTENT_FIELD, _STRING_FIELD = 4, 8  # of TensorProto
_BY_TYPE = {bytes: _STRING, str: _STRING, float: _FLOAT, int: _INT64, bool: _BOOL}


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
        values: an array; or one value of bytes, str (written as UTF-8), float, int or bool; or a
            list of such values, or of lists of one length, as deep as it likes.
        dtype: number in the enum tensorflow.DataType; None: that of the array, or float32, int64,
            bool or string after the first value.

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
    return [
        _header(kind.number, tuple(shape)),
        *(_string_parts(flat) if kind is _STRING else _numbers(kind, flat)),
    ]


def decode(tensor: Any) -> list[Any]:
    """Reads the values of a TensorProto.

    Args:
        tensor: with its values in the typed field, as TensorFlow Serving answers by default;
            numbers also in `tensor_content`.

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
    size = 1
    for dimension in tensor.tensor_shape.dim:
        size *= dimension.size
    if len(values) != size:
        # tensor.proto: values that are left out at the end equal the last one.
        values += values[-1:] * (size - len(values))
    if len(values) != size:
        raise ValueError(f"a tensor with {len(values)} values where its shape says {size}")
    return values


def decode_lists(tensor: Any) -> Any:
    """Reads a TensorProto as lists within lists, or as one value where it has no dimensions; as
    `decode` otherwise.
    """
    return _nested(decode(tensor), shape_of(tensor))


def decode_array(tensor: Any) -> Any:
    """Reads a TensorProto as a NumPy array, for a caller that has NumPy; strings as objects; as
    `decode` otherwise.
    """
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
    kind = ARRAY_KINDS.get(number)
    if kind is None:
        raise ValueError(f"a tensor of data type number {number}, which this client does not know")
    return kind


def _array_parts(array: Any, dtype: int | None) -> list[Part]:
    by_name = {kind.name: kind for kind in ARRAY_KINDS.values()}
    own = _STRING if array.dtype.kind in "SUO" else by_name.get(array.dtype.name)
    if own is None:
        raise ValueError(f"an array of {array.dtype}, which this client does not send")
    kind = own if dtype is None else _kind(dtype)
    if (kind is _STRING) != (own is _STRING):
        raise ValueError(f"an array of {array.dtype} for {kind.name}")
    header = _header(kind.number, array.shape)
    if kind is _STRING:
        return [header, *_string_parts(array.ravel().tolist())]
    try:
        # Little-endian and in C order.
        content = array.astype(f"<{kind.code}", order="C", casting="same_kind", copy=False)
    except TypeError as error:
        raise ValueError(f"an array of {array.dtype} for {kind.name}") from error
    return [
        header,
        _prefix(_CONTENT_FIELD, content.nbytes),
        memoryview(content.reshape(-1).view("u1")),
    ]


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
            raise ValueError(f"values that are no string: {type(value).__name__}")
        data = value if isinstance(value, bytes) else value.encode()
        parts += [_prefix(_STRING_FIELD, len(data)), data]
    return parts


def _numbers(kind: Kind, flat: Sequence[Any]) -> list[Part]:
    tensor = message("tensorflow.TensorProto")()
    try:
        packed = struct.pack(
            f"<{len(flat)}{kind.code}", *flat
        )  # Also what the field is too wide to refuse.
        values = struct.unpack(f"<{len(flat)}H", packed) if kind is _HALF else flat
        getattr(tensor, kind.field).extend(values)
    except (TypeError, struct.error) as error:
        raise ValueError(f"values that are no {kind.name}: {error}") from error
    return [tensor.SerializeToString()]


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


def _nested(flat: list[Any], shape: list[int]) -> Any:
    if len(shape) < 2:
        return flat if shape else flat[0]
    step = math.prod(shape[1:])
    return [_nested(flat[row * step : (row + 1) * step], shape[1:]) for row in range(shape[0])]


def _unpack(kind: Kind, content: bytes) -> list[Any]:
    if not kind.code or len(content) % struct.calcsize(f"<{kind.code}"):
        raise ValueError(
            f"tensor_content of {len(content)} bytes for data type number {kind.number}"
        )
    return [value for (value,) in struct.iter_unpack(f"<{kind.code}", content)]


# What a model's signatures want, and whether a request is that; said before anything is sent.


@dataclass(frozen=True)
class Signature:
    """One way to ask a model; names of inputs and outputs → tensorflow.TensorInfo."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    needed: frozenset[str]  # the inputs without a default


Signatures = Mapping[str, Signature]

_FIELD = "signature_def"


def metadata_request(model_spec: Any) -> Any:
    """Makes the GetModelMetadataRequest that `read` reads the answer of; the spec's signature does
    not matter.
    """
    return message("tensorflow.serving.GetModelMetadataRequest")(
        model_spec=model_spec, metadata_field=[_FIELD]
    )


def read(response: Any) -> Signatures:
    """Reads a GetModelMetadataResponse.

    Returns:
        The signatures by name.

    Raises:
        UnexpectedReply: it holds no signatures.
    """
    found = message("tensorflow.serving.SignatureDefMap")()
    if _FIELD not in response.metadata or not response.metadata[_FIELD].Unpack(found):
        raise UnexpectedReply(
            "the server answers without the model's signatures: it is no TensorFlow Serving server"
        )
    return {
        name: Signature(
            dict(one.inputs), dict(one.outputs), frozenset(set(one.inputs) - set(one.defaults))
        )
        for name, one in found.signature_def.items()
    }


def signature_parts(
    inputs: Mapping[str, Any],
    output_filter: Collection[str],
    signatures: Signatures,
    name: str,
    question: str,
) -> list[Part]:
    """Serializes the inputs of a PredictRequest in the types that its signature wants.

    Args:
        inputs: name → what `serving.client.tensors.tensor_parts` takes.
        output_filter: outputs to be asked for.
        signatures: of the version that is asked.
        name: of the signature; empty: `serving_default`.
        question: who is asked for what, for the error.

    Raises:
        InvalidRequest: there is no such signature, or it wants other names, types or sizes of
            pictures; the text says which.
    """
    name = name or contract.SIGNATURE_BYTES
    if name not in signatures:
        raise InvalidRequest(
            f"{question}: no signature {name!r}: the model has {_listed(signatures)}"
        )
    signature = signatures[name]
    wanted = signature.inputs
    if not signature.needed <= inputs.keys() <= wanted.keys():
        raise InvalidRequest(f"{question}: inputs {_listed(inputs)}: {_wants(name, signature)}")
    if unknown := set(output_filter) - signature.outputs.keys():
        outputs = describe(signature.outputs)
        raise InvalidRequest(
            f"{question}: outputs {_listed(unknown)}: signature {name!r} answers {outputs}"
        )
    parts: list[Part] = []
    for key, values in inputs.items():
        try:
            parts += input_parts(key, values, wanted[key].dtype)
        except ValueError as error:
            raise InvalidRequest(
                f"{question}: input {key!r} is {error}: {_wants(name, signature)}"
            ) from error
        if name == contract.SIGNATURE_PIXELS and is_array(values):
            _check_sizes(values.shape, wanted[key].tensor_shape, question)
    return parts


def _wants(name: str, signature: Signature) -> str:
    return f"signature {name!r} takes {describe(signature.inputs)}"


def _check_sizes(shape: tuple[int, ...], stated: Any, question: str) -> None:
    """Refuses pictures of another size: a server passes any shape to the model, which fails in
    words of its own.
    """
    sizes = [dimension.size for dimension in stated.dim]
    fits = len(sizes) == len(shape) and all(a in (-1, b) for a, b in zip(sizes, shape, strict=True))
    if not stated.unknown_rank and not fits:
        raise InvalidRequest(
            f"{question}: pictures of shape {list(shape)}: expected {_shape(stated)}"
        )


def describe(tensors: Mapping[str, Any]) -> str:
    """Says names, types and shapes of a signature's inputs or outputs, such as ``x float32 [?,
    1]``.
    """

    def dtype(number: int) -> str:
        return ARRAY_KINDS[number].name if number in ARRAY_KINDS else f"type {number}"

    return ", ".join(
        f"{name} {dtype(info.dtype)} {_shape(info.tensor_shape)}"
        for name, info in sorted(tensors.items())
    )


def _shape(shape: Any) -> str:
    if shape.unknown_rank:
        return "of any shape"
    return f"[{', '.join('?' if one.size == -1 else str(one.size) for one in shape.dim)}]"


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"
