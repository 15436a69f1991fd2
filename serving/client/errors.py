"""What can go wrong between client and server; each text is one line that names the server and the
way out.

    WhiskerError
      ClientError
        ServerUnavailable  DeadlineExceeded  ModelNotFound    ModelNotReady      InvalidRequest
        MessageTooLarge    WrongProtocol     NotAllowed       ServerError        UnexpectedReply
        UnreadablePicture  NotAPicture

No text names the picture: whoever sent it knows which it was.
"""

import json
import re
from typing import Any

import grpc

from whisker_ml import contract
from whisker_ml.errors import WhiskerError
from whisker_ml.machine import proxy_variable

_LONGEST_TEXT = 2000


def one_line(text: str) -> str:
    """Makes one line of a text that a server may have written, and leaves out the middle of a long
    one.
    """
    line = " ".join(text.split())
    half = _LONGEST_TEXT // 2
    return line if len(line) <= _LONGEST_TEXT else f"{line[:half]} … {line[-half:]}"


class ClientError(WhiskerError):
    """A prediction or a question about a model got no answer.

    Attributes:
        code: the gRPC status; None where the failure is not one of the call.
        details: the server's own words, unshortened; empty where there are none.
        models: what the server has, where it does not know the model and says so.
    """

    models: tuple[str, ...] = ()

    def __init__(
        self, text: str, *, code: grpc.StatusCode | None = None, details: str = ""
    ) -> None:
        super().__init__(one_line(text))
        self.code = code
        self.details = details


class ServerUnavailable(ClientError):
    """No connection, or the server turned the request away because it is starting, stopping or
    overloaded.
    """


class WrongProtocol(ClientError):
    """The port answers, but not what the client speaks: REST, TLS on one side only, a certificate
    not trusted.
    """


class NotAllowed(ClientError):
    """There is no token, or the server refuses the client's."""


class DeadlineExceeded(ClientError):
    """No answer within the time that the call was given."""


class ModelNotFound(ClientError):
    """The server has no such model or version."""


class ModelNotReady(ClientError):
    """The model is still loading, or did not become available in time."""


class InvalidRequest(ClientError):
    """The request cannot be served as it is: a wrong argument, signature, input or label."""


class MessageTooLarge(ClientError):
    """The request or the answer is larger than one side allows."""


class ServerError(ClientError):
    """The server failed for a reason of its own."""


class UnexpectedReply(ClientError):
    """The answer is not one to what was asked, or not what `whisker_ml.contract` promises: it is
    another kind of server or model.
    """


class UnreadablePicture(ClientError):
    """The file of a picture cannot be read."""


class NotAPicture(ClientError):
    """The server received the bytes and cannot decode them."""

    def __init__(self) -> None:
        super().__init__(
            "not a picture that the server can decode: send a whole JPEG, PNG, GIF, BMP or WebP"
            " file, as it is on disk"
        )


OTHER_SERVER = "check that the address is that of a TensorFlow Serving server"

# The only place where gRPC's statuses become types; the first row fits whose pattern is in "status:
# details". The patterns are what grpcio 1.66 to 1.85 says. What no row fits becomes a ServerError.
_CASES: tuple[tuple[str, type[ClientError], str], ...] = (
    (
        "UNAVAILABLE: .*(Expected SETTINGS frame|http1.x server|Failed parsing HTTP/2)",
        WrongProtocol,
        "this is not a gRPC port: give the server's gRPC port (by default 8500), not the port of"
        " REST",
    ),
    (
        "UNAVAILABLE: .*WRONG_VERSION_NUMBER",
        WrongProtocol,
        "this port does not use TLS: leave out tls",
    ),
    (
        "UNAVAILABLE: .*CERTIFICATE_VERIFY_FAILED",
        WrongProtocol,
        "the server's certificate is not signed by a trusted one: give the right one as ca",
    ),
    (
        "UNAVAILABLE: .*(Hostname Verification|not valid for|Peer name)",
        WrongProtocol,
        "the server's certificate is for another name: ask it by that name, or give it as"
        " server_name",
    ),
    (
        "UNAVAILABLE: .*(metadata from plugin|Illegal metadata)",
        NotAllowed,
        "check that token returns a token",
    ),
    (
        "UNAVAILABLE: .*(Socket closed|recvmsg|Connection reset|Broken pipe)",
        ServerUnavailable,
        "the connection was closed: check that the server runs; if every call ends so, check that"
        " the address is its gRPC port, and whether it needs TLS or a client's certificate",
    ),
    (
        "UNAVAILABLE: .*Connection refused",
        ServerUnavailable,
        "nothing listens at this address: start the server, or give the gRPC port of one that runs",
    ),
    (
        "UNAVAILABLE",
        ServerUnavailable,
        "check that the server runs, that the address is its gRPC port (not REST), and that it is"
        " not overloaded",
    ),
    (
        "DEADLINE_EXCEEDED",
        DeadlineExceeded,
        "give more time, or find out why the server is slow; if no call is ever answered, check"
        " that the address is its gRPC port, and that both sides use TLS, or neither",
    ),
    ("NOT_FOUND", ModelNotFound, "check name and version against what the server has loaded"),
    (
        "INVALID_ARGUMENT: .*Unrecognized servable version label",
        InvalidRequest,
        "no version has this label: whisker-store list shows the labels",
    ),
    (
        "INVALID_ARGUMENT|FAILED_PRECONDITION",
        InvalidRequest,
        "check signature, label and inputs against the model's",
    ),
    (
        "UNAUTHENTICATED|PERMISSION_DENIED",
        NotAllowed,
        "check the client's token and certificate, and their permissions",
    ),
    ("UNIMPLEMENTED", ServerError, OTHER_SERVER),
    (
        "RESOURCE_EXHAUSTED: .*larger than max",
        MessageTooLarge,
        "send a smaller picture, or raise the limit of the side that refuses:"
        " grpc.max_receive_message_length of a server, max_answer_bytes of the client",
    ),
    ("RESOURCE_EXHAUSTED: .*metadata size exceeds", UnexpectedReply, OTHER_SERVER),
    (
        "RESOURCE_EXHAUSTED",
        ServerUnavailable,
        "the server is at its limit: send less, or ask again later",
    ),
    (
        "CANCELLED",
        ClientError,
        "the client was closed, or the call cancelled, before the answer came",
    ),
    (
        "UNKNOWN: .*Failed to create channel",
        InvalidRequest,
        "expected host:port, or another name that gRPC knows",
    ),
)


def from_rpc_error(error: grpc.RpcError, server: str) -> ClientError:
    """Translates gRPC's exception.

    Args:
        error: what a call raised.
        server: the address that was asked, for the text.

    Returns:
        The typed error, with code and details kept; to be raised ``from error``.
    """
    code, details = error.code(), error.details() or ""
    said = f"{code.name}: {details}"
    fits = (
        (kind, advice) for pattern, kind, advice in _CASES if re.match(pattern, said, re.DOTALL)
    )
    kind, advice = next(fits, (ServerError, "see the server's log"))
    if name := proxy_variable(server) if code.name in ("UNAVAILABLE", "DEADLINE_EXCEEDED") else "":
        advice += (
            f"; gRPC uses the proxy in {name}: to reach the server directly, add its host to"
            " no_proxy"
        )
    if code is grpc.StatusCode.UNAVAILABLE and ":" not in server:
        advice += f"; no port was given, so 443 was asked: expected host:port, as {server}:8500"
    models = _models(error)
    if models:
        # Also where it blames the label, which comes before the name.
        kind = ModelNotFound
        advice = f"the server has no such model: ask for one of {', '.join(models)}"
    translated = kind(f"{server}: {said}; {advice}", code=code, details=details)
    translated.models = models
    return translated


def _models(error: grpc.RpcError) -> tuple[str, ...]:
    """Reads which models the server has, where it says so."""
    metadata: Any = getattr(error, "trailing_metadata", tuple)() or ()
    texts = [value for key, value in metadata if key == contract.MODELS_METADATA]
    try:
        names = json.loads(texts[0]) if texts else []
    except (ValueError, RecursionError):
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)
