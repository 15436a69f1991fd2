"""JSON as the REST API reads and writes it: the body of a request, its numbers and base64, how
errors quote it; predictions, classes and numbers of an answer.

Follows RapidJSON and tensorflow_serving/util/json_tensor.cc in what is accepted, in the digits of
numbers and in the texts.
"""

import base64
import gc
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.classification_pb2 import ClassificationResult
from tensorflow_serving.apis.regression_pb2 import RegressionResult

from serving.server.status import StatusError, invalid_argument
from serving.server.tensors import dtype_name, dtype_number

INTEGERS = (tf.int32, tf.int16, tf.int8, tf.uint8, tf.int64, tf.uint32, tf.uint64)
_QUOTED = 256  # Characters of a value that an error text quotes.
# Significant bits: a larger whole number would lose its last digits.
FLOAT_BITS = {tf.float32: 24, tf.float64: 53}
# Our parser's texts, and what RapidJSON (error/en.h) says in their place.
_RAPIDJSON = {
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Illegal trailing comma before end of array": "Invalid value.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Expecting value": "Invalid value.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
    "Invalid control character at": "Invalid encoding in string.",
}
_MISSING_COMMA = {
    "{": "Missing a comma or } after an object member.",
    "[": "Missing a comma or ] after an array element.",
}
_SPACE = " \t\r\n"
# What RapidJSON's kParseNanAndInfFlag takes for a number, and our parser in part.
_NOT_FINITE = re.compile("-?(?:NaN|Inf(?:inity)?)")
_STRING_OR_NOT_FINITE = re.compile(rf'"[^"\\]*(?:\\.[^"\\]*)*"|{_NOT_FINITE.pattern}', re.DOTALL)
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


class _NotFinite(float):
    """``NaN`` or ``Infinity`` as written out, where a number that is too large for a double is a
    plain float.
    """


class Repeated(dict[str, Any]):
    """An object with a key that comes twice: the first one counts, as RapidJSON finds it.

    Attributes:
        last: the same with the last one, for what goes through all members.
    """

    def __init__(self, members: list[tuple[str, Any]]) -> None:
        self.last = dict(members)
        first = dict(reversed(members))
        super().__init__((name, first[name]) for name in self.last)


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    return found if len(found) == len(members) else Repeated(members)


_DECODER = json.JSONDecoder(parse_constant=_NotFinite, object_pairs_hook=_object)
_ENCODER = json.JSONEncoder(indent=4, ensure_ascii=False)


def parse(body: bytes) -> dict[str, Any]:
    """Reads the object that a request body starts with; what follows it is ignored.

    Raises:
        StatusError: INVALID_ARGUMENT, the body does not start with a JSON object.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    text = ""
    try:
        text = body.decode("utf-8-sig")
        start = len(text) - len(text.lstrip(_SPACE))
        if start == len(text):
            raise _parse_error("The document is empty.", text, start)
        document = _decode(text, start)
        if "\\ud" in text or "\\uD" in text:
            # Halves of a pair, which no other part of the server could write out.
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        said = _RAPIDJSON.get(error.msg) or _MISSING_COMMA[_innermost(text[: error.pos])]
        raise _parse_error(said, text, error.pos) from error
    except UnicodeDecodeError as error:
        raise invalid_argument(
            f"JSON Parse error: Invalid encoding in string. at offset: {error.start}"
        ) from error
    except UnicodeEncodeError as error:
        raise invalid_argument(
            "JSON Parse error: The surrogate pair in string is invalid."
        ) from error
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits; lists nested thousands deep.
        raise invalid_argument(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise malformed(document, "Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise malformed(
            document, "not formatted correctly. 'signature_name' key must be a string value."
        )
    return document


def _decode(text: str, start: int) -> Any:
    # Looking for garbage takes eight times as long as reading ten million lists, while nothing
    # else can run.
    gc.disable()
    try:
        return _DECODER.raw_decode(text, start)[0]
    except json.JSONDecodeError as error:
        if not _NOT_FINITE.match(text, error.pos):
            raise
        words: list[str] = []
        # All of them become the one that our parser knows, of the same length, and get their values
        # in turn.
        spelled = _STRING_OR_NOT_FINITE.sub(lambda found: _spell(found[0], words), text)
        values = map(_NotFinite, words)
        decoder = json.JSONDecoder(parse_constant=lambda _: next(values), object_pairs_hook=_object)
        return decoder.raw_decode(spelled, start)[0]
    finally:
        gc.enable()


def _spell(found: str, words: list[str]) -> str:
    if found.startswith('"'):
        return found
    words.append(found)
    return "NaN".ljust(len(found))


def is_base64(value: Any) -> bool:
    """Tells ``{"b64": "…"}`` from other values."""
    return type(value) is dict and len(value) == 1 and isinstance(value.get("b64"), str)


def decode_base64(value: dict[str, Any]) -> bytes:
    """Decodes ``{"b64": "…"}``, with all of its padding or without any, in lines or not.

    Raises:
        StatusError: INVALID_ARGUMENT.
    """
    if not is_base64(value):
        raise malformed(value, "not formatted correctly for base64 data")
    text = "".join(value["b64"].split())
    if "=" not in text:
        text += "=" * (-len(text) % 4)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise invalid_argument("Unable to base64 decode") from error


def number(value: int | float) -> int | float:
    """Gives a number as RapidJSON takes it: a whole one beyond 64 bits is a double.

    Raises:
        StatusError: INVALID_ARGUMENT, it is too large for a double.
    """
    try:
        value = value if isinstance(value, float) or -(2**63) <= value < 2**64 else float(value)
    except OverflowError:
        value = math.inf
    if math.isinf(value) and not isinstance(value, _NotFinite):
        raise invalid_argument("JSON Parse error: Number too big to be stored in double.")
    return value


def as_float(value: int | float, dtype: tf.DType) -> float:
    """Gives a number as a float32 or float64 may hold it.

    Raises:
        StatusError: INVALID_ARGUMENT, it would lose digits, or is too large.
    """
    value = number(value)
    largest = 2 ** FLOAT_BITS[dtype] - 1 if isinstance(value, int) else float(dtype.max)
    if math.isfinite(value) and abs(value) > largest:
        raise invalid_argument(
            f"Cannot convert JSON value: {quote(value)} to {dtype_name(dtype.as_datatype_enum)} "
            "without loss of precision."
        )
    return float(value)


def type_name(value: Any) -> str:
    """Names the kind of a JSON value as error texts do."""
    names = {bool: str(value), type(None): "Null", dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def malformed(value: Any, text: str) -> StatusError:
    """Makes the error that quotes a value and says what is wrong with it."""
    return invalid_argument(f"JSON Value: {quote(value)} {text}")


def quote(value: Any) -> str:
    """Writes a value as error texts quote it, not more of it than they show."""
    text = ""
    for piece in _ENCODER.iterencode(value):
        text += piece
        if len(text) >= _QUOTED:
            break
    return text[:_QUOTED]


def _parse_error(said: str, text: str, position: int) -> StatusError:
    return invalid_argument(
        f"JSON Parse error: {said} at offset: {len(text[:position].encode('utf-8'))}"
    )


def _innermost(text: str) -> str:
    """Finds the bracket that is still open at the end of a text."""
    opened = ["{"]
    for found in _STRING_OR_BRACKET.finditer(text):
        if found[0] in "[{":
            opened.append(found[0])
        elif found[0] in "]}":
            opened.pop()
    return opened[-1]


# Answers of the model.

_DIGITS = {np.dtype(np.float32): 9, np.dtype(np.float64): 17}  # std::numeric_limits<>::max_digits10
_NOT_FINITE_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


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
        answer = _array([_members(outputs, row) for row in rows])
    else:
        values = [
            _array(_elements(name, array)) if array.ndim else _elements(name, array)[0]
            for name, array in outputs.items()
        ]
        answer = _members(outputs, values) if len(values) > 1 else values[0]
    # Bytes that are no UTF-8 go out as they are.
    return _members(["predictions" if by_row else "outputs"], [answer]).encode(
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
        examples.append(_array([_array(pair) for pair in zip(labels, scores, strict=True)]))
    return _members(["results"], [_array(examples)]).encode("utf-8")


def dump_numbers(result: RegressionResult) -> bytes:
    """Writes ``{"results": [value, …]}``.

    Raises:
        StatusError: INVALID_ARGUMENT, there is nothing to write.
    """
    if not result.regressions:
        raise invalid_argument("Cannot convert empty RegressionResults to JSON")
    values = np.array([regression.value for regression in result.regressions], np.float32)
    return _members(["results"], [_array(_decimals(values))]).encode("utf-8")


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
            _array(texts[each * size : (each + 1) * size])
            for each in range(math.prod(shape[:axis]))
        ]
    return texts


def _scalars(name: str, flat: np.ndarray) -> list[str]:
    dtype = tf.as_dtype(flat.dtype)
    if flat.dtype in _DIGITS:
        return _decimals(flat)
    if dtype in INTEGERS:
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
        text if "." in text or "e" in text else _NOT_FINITE_NAMES.get(text, f"{text}.0")
        for text in texts
    ]


def _array(texts: Sequence[str]) -> str:
    return f"[{', '.join(texts)}]"


def _members(names: Mapping[str, object] | Sequence[str], texts: Sequence[str]) -> str:
    pairs = (f"{json.dumps(name)}: {text}" for name, text in zip(names, texts, strict=True))
    return f"{{{', '.join(pairs)}}}"
