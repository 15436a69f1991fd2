"""The gRPC side: PredictionService and ModelService on one port.

Methods are registered one by one rather than through the generated servicers, whose inherited
methods write a stack trace into the log at every call; one that is not here is answered
UNIMPLEMENTED by gRPC itself.
"""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

from serving.config import Message
from serving.server.handlers import Handlers
from serving.server.status import StatusError, invalid_argument

# From a request and what is left of its deadline in seconds to the response.
_Answer = Callable[[Any, float | None], Any]

# The health service of gRPC (grpc.health.v1), for probes and balancers: after the start,
# everything is well.

_SERVING = 1

# The bare names that the real server registers: its parts, and the server as a whole.
_SERVICES = ("", "ModelService", "PredictionService")


def handler() -> grpc.GenericRpcHandler:
    """Makes the handler of Check; Watch is answered UNIMPLEMENTED, which clients take for well, as
    the protocol says.

    HealthCheckRequest{string service = 1} and HealthCheckResponse{ServingStatus status = 1} are, on
    the wire, the wrapper messages that protobuf brings.
    """

    def check(request: StringValue, context: grpc.ServicerContext) -> Int32Value:
        if request.value not in _SERVICES:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return Int32Value(value=_SERVING)

    method = grpc.unary_unary_rpc_method_handler(
        check,
        request_deserializer=StringValue.FromString,
        response_serializer=Int32Value.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})


# Calls at a time, over all connections and over each. grpcio reads a request in the thread that
# will answer it, so that a client that never sends the rest of its own occupies a thread: there are
# more of them than --grpc_max_threads, and one connection cannot take them all. They start on
# demand.
_MOST_CALLS = 1024
_MOST_CALLS_OF_A_CONNECTION = 128

# A longer status does not fit into the 8 kB of headers that clients accept; grpc_status_util.cc
# cuts here too.
_MAX_MESSAGE = 1024

_OPTIONS: dict[str, int | str] = {
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
    # Otherwise a second server binds the same port without an error, and the kernel deals requests
    # to both.
    "grpc.so_reuseport": 0,
    "grpc.max_concurrent_streams": _MOST_CALLS_OF_A_CONNECTION,
    # A peer that vanished without a word is let go after 80 s; gRPC's own wait is 2 hours.
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
}


@dataclass(frozen=True)
class Transport:
    """How the gRPC side listens, beyond its address.

    Attributes:
        socket_path: a Unix socket to listen on as well; empty: none.
        tls: a tensorflow.serving.SSLConfig; None: no TLS.
        arguments: of the gRPC server, as ``name=value,name=value``.
        most_at_work: requests that are worked on at a time. One that waits for its batch counts, so
            this bounds how many can be merged.
        health: whether the health service answers.
    """

    socket_path: str = ""
    tls: Message | None = None
    arguments: str = ""
    most_at_work: int = 128
    health: bool = False


def bind(
    handlers: Handlers, host: str, port: int | None, transport: Transport | None = None
) -> tuple[grpc.Server, int | None]:
    """Makes a server that listens, but does not answer before its `start`.

    Args:
        handlers: what answers.
        host: address to bind.
        port: 0 for a free one; None for none.
        transport: see there; None for its defaults.

    Returns:
        The server and its port.

    Raises:
        StatusError: UNAVAILABLE, the port or the socket cannot be bound; INVALID_ARGUMENT, the
            arguments of the server.
    """
    transport = transport or Transport()
    server = grpc.server(
        ThreadPoolExecutor(_MOST_CALLS, thread_name_prefix="grpc"),
        options=list({**_OPTIONS, **_channel_arguments(transport.arguments)}.items()),
        maximum_concurrent_rpcs=_MOST_CALLS,
    )
    server.add_generic_rpc_handlers(tuple(_services(handlers, transport.most_at_work)))
    if transport.health:
        server.add_generic_rpc_handlers((handler(),))
    if transport.socket_path:
        _listen(
            server,
            f"unix:{transport.socket_path}",
            transport.tls,
            "choose another --grpc_socket_path",
        )
    if port is None:
        return server, None
    return server, _listen(server, f"{host}:{port}", transport.tls, "choose another --port")


def _listen(server: grpc.Server, address: str, tls: Message | None, remedy: str) -> int:
    try:
        if tls is None:
            return int(server.add_insecure_port(address))
        credentials = grpc.ssl_server_credentials(
            [(tls.server_key.encode(), tls.server_cert.encode())],
            root_certificates=tls.custom_ca.encode() or None,
            require_client_auth=tls.client_verify,
        )
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        reason = "the address is in use or not allowed"
        if tls is not None:
            reason += ", or key and certificate of --ssl_config_file do not belong together"
        raise StatusError(
            grpc.StatusCode.UNAVAILABLE, f"cannot listen for gRPC on {address}: {reason}; {remedy}"
        ) from error


def _channel_arguments(text: str) -> dict[str, int | str]:
    """Reads ``name=value,name=value``: whole numbers as such, all else as text."""
    arguments: dict[str, int | str] = {}
    for pair in filter(None, text.split(",")):
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise invalid_argument(
                f"--grpc_channel_arguments has {pair}: expected name=value,name=value"
            )
        arguments[name] = int(value) if re.fullmatch(r"-?[0-9]{1,9}", value) else value
    return arguments


def _services(handlers: Handlers, most_at_work: int) -> Iterator[grpc.GenericRpcHandler]:
    """Every method of the two services."""
    slots = threading.BoundedSemaphore(most_at_work)
    answers: dict[str, _Answer] = {
        "GetModelMetadata": lambda request, _: handlers.metadata(request),
        "GetModelStatus": lambda request, _: handlers.model_status(request),
        "HandleReloadConfigRequest": handlers.reload_config,
        "MultiInference": handlers.infer,
    }

    def counted(name: str) -> _Answer:
        def answer(request: Any, timeout_s: float | None) -> Any:
            with handlers.metrics.request("GRPC", request.model_spec.name, name):
                return handlers.infer(request, timeout_s)

        return answer

    for service in (
        prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"],
        model_service_pb2.DESCRIPTOR.services_by_name["ModelService"],
    ):
        methods = {
            method.name: _method(
                answers.get(method.name) or counted(method.name),
                GetMessageClass(method.input_type),
                GetMessageClass(method.output_type),
                slots,
            )
            for method in service.methods
        }
        yield grpc.method_handlers_generic_handler(service.full_name, methods)


def _method(
    answer: _Answer, request: Any, response: Any, slots: threading.BoundedSemaphore
) -> grpc.RpcMethodHandler:
    def guarded(message: Any, context: grpc.ServicerContext) -> Any:
        try:
            with slots:
                remaining = context.time_remaining()
                # Waited for its turn for too long, or the client has gone: nobody reads the answer.
                if not context.is_active() or (remaining is not None and remaining <= 0):
                    raise StatusError(
                        grpc.StatusCode.DEADLINE_EXCEEDED,
                        "Deadline exceeded before the request could run",
                    )
                # Without a deadline it is infinite, or centuries.
                return answer(
                    message, remaining if remaining is not None and remaining < 1e9 else None
                )
        except StatusError as error:
            cut = (
                error.message[:_MAX_MESSAGE] + "...TRUNCATED"
                if len(error.message) > _MAX_MESSAGE
                else error.message
            )
            context.abort(error.code, cut)

    return grpc.unary_unary_rpc_method_handler(
        guarded,
        request_deserializer=request.FromString,
        response_serializer=response.SerializeToString,
    )
