"""The gRPC side: PredictionService and ModelService on one port.

Methods are registered one by one rather than through the generated servicers, whose inherited methods write a stack
trace into the log at every call; one that is not here is answered UNIMPLEMENTED by gRPC itself.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, GetModelStatusResponse
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from serving.server.handlers import Handlers
from serving.server.status import StatusError, invalid_argument

# A request holds a thread while it waits for its batch, so this bounds how many can be merged. Threads start on demand.
_THREADS = 128

# A longer status does not fit into the 8 kB of headers that clients accept; grpc_status_util.cc cuts here too.
_MAX_MESSAGE = 1024

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Otherwise a second server binds the same port without an error, and the kernel deals requests to both.
    ("grpc.so_reuseport", 0),
)


def bind(handlers: Handlers, host: str, port: int) -> tuple[grpc.Server, int]:
    """Makes a server that listens, but does not answer before its `start`.

    Args:
        handlers: what answers.
        host: address to bind.
        port: 0 for a free one.

    Returns:
        The server and its port.

    Raises:
        StatusError: UNAVAILABLE, the port cannot be bound.
    """
    server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="grpc"), options=_OPTIONS)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.PredictionService",
                {"Predict": _method(_predict(handlers), PredictRequest, PredictResponse)},
            ),
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.ModelService",
                {"GetModelStatus": _method(_model_status(handlers), GetModelStatusRequest, GetModelStatusResponse)},
            ),
        )
    )
    try:
        return server, server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise StatusError(
            grpc.StatusCode.UNAVAILABLE,
            f"cannot listen for gRPC on {host}:{port}: the port is in use or not allowed; choose another --port",
        ) from error


def _predict(handlers: Handlers) -> Callable[[Any, grpc.ServicerContext], Any]:
    def answer(request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:
        remaining = context.time_remaining()
        # Without a deadline it is infinite, or centuries.
        return handlers.predict(request, remaining if remaining is not None and remaining < 1e9 else None)

    return answer


def _model_status(handlers: Handlers) -> Callable[[Any, grpc.ServicerContext], Any]:
    def answer(request: GetModelStatusRequest, context: grpc.ServicerContext) -> GetModelStatusResponse:
        del context
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        return handlers.model_status(request.model_spec)

    return answer


def _method(answer: Callable[[Any, grpc.ServicerContext], Any], request: Any, response: Any) -> grpc.RpcMethodHandler:
    def guarded(message: Any, context: grpc.ServicerContext) -> Any:
        try:
            return answer(message, context)
        except StatusError as error:
            cut = error.message[:_MAX_MESSAGE] + "...TRUNCATED" if len(error.message) > _MAX_MESSAGE else error.message
            context.abort(error.code, cut)

    return grpc.unary_unary_rpc_method_handler(
        guarded, request_deserializer=request.FromString, response_serializer=response.SerializeToString
    )
