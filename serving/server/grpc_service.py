"""The gRPC side: PredictionService, ModelService, health and reflection on one port.

Methods are registered one by one rather than through the generated servicers, whose inherited
methods write a stack trace into the log at every call; one that is not here is answered
UNIMPLEMENTED by gRPC itself.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import ReflectionServicer
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2
from tensorflow_serving.apis.inference_pb2 import InferenceTask

from serving.config import Message
from serving.server.flags import DEFAULTS, Flags
from serving.server.handlers import Handlers
from serving.server.status import StatusError, deadline_exceeded, invalid_argument, unavailable
from whisker_ml import contract

# From a request and what is left of its deadline in seconds to the response.
_Answer = Callable[[Any, float | None], Any]

# Requests that are worked on at a time, unless a flag says otherwise. One that waits for its batch
# counts, so this bounds how many can be merged.
_MOST_AT_WORK = 128
# Calls at a time: that wait for their turn or are worked on; whose request has not arrived yet; and
# over one connection. grpcio has a thread for each, started on demand; the spare ones refuse what
# is too much, and answer health checks whatever else happens.
_MOST_CALLS = 1024
_MOST_ARRIVING = 512
_SPARE_THREADS = 64
_MOST_CALLS_OF_A_CONNECTION = 128
_SWEEP_S = 1.0

# A longer status does not fit into the 8 kB of headers that clients accept; grpc_status_util.cc
# cuts here too.
_MAX_MESSAGE = 1024
# The same headers hold the names of the models.
_MOST_NAMES, _MAX_NAMES_BYTES = 20, 2048

_OPTIONS: dict[str, int | str] = {
    "grpc.max_send_message_length": -1,
    # Otherwise a second server binds the same port without an error, and the kernel deals requests
    # to both.
    "grpc.so_reuseport": 0,
    "grpc.max_concurrent_streams": _MOST_CALLS_OF_A_CONNECTION,
    # A peer that vanished without a word is let go after 80 s; gRPC's own wait is 2 hours.
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
}


class _Arrivals:
    """Calls whose request has not arrived yet: none waits for ever, and of too many the oldest
    ends, so that clients that never send what they announced cannot keep others out.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._since: dict[grpc.ServicerContext, float] = {}  # the oldest first
        threading.Thread(target=self._sweep, name="grpc-arrivals", daemon=True).start()

    def method(self, answer: Callable[..., Any], request: Any, response: Any) -> Any:
        """Makes the handler of a method with one request and one response.

        On the wire it is a unary one. As a streaming one it can be cancelled while its request has
        not arrived.
        """

        def receive(messages: Iterator[Any], context: grpc.ServicerContext) -> Any:
            with self._arriving(context):
                message = next(messages, None)
            if message is None:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "expected exactly one request message")
            return answer(message, context)

        return grpc.stream_unary_rpc_method_handler(
            receive,
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )

    def stream(self, answer: Callable[..., Iterator[Any]], request: Any, response: Any) -> Any:
        """Makes the handler of a method with many requests and responses, in which a next request
        may always arrive: the time is that of the whole call.
        """

        def receive(messages: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            with self._arriving(context):
                yield from answer(messages, context)

        return grpc.stream_stream_rpc_method_handler(
            receive,
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )

    @contextmanager
    def _arriving(self, context: grpc.ServicerContext) -> Iterator[None]:
        with self._lock:
            oldest = next(iter(self._since)) if len(self._since) >= _MOST_ARRIVING else None
            if oldest is not None:
                del self._since[oldest]
            self._since[context] = time.monotonic()
        if oldest is not None:
            oldest.cancel()
        try:
            yield
        finally:
            with self._lock:
                self._since.pop(context, None)

    def _sweep(self) -> None:
        while True:
            time.sleep(_SWEEP_S)
            too_old = time.monotonic() - self._timeout_s
            with self._lock:
                late = [context for context, since in self._since.items() if since < too_old]
            for context in late:
                context.cancel()


def bind(
    handlers: Handlers,
    host: str,
    port: int | None,
    flags: Flags = DEFAULTS,
    tls: Message | None = None,
) -> tuple[grpc.Server, int | None]:
    """Makes a server that listens, but does not answer before its `start`.

    Args:
        handlers: what answers.
        host: address to bind.
        port: 0 for a free one; None for none.
        flags: what they say about gRPC.
        tls: a tensorflow.serving.SSLConfig; None: no TLS.

    Returns:
        The server and its port.

    Raises:
        StatusError: UNAVAILABLE, the port or the socket cannot be bound; INVALID_ARGUMENT, the
            arguments of the server.
    """
    arrivals = _Arrivals(flags.request_arrival_timeout_in_ms / 1000)
    threads = _MOST_CALLS + _MOST_ARRIVING + _SPARE_THREADS
    options = {
        **_OPTIONS,
        "grpc.max_receive_message_length": flags.max_request_bytes,
        **_channel_arguments(flags.grpc_channel_arguments),
    }
    server = grpc.server(
        ThreadPoolExecutor(threads, thread_name_prefix="grpc"), options=list(options.items())
    )
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(name, methods)
            for name, methods in _services(handlers, flags, arrivals).items()
        ]
    )
    if flags.grpc_socket_path:
        _listen(server, f"unix:{flags.grpc_socket_path}", tls, "choose another --grpc_socket_path")
    if port is None:
        return server, None
    return server, _listen(server, f"{host}:{port}", tls, "choose another --port")


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
            reason += ", or key and certificate of --ssl_config_file do not match"
        raise unavailable(f"cannot listen for gRPC on {address}: {reason}; {remedy}") from error


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


def _services(
    handlers: Handlers, flags: Flags, arrivals: _Arrivals
) -> dict[str, dict[str, grpc.RpcMethodHandler]]:
    """Every method of every service."""
    calls = threading.BoundedSemaphore(_MOST_CALLS)
    slots = threading.BoundedSemaphore(flags.grpc_max_threads or _MOST_AT_WORK)
    answers: dict[str, _Answer] = {
        "GetModelMetadata": lambda request, _: handlers.metadata(request),
        "GetModelStatus": lambda request, _: handlers.model_status(request),
        "HandleReloadConfigRequest": handlers.reload_config,
    }

    def inferred(name: str) -> _Answer:
        def answer(request: Any, timeout_s: float | None) -> Any:
            spec, single = request, hasattr(request, "model_spec")
            if not single:
                # The real server does not count MultiInference.
                spec = request.tasks[0] if request.tasks else InferenceTask()
            with handlers.metrics.request("GRPC", spec.model_spec.name, name, single):
                return handlers.infer(request, timeout_s)

        return answer

    services = {}
    for service in (
        prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"],
        model_service_pb2.DESCRIPTOR.services_by_name["ModelService"],
    ):
        services[service.full_name] = {
            method.name: arrivals.method(
                _guarded(
                    answers.get(method.name) or inferred(method.name),
                    calls,
                    slots,
                    handlers.manager.names,
                ),
                GetMessageClass(method.input_type),
                GetMessageClass(method.output_type),
            )
            for method in service.methods
        }
    if flags.enable_grpc_healthcheck_service:
        messages = map(_health_message, ("HealthCheckRequest", "HealthCheckResponse"))
        services[_HEALTH] = {"Check": arrivals.method(_check_health, *messages)}
    services[_REFLECTION] = {
        "ServerReflectionInfo": arrivals.stream(
            ReflectionServicer([*services, _REFLECTION], pool=_descriptors()).ServerReflectionInfo,
            reflection_pb2.ServerReflectionRequest,
            reflection_pb2.ServerReflectionResponse,
        )
    }
    return services


def _guarded(
    answer: _Answer,
    calls: threading.BoundedSemaphore,
    slots: threading.BoundedSemaphore,
    names: Callable[[], list[str]] = list,
) -> Callable[[Any, grpc.ServicerContext], Any]:
    """Bounds the calls that wait for their turn, and turns errors into statuses; one about a model
    that is not among the `names` says which are.
    """

    def guarded(message: Any, context: grpc.ServicerContext) -> Any:
        if not calls.acquire(blocking=False):
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{_MOST_CALLS} calls wait for their turn already",
            )
        try:
            with slots:
                remaining = context.time_remaining()
                # Waited for its turn for too long, or the client has gone: nobody reads the answer.
                if not context.is_active() or (remaining is not None and remaining <= 0):
                    raise deadline_exceeded("Deadline exceeded before the request could run")
                # Without a deadline it is infinite, or centuries.
                return answer(
                    message, remaining if remaining is not None and remaining < 1e9 else None
                )
        except StatusError as error:
            known = names()
            if known and hasattr(message, "model_spec") and message.model_spec.name not in known:
                told = json.dumps(known[:_MOST_NAMES]).encode()
                if len(told) <= _MAX_NAMES_BYTES:
                    context.set_trailing_metadata(((contract.MODELS_METADATA, told),))
            cut = (
                error.message[:_MAX_MESSAGE] + "...TRUNCATED"
                if len(error.message) > _MAX_MESSAGE
                else error.message
            )
            context.abort(error.code, cut)
        finally:
            calls.release()

    return guarded


# gRPC's own services: health, for probes and balancers, and reflection, for tools like grpcurl.

_HEALTH = "grpc.health.v1.Health"
_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name

# grpc/health/v1/health.proto without Watch, which gRPC answers UNIMPLEMENTED: clients take that for
# well, as the protocol says.
_HEALTH_PROTO = """
name: "grpc/health/v1/health.proto" package: "grpc.health.v1" syntax: "proto3"
message_type {
  name: "HealthCheckRequest"
  field { name: "service" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
}
message_type {
  name: "HealthCheckResponse"
  field {
    name: "status" number: 1 label: LABEL_OPTIONAL
    type: TYPE_ENUM type_name: ".grpc.health.v1.HealthCheckResponse.ServingStatus"
  }
  enum_type {
    name: "ServingStatus"
    value { name: "UNKNOWN" number: 0 }
    value { name: "SERVING" number: 1 }
    value { name: "NOT_SERVING" number: 2 }
    value { name: "SERVICE_UNKNOWN" number: 3 }
  }
}
service {
  name: "Health"
  method {
    name: "Check"
    input_type: ".grpc.health.v1.HealthCheckRequest"
    output_type: ".grpc.health.v1.HealthCheckResponse"
  }
}
"""

# The bare names that the real server registers: its parts, and the server as a whole.
_PARTS = ("", "ModelService", "PredictionService")
_SERVING = 1


@cache
def _descriptors() -> DescriptorPool:
    """Gives a pool that knows what this server answers and nothing else."""
    pool, known = DescriptorPool(), set()

    def copy(file: FileDescriptor) -> None:
        if file.name not in known:
            known.add(file.name)
            for dependency in file.dependencies:
                copy(dependency)
            pool.AddSerializedFile(file.serialized_pb)

    for module in (prediction_service_pb2, model_service_pb2, reflection_pb2):
        copy(module.DESCRIPTOR)
    health = text_format.Parse(_HEALTH_PROTO, FileDescriptorProto())
    pool.AddSerializedFile(health.SerializeToString())
    return pool


def _health_message(name: str) -> Any:
    """Gives the class of HealthCheckRequest or HealthCheckResponse."""
    return GetMessageClass(_descriptors().FindMessageTypeByName(f"grpc.health.v1.{name}"))


def _check_health(request: Any, context: grpc.ServicerContext) -> Any:
    """Answers Check of the health service: after the start, everything is well."""
    if request.service not in _PARTS:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return _health_message("HealthCheckResponse")(status=_SERVING)
