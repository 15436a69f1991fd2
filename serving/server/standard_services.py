"""gRPC's own services: health, for probes and balancers, and reflection, for tools like grpcurl."""

from collections.abc import Iterable
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

HEALTH = "grpc.health.v1.Health"
REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name

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

REFLECTION_REQUEST = reflection_pb2.ServerReflectionRequest
REFLECTION_RESPONSE = reflection_pb2.ServerReflectionResponse


def health_message(name: str) -> Any:
    """Gives the class of HealthCheckRequest or HealthCheckResponse."""
    return GetMessageClass(_descriptors().FindMessageTypeByName(f"grpc.health.v1.{name}"))


def check_health(request: Any, context: grpc.ServicerContext) -> Any:
    """Answers Check of the health service: after the start, everything is well."""
    if request.service not in _PARTS:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return health_message("HealthCheckResponse")(status=_SERVING)


def reflection(services: Iterable[str]) -> ReflectionServicer:
    """Makes what answers the reflection service.

    Args:
        services: full names of those that the server has.
    """
    return ReflectionServicer(services, pool=_descriptors())


@cache
def _descriptors() -> DescriptorPool:
    """Copies what is generated into a pool of its own, as another health.proto may come to the
    process' pool.
    """
    health = text_format.Parse(_HEALTH_PROTO, FileDescriptorProto())
    files = {health.name: health}

    def copy(file: FileDescriptor) -> None:
        if file.name not in files:
            for dependency in file.dependencies:
                copy(dependency)
            files[file.name] = FileDescriptorProto()
            file.CopyToProto(files[file.name])

    for module in (prediction_service_pb2, model_service_pb2, reflection_pb2):
        copy(module.DESCRIPTOR)
    pool = DescriptorPool()
    for file in files.values():
        pool.Add(file)
    return pool
