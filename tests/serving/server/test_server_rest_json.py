import pytest

from serving.server.rest_json import parse
from serving.server.status import StatusError


def test_what_surrounds_the_object_is_ignored():
    assert parse(b'\xef\xbb\xbf \t\r\n{"inputs": [1]} and more') == {"inputs": [1]}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "The document is empty"),
        (b" \n", "The document is empty. at offset: 2"),
        (b"{", "Missing a name for object member. at offset: 1"),
        (b"{1: 2}", "Missing a name for object member. at offset: 1"),
        ('{"ä" 2}'.encode(), "Missing a colon after a name of object member. at offset: 6"),
        (b'{"a": [{}, "[\\"" 2]}', "Missing a comma or ] after an array element. at offset: 17"),
        (b'{"a": [{}, "[\\""] 2}', "Missing a comma or } after an object member. at offset: 18"),
        (b'{"a": x}', "Invalid value. at offset: 6"),
        (b'{"a": "x', "Missing a closing quotation mark in string. at offset: 6"),
        (b'{"a": "\\x"}', "Invalid escape character in string. at offset: 7"),
        (b'{"a": "\\u12"}', "Incorrect hex digit after \\u escape in string. at offset: 8"),
        (b'{"a": "\n"}', "Invalid encoding in string. at offset: 7"),
        (b'{"a": "\xff"}', "Invalid encoding in string. at offset: 7"),
        (b'{"a": "\\ud83d"}', "The surrogate pair in string is invalid."),
    ],
)
def test_text_that_is_no_json_is_refused_in_the_words_of_the_real_server(body, expected):
    with pytest.raises(StatusError) as error:
        parse(body)
    assert str(error.value) == f"INVALID_ARGUMENT: JSON Parse error: {expected}"


@pytest.mark.parametrize(
    "body", [b'{"inputs": ' + b"[" * 100_000, b'{"inputs": [' + b"1" * 5000 + b"]}"]
)
def test_text_that_no_parser_should_follow_is_refused(body):
    with pytest.raises(StatusError, match="^INVALID_ARGUMENT: JSON Parse error: "):
        parse(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[1]", "JSON Value: [\n    1\n] Is not object"),
        (b'"' + b"x" * 500 + b'"', f'JSON Value: "{"x" * 255} Is not object'),
        (
            b'{"signature_name": 1}',
            (
                'JSON Value: {\n    "signature_name": 1\n} not formatted correctly. '
                "'signature_name' key must be a string value."
            ),
        ),
    ],
)
def test_json_that_is_no_request_is_quoted(body, expected):
    with pytest.raises(StatusError) as error:
        parse(body)
    assert str(error.value) == f"INVALID_ARGUMENT: {expected}"


def test_surrogate_pairs_are_characters():
    assert parse(b'{"a": "\\ud83d\\ude00", "b": "\\\\ud83d"}') == {
        "a": "\U0001f600",
        "b": "\\ud83d",
    }
