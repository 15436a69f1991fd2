"""TensorFlow Serving's messages without TensorFlow: classes made from the descriptor set that lies
beside this file and that ``python -m tests.serving.protos.generate`` writes.

The descriptors live in a private pool, so that TensorFlow and tensorflow_serving, which put files
of the same names into protobuf's default pool, can be imported in the same process before or after.
"""

from functools import cache
from importlib.resources import files
from threading import Lock

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

DESCRIPTOR_SET = "tensorflow_serving.binpb"

# `cache` alone lets two threads load two pools at first use, and a message of one is refused as a
# field of the other.
_LOCK = Lock()


@cache
def message(full_name: str) -> type[Message]:
    """Gives the class of a message.

    Args:
        full_name: as in the .proto file, package included, such as
            ``tensorflow.serving.PredictRequest``.

    Returns:
        The class; the same one at every call, in every thread.

    Raises:
        KeyError: the descriptor set has no such message.
    """
    with _LOCK:
        return message_factory.GetMessageClass(_pool().FindMessageTypeByName(full_name))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    descriptors = files(__name__).joinpath(DESCRIPTOR_SET).read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
        pool.Add(file)
    return pool
