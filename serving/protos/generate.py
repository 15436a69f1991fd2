"""Writes the descriptor set that `serving.protos` reads: ``python -m serving.protos.generate``.

Needs tensorflow-serving-api and so TensorFlow. Run it when the pinned release of either, or of
protobuf, changes; a test compares the committed file with what this makes.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, wrappers_pb2
from google.protobuf.descriptor import FileDescriptor

from serving.protos import DESCRIPTOR_SET

_Field = descriptor_pb2.FieldDescriptorProto

_MODULES = (
    "tensorflow_serving.apis.prediction_service_pb2",
    "tensorflow_serving.apis.model_service_pb2",
    "tensorflow_serving.apis.prediction_log_pb2",
    "tensorflow_serving.config.model_server_config_pb2",
)


def descriptor_set() -> bytes:
    """Makes the serialized FileDescriptorSet: every file after the files that it imports, always in
    the same order.
    """
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for module in _MODULES:
        _collect(import_module(module).DESCRIPTOR, files)
    _collect(wrappers_pb2.DESCRIPTOR, files)
    for file in (_batching_parameters(), _ssl_config(), _monitoring_config()):
        files[file.name] = file
    return descriptor_pb2.FileDescriptorSet(file=files.values()).SerializeToString(
        deterministic=True
    )


def _collect(file: FileDescriptor, files: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
    if file.name in files:
        return
    for dependency in file.dependencies:
        _collect(dependency, files)
    files[file.name] = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(files[file.name])


# What the pip package lacks. Names, numbers and types: tensorflow/serving. Files in text format
# hold names alone, which matters for two: in what of it was at hand, max_execution_batch_size and
# enable_large_batch_splitting were used (bundle_factory_util.h), but not declared; their numbers
# are the next free ones.
def _batching_parameters() -> descriptor_pb2.FileDescriptorProto:
    file = _file("servables/tensorflow/session_bundle_config.proto", wrappers_pb2.DESCRIPTOR.name)
    parameters = file.message_type.add(name="BatchingParameters")
    for name in (
        "max_batch_size",
        "batch_timeout_micros",
        "max_enqueued_batches",
        "num_batch_threads",
    ):
        _add(parameters, name, ".google.protobuf.Int64Value")
    _add(parameters, "thread_pool_name", ".google.protobuf.StringValue")
    _add(parameters, "allowed_batch_sizes", _Field.TYPE_INT64).label = _Field.LABEL_REPEATED
    _add(parameters, "pad_variable_length_inputs", _Field.TYPE_BOOL)
    _add(parameters, "enable_large_batch_splitting", ".google.protobuf.BoolValue")
    _add(parameters, "max_execution_batch_size", ".google.protobuf.Int64Value")
    return file


def _ssl_config() -> descriptor_pb2.FileDescriptorProto:
    file = _file("config/ssl_config.proto")
    config = file.message_type.add(name="SSLConfig")
    for name in ("server_key", "server_cert", "custom_ca"):
        _add(config, name, _Field.TYPE_STRING)
    _add(config, "client_verify", _Field.TYPE_BOOL)
    return file


def _monitoring_config() -> descriptor_pb2.FileDescriptorProto:
    file = _file("config/monitoring_config.proto")
    prometheus = file.message_type.add(name="PrometheusConfig")
    _add(prometheus, "enable", _Field.TYPE_BOOL)
    _add(prometheus, "path", _Field.TYPE_STRING)
    _add(
        file.message_type.add(name="MonitoringConfig"),
        "prometheus_config",
        ".tensorflow.serving.PrometheusConfig",
    )
    return file


def _file(path: str, *dependencies: str) -> descriptor_pb2.FileDescriptorProto:
    return descriptor_pb2.FileDescriptorProto(
        name=f"tensorflow_serving/{path}",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=dependencies,
    )


def _add(
    message: descriptor_pb2.DescriptorProto, name: str, kind: Any
) -> descriptor_pb2.FieldDescriptorProto:
    """Adds the field with the next number; `kind` is a scalar type, or a message's name with a dot
    before it.
    """
    field = message.field.add(name=name, number=len(message.field) + 1, label=_Field.LABEL_OPTIONAL)
    if isinstance(kind, str):
        field.type, field.type_name = _Field.TYPE_MESSAGE, kind
    else:
        field.type = kind
    return field


def main() -> None:
    """Writes the file beside this one and says how large it is."""
    path = Path(__file__).with_name(DESCRIPTOR_SET)
    data = descriptor_set()
    path.write_bytes(data)
    print(f"{path}: {len(data):,} bytes")


if __name__ == "__main__":
    main()
