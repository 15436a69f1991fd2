"""Writes the descriptor set that `serving.protos` reads: ``python -m serving.protos.generate``.

Needs tensorflow-serving-api and so TensorFlow. Run it when the pinned release of either, or of protobuf, changes; a
test compares the committed file with what this makes.
"""

from importlib import import_module
from pathlib import Path

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
    """Makes the serialized FileDescriptorSet: every file after the files that it imports, always in the same order."""
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for module in _MODULES:
        _collect(import_module(module).DESCRIPTOR, files)
    _collect(wrappers_pb2.DESCRIPTOR, files)
    batching = _batching_parameters()
    files[batching.name] = batching
    return descriptor_pb2.FileDescriptorSet(file=files.values()).SerializeToString(deterministic=True)


def _collect(file: FileDescriptor, files: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
    if file.name in files:
        return
    for dependency in file.dependencies:
        _collect(dependency, files)
    files[file.name] = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(files[file.name])


def _batching_parameters() -> descriptor_pb2.FileDescriptorProto:
    """Declares BatchingParameters, which the pip package lacks.

    Field numbers: tensorflow/serving, tensorflow_serving/servables/tensorflow/session_bundle_config.proto.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name="tensorflow_serving/servables/tensorflow/session_bundle_config.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    message = file.message_type.add(name="BatchingParameters")
    wrapped = (
        ("max_batch_size", "Int64Value"),
        ("batch_timeout_micros", "Int64Value"),
        ("max_enqueued_batches", "Int64Value"),
        ("num_batch_threads", "Int64Value"),
        ("thread_pool_name", "StringValue"),
    )
    one, many = _Field.LABEL_OPTIONAL, _Field.LABEL_REPEATED
    for number, (name, wrapper) in enumerate(wrapped, 1):
        type_name = f".google.protobuf.{wrapper}"
        message.field.add(name=name, number=number, label=one, type=_Field.TYPE_MESSAGE, type_name=type_name)
    message.field.add(name="allowed_batch_sizes", number=6, label=many, type=_Field.TYPE_INT64)
    message.field.add(name="pad_variable_length_inputs", number=7, label=one, type=_Field.TYPE_BOOL)
    return file


def main() -> None:
    """Writes the file beside this one and says how large it is."""
    path = Path(__file__).with_name(DESCRIPTOR_SET)
    data = descriptor_set()
    path.write_bytes(data)
    print(f"{path}: {len(data):,} bytes")


if __name__ == "__main__":
    main()
