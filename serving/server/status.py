"""A status as TensorFlow Serving answers with it: a canonical code and a message, raised as an
exception.
"""

from functools import partial

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


# What makes the most frequent ones of a message.
deadline_exceeded = partial(StatusError, grpc.StatusCode.DEADLINE_EXCEEDED)
failed_precondition = partial(StatusError, grpc.StatusCode.FAILED_PRECONDITION)
internal = partial(StatusError, grpc.StatusCode.INTERNAL)
invalid_argument = partial(StatusError, grpc.StatusCode.INVALID_ARGUMENT)
not_found = partial(StatusError, grpc.StatusCode.NOT_FOUND)
unavailable = partial(StatusError, grpc.StatusCode.UNAVAILABLE)
unimplemented = partial(StatusError, grpc.StatusCode.UNIMPLEMENTED)


def status_code(number: int) -> grpc.StatusCode:
    """Finds the code with a canonical number; UNKNOWN if there is none."""
    return next(
        (code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN
    )
