"""What goes into a prediction, and what comes out."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from serving.client.errors import InvalidRequest, UnreadablePicture


class Array(Protocol):
    """What the client uses of a numpy.ndarray; NumPy itself need not be installed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its dimensions."""

    @property
    def dtype(self) -> Any:
        """Type of its elements."""

    def tobytes(self) -> bytes:
        """Its elements, in C order."""


# Encoded bytes (JPEG, PNG, GIF, BMP), a file of them by its path or opened in binary mode, or
# pixels as they are: uint8 or float, 0…255, [height, width, 3].
Picture = bytes | str | os.PathLike[str] | BinaryIO | Array


@dataclass(frozen=True)
class Prediction:
    """What the model says about one picture.

    Attributes:
        label: the most probable class.
        probability: its probability, 0 to 1.
        probabilities: the probability of every class, 0 to 1, in the model's order of classes.
        model_version: the version that answered.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    model_version: int


def read_picture(picture: Picture) -> bytes:
    """Reads encoded bytes out of a file, given by its path or opened.

    Raises:
        InvalidRequest: this is no file at all.
        UnreadablePicture: the file cannot be read, or gives text.
    """
    if not isinstance(picture, str | os.PathLike) and not hasattr(picture, "read"):
        raise InvalidRequest(
            f"a picture is a {type(picture).__name__}: expected bytes, a path, a file opened in"
            " binary mode or an array"
        )
    try:
        data = (
            Path(picture).read_bytes() if isinstance(picture, str | os.PathLike) else picture.read()
        )
    except (OSError, ValueError) as error:
        # ValueError: a path with a zero byte in it, a file object that is closed.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UnreadablePicture(f"the file cannot be read: {reason}") from error
    if not isinstance(data, bytes):
        raise UnreadablePicture("the file gives text: expected one that is opened in binary mode")
    return data
