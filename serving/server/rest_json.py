"""JSON as the REST API reads it: the body of a request, its numbers and base64, and how errors
quote it.

Follows RapidJSON and tensorflow_serving/util/json_tensor.cc in what is accepted and in the texts.
"""

import base64
import gc
import json
import math
import re
from typing import Any

import tensorflow as tf

from serving.server.status import StatusError, invalid_argument
from serving.server.tensors import dtype_name

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
