"""Writes the descriptor set that `serving.protos` reads: ``python -m
tests.serving.protos.generate``.

Needs tensorflow-serving-api and so TensorFlow. Run it when the pinned release of either, or of
protobuf, changes; a test compares the committed file with what this makes.
"""

from importlib import import_module
from pathlib import Path

from google.protobuf import descriptor_pb2, wrappers_pb2
from google.protobuf.descriptor import FileDescriptor

from serving import protos

_Field = descriptor_pb2.FieldDescriptorProto

_MODULES = (
    "tensorflow_serving.apis.prediction_service_pb2",
    "tensorflow_serving.apis.model_service_pb2",
    "tensorflow_serving.apis.prediction_log_pb2",
    "tensorflow_serving.config.model_server_config_pb2",
)

_SCALARS = {
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "bool": _Field.TYPE_BOOL,
}

# What the pip package lacks: file → message → field → type. Names, numbers and types:
# tensorflow/serving. Files in text format hold names alone, which matters for two: in what of it
# was at hand, max_execution_batch_size and enable_large_batch_splitting were used
# (bundle_factory_util.h), but not declared; their numbers are the next free ones.
_MISSING = {
    "servables/tensorflow/session_bundle_config.proto": {
        "BatchingParameters": {
            "max_batch_size": "google.protobuf.Int64Value",
            "batch_timeout_micros": "google.protobuf.Int64Value",
            "max_enqueued_batches": "google.protobuf.Int64Value",
            "num_batch_threads": "google.protobuf.Int64Value",
            "thread_pool_name": "google.protobuf.StringValue",
            "allowed_batch_sizes": "repeated int64",
            "pad_variable_length_inputs": "bool",
            "enable_large_batch_splitting": "google.protobuf.BoolValue",
            "max_execution_batch_size": "google.protobuf.Int64Value",
        }
    },
    "config/ssl_config.proto": {
        "SSLConfig": {
            "server_key": "string",
            "server_cert": "string",
            "custom_ca": "string",
            "client_verify": "bool",
        }
    },
    "config/monitoring_config.proto": {
        "PrometheusConfig": {"enable": "bool", "path": "string"},
        "MonitoringConfig": {"prometheus_config": "tensorflow.serving.PrometheusConfig"},
    },
}


def descriptor_set() -> bytes:
    """Makes the serialized FileDescriptorSet: every file after the files that it imports, always in
    the same order.
    """
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for module in _MODULES:
        _collect(import_module(module).DESCRIPTOR, files)
    _collect(wrappers_pb2.DESCRIPTOR, files)
    for path, messages in _MISSING.items():
        file = _file(f"tensorflow_serving/{path}", messages)
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


def _file(path: str, messages: dict[str, dict[str, str]]) -> descriptor_pb2.FileDescriptorProto:
    """Makes a file of messages whose fields are numbered in order; a type is written as in a .proto
    file.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name=path, package="tensorflow.serving", syntax="proto3"
    )
    for name, fields in messages.items():
        added = file.message_type.add(name=name)
        for number, (field_name, written) in enumerate(fields.items(), 1):
            repeated, _, kind = written.rpartition(" ")
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            field = added.field.add(name=field_name, number=number, label=label)
            field.type = _SCALARS.get(kind, _Field.TYPE_MESSAGE)
            if kind not in _SCALARS:
                field.type_name = f".{kind}"
            if kind.startswith("google.protobuf.") and not file.dependency:
                file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    return file


def main() -> None:
    """Writes the file and says how large it is."""
    path = Path(protos.__file__).with_name(protos.DESCRIPTOR_SET)
    data = descriptor_set()
    path.write_bytes(data)
    print(f"{path}: {len(data):,} bytes")


if __name__ == "__main__":
    main()
