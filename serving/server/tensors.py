"""TensorProto to numpy array and back, and what a request sends and asks for held against a
signature. Answers use the typed fields, as TensorFlow Serving's do.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.wrappers_pb2 import BytesValue
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

from serving.server.status import StatusError, invalid_argument

# dtype to field and, where the field holds another type, the type of its bits
# (tensorflow/core/framework/tensor.proto: half_val holds bit patterns, scomplex_val and
# dcomplex_val real and imaginary parts in turn).
_FIELDS: dict[tf.DType, tuple[str, type[np.generic] | None]] = {
    tf.float32: ("float_val", None),
    tf.float64: ("double_val", None),
    tf.int8: ("int_val", None),
    tf.int16: ("int_val", None),
    tf.int32: ("int_val", None),
    tf.uint8: ("int_val", None),
    tf.uint16: ("int_val", None),
    tf.int64: ("int64_val", None),
    tf.uint32: ("uint32_val", None),
    tf.uint64: ("uint64_val", None),
    tf.bool: ("bool_val", None),
    tf.string: ("string_val", None),
    tf.half: ("half_val", np.uint16),
    tf.bfloat16: ("half_val", np.uint16),
    tf.complex64: ("scomplex_val", np.float32),
    tf.complex128: ("dcomplex_val", np.float64),
}
_KNOWN = {dtype.as_datatype_enum: dtype for dtype in _FIELDS}
# Fields whose packed form on the wire is the array as it lies in memory (little-endian, as
# tensor_content is too).
_RAW = ("float_val", "double_val", "scomplex_val", "dcomplex_val")

# One value may stand for any number of equal ones: a few bytes of request must not ask for all
# memory. As much as the largest message holds.
MOST_BYTES = 2**31 - 1
# What a string takes beside its content: an object of Python's and one of TensorFlow's.
STRING_BYTES = 64


def dtype_name(dtype: int) -> str:
    """Gives the name that error texts use, such as ``float``, ``int32``, ``string``.

    Args:
        dtype: a number of the enum DataType.
    """
    if dtype not in DataType.values():
        return f"unknown dtype enum ({dtype})"
    name: str = DataType.Name(dtype).removeprefix("DT_")
    return name.lower() if dtype else name


def dtype_number(array: np.ndarray) -> int:
    """Gives the number of an array's dtype in the enum DataType; arrays of bytes objects are
    strings.
    """
    number: int = tf.as_dtype(array.dtype).as_datatype_enum
    return number


def known_dtype(dtype: int) -> tf.DType | None:
    """Finds what this server reads and writes; None for float8, quantized numbers and the like.

    Args:
        dtype: a number of the enum DataType.
    """
    return _KNOWN.get(dtype)


def decode(alias: str, proto: TensorProto, most_bytes: int = MOST_BYTES) -> np.ndarray:
    """Reads a tensor of a request, from whichever field it came in, with the liberties of
    TensorFlow's `FromProto`.

    Fewer values than elements: the last one is repeated, no value at all means zeros; what is too
    much is left out, a number that is too large for its dtype loses its upper bits, and
    unknown_rank is not looked at.

    Args:
        alias: for the error text.
        proto: as it came.
        most_bytes: that its values may take.

    Returns:
        The value, maybe read-only; strings as an array of bytes objects.

    Raises:
        StatusError: shape, dtype and content do not fit together.
    """
    try:
        return _decode(proto, most_bytes)
    except (ValueError, TypeError, KeyError, MemoryError) as error:
        raise invalid_argument(f"tensor parsing error: {alias}") from error


def _decode(proto: TensorProto, most_bytes: int) -> np.ndarray:
    shape = [dimension.size for dimension in proto.tensor_shape.dim]
    if any(size < 0 for size in shape):
        raise ValueError("a value has no unknown dimensions")
    dtype = tf.as_dtype(proto.dtype)
    field, view = _FIELDS[dtype]
    numpy_dtype = np.dtype(dtype.as_numpy_dtype)
    count = math.prod(shape)
    if count > MOST_BYTES:
        raise ValueError("too large")
    nbytes = count * numpy_dtype.itemsize
    if dtype == tf.string:
        sent = list(map(len, proto.string_val[:count]))
        nbytes = count * STRING_BYTES + sum(sent) + (count - len(sent)) * (sent or [0])[-1]
    if nbytes > most_bytes:
        raise too_much("bytes", nbytes, most_bytes, "max_request_bytes")
    if count and proto.tensor_content:
        # Bytes of another length are refused by reshape.
        return np.frombuffer(proto.tensor_content, numpy_dtype).reshape(shape)
    if dtype == tf.string:
        values = np.array(list(proto.string_val), object)
    elif view is None:
        values = np.array(getattr(proto, field)).astype(numpy_dtype, copy=False)
    else:
        parts = numpy_dtype.itemsize // np.dtype(view).itemsize
        values = np.array(getattr(proto, field)).astype(view, copy=False)
        values = values[: len(values) // parts * parts].view(numpy_dtype)
    if len(values) < count:
        last = values[-1] if len(values) else b"" if dtype == tf.string else 0
        values = np.append(values, np.full(count - len(values), last, values.dtype))
    return values[:count].reshape(shape)


def encode(array: np.ndarray, proto: TensorProto, as_content: bool = False) -> None:
    """Writes a tensor of an answer.

    Args:
        array: the value.
        proto: an empty message to fill.
        as_content: into tensor_content rather than the typed field of its dtype; strings have no
            other field.
    """
    dtype = tf.as_dtype(array.dtype)
    field, view = _FIELDS[dtype]
    proto.dtype = dtype.as_datatype_enum
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    flat = np.ascontiguousarray(array).ravel()
    if as_content and dtype != tf.string:
        proto.tensor_content = flat.tobytes()
    elif field in _RAW and flat.size:
        # On the wire a packed field differs from a field of bytes in its number alone; adding
        # 150,000 floats one by one takes 20 times as long.
        packed = BytesValue(value=flat.tobytes()).SerializeToString()
        proto.MergeFromString(
            bytes([TensorProto.DESCRIPTOR.fields_by_name[field].number << 3 | 2]) + packed[1:]
        )
    else:
        getattr(proto, field).extend((flat if view is None else flat.view(view)).tolist())


def too_much(what: str, wanted: int, most: int, flag: str) -> StatusError:
    """Makes the error of a request that is beyond a bound."""
    return invalid_argument(
        f"The request asks for {wanted} {what}: at most {most} (--{flag} of this server); send"
        " several smaller requests"
    )


# Requests and signatures. Order and texts of the checks are those of TensorFlow Serving
# (predict_util.cc) and of TensorFlow.


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
