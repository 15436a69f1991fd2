"""The health service of gRPC (grpc.health.v1), for probes and balancers: after the start,
everything is well.
"""

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

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
