"""Protobuf's text format in files: the one reader, and the one writer that leaves a whole file or
the old one.
"""

import re
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from serving.protos import message
from whisker_ml import files
from whisker_ml.errors import WhiskerError

# A protobuf message; its class is made at run time, so that no type checker knows its fields.
Message = Any


class ConfigError(WhiskerError):
    """A configuration file cannot be read or written, or says what TensorFlow Serving would
    refuse.
    """


def parse(text: str | bytes, source: str, kind: str, *, quote: bool = True) -> Message:
    """Reads a message.

    Args:
        text: the file's content; empty is a message without fields.
        source: where it comes from, for the error.
        kind: name of the message in the package `tensorflow.serving`.
        quote: whether the error may quote the text; False where it holds a secret.

    Raises:
        ConfigError: it is no such message.
    """
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        return text_format.Parse(decoded, message(f"tensorflow.serving.{kind}")())
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is no UTF-8"
    except text_format.ParseError as error:
        # The parser puts the place, and then often the whole line, before the reason.
        reason = re.sub(r"^(\d+:\d+) : ('.*': )?", r"\1: ", " ".join(str(error).split()))
        if not quote:
            reason = reason.partition(": ")[0]
    raise ConfigError(
        f"{source} is no {kind} ({reason}): expected protobuf's text format; fix it, or move it"
        " away; it has not been changed"
    )


def read(path: str | Path, kind: str, *, quote: bool = True) -> Message:
    """Reads a file as `parse` reads text.

    Raises:
        ConfigError: the file cannot be read, or holds no such message.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}: expected a text {kind}; name another file"
        ) from error
    return parse(content, str(path), kind, quote=quote)


def render(config: Message) -> str:
    """Writes a message as the text that `parse` and TensorFlow Serving read."""
    return text_format.MessageToString(config)


def write(path: str | Path, config: Message, mode: int = 0o644) -> None:
    """Writes a message to a file, whole or not at all.

    Args:
        path: replaced where it exists.
        config: any message.
        mode: permissions of the file, less those that the process's umask takes away.

    Raises:
        ConfigError: the file cannot be written; what was there stays.
    """
    try:
        files.replace(Path(path), render(config).encode(), mode)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}: choose another place"
        ) from error
