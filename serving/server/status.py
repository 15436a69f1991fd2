"""A status as TensorFlow Serving answers with it: a canonical code and a message, raised as an
exception.
"""

import grpc

from whisker_ml.errors import WhiskerError


class StatusError(WhiskerError):
    """A request, a load or a configuration that failed; gRPC, REST and standard output show the
    same one.

    Attributes:
        code: canonical code; ``code.value[0]`` is its number, ``code.name`` its name.
        message: the text without the code.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


def invalid_argument(message: str) -> StatusError:
    """Makes the most frequent status."""
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, message)


def status_code(number: int) -> grpc.StatusCode:
    """Finds the code with a canonical number; UNKNOWN if there is none."""
    return next(
        (code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN
    )
