"""What can go wrong between client and server; each text is one line that names the server and the way out.

    WhiskerError
      ClientError
        ServerUnavailable   DeadlineExceeded   ModelNotFound   ModelNotReady   InvalidRequest   MessageTooLarge
        ServerError         UnexpectedReply    UnreadablePicture               NotAPicture

No text names the picture: whoever sent it knows which it was.
"""

import grpc

from serving.errors import WhiskerError


class ClientError(WhiskerError):
    """A prediction or a question about a model got no answer.

    Attributes:
        code: the gRPC status; None where the failure is not one of the call.
        details: the server's own words, unshortened; empty where there are none.
    """

    def __init__(self, text: str, *, code: grpc.StatusCode | None = None, details: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.details = details


class ServerUnavailable(ClientError):
    """No connection, or the server turned the request away because it is starting, stopping or overloaded."""


class DeadlineExceeded(ClientError):
    """No answer within the time that the call was given."""


class ModelNotFound(ClientError):
    """The server has no such model or version."""


class ModelNotReady(ClientError):
    """The model did not become available in time."""


class InvalidRequest(ClientError):
    """The request cannot be served as it is: a wrong argument, signature, input or label."""


class MessageTooLarge(ClientError):
    """The request or the answer is larger than one side allows."""


class ServerError(ClientError):
    """The server failed for a reason of its own."""


class UnexpectedReply(ClientError):
    """The answer is not what `serving.contract` promises: the model is another kind of model."""


class UnreadablePicture(ClientError):
    """The file of a picture cannot be read."""


class NotAPicture(ClientError):
    """The server received the bytes and cannot decode them."""

    def __init__(self) -> None:
        super().__init__(
            "not a picture that the server can decode: send a whole JPEG, PNG, GIF or BMP file, as it lies on disk"
        )


_INVALID = "check signature, label and inputs against the model's"

# The only place where gRPC's codes become types. Codes that are not here become ServerError.
_BY_CODE: dict[grpc.StatusCode, tuple[type[ClientError], str]] = {
    grpc.StatusCode.UNAVAILABLE: (
        ServerUnavailable,
        "check that the server runs, that the address is its gRPC port (not REST), and that it is not overloaded",
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (DeadlineExceeded, "give more time, or look why the server is slow"),
    grpc.StatusCode.NOT_FOUND: (ModelNotFound, "check name and version against what the server has loaded"),
    grpc.StatusCode.INVALID_ARGUMENT: (InvalidRequest, _INVALID),
    grpc.StatusCode.FAILED_PRECONDITION: (InvalidRequest, _INVALID),
    grpc.StatusCode.UNIMPLEMENTED: (ServerError, "check that the address is that of a TensorFlow Serving server"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        MessageTooLarge,
        "send a smaller picture, or raise grpc.max_receive_message_length on the side that refuses",
    ),
}


def from_rpc_error(error: grpc.RpcError, server: str) -> ClientError:
    """Translates gRPC's exception.

    Args:
        error: what a call raised.
        server: the address that was asked, for the text.

    Returns:
        The typed error, with code and details kept; to be raised ``from error``.
    """
    code, details = error.code(), error.details() or ""
    kind, advice = _BY_CODE.get(code, (ServerError, "see the server's log"))
    # A status of TensorFlow can span lines; an error of ours is one.
    return kind(f"{server}: {code.name}: {' '.join(details.split())}; {advice}", code=code, details=details)
