import subprocess
import sys

import pytest

from serving.protos import message

# Whichever comes first, both must work; each process also does one of the checks that need
# TensorFlow.
MESSAGES_FIRST = """
import sys, threading
from serving.protos import message, DESCRIPTOR_SET
start = threading.Barrier(8)
made = []
def first_use(name):
    start.wait()
    made.append(message("tensorflow.serving." + name))
names = ["PredictRequest", "ModelSpec"] * 4
threads = [threading.Thread(target=first_use, args=[name]) for name in names]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(set(made)) == 2, made
assert len({kind.DESCRIPTOR.file.pool for kind in made}) == 1, "two pools"
assert not {"tensorflow", "tensorflow_serving", "numpy"} & set(sys.modules), "too much imported"

from tests.serving.protos.generate import descriptor_set
from importlib.resources import files
assert descriptor_set() == descriptor_set(), "the order changes"
current = files("serving.protos").joinpath(DESCRIPTOR_SET).read_bytes()
assert descriptor_set() == current, "not current"
assert "tensorflow" in sys.modules
"""

TENSORFLOW_FIRST = """
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2
from serving.protos import message
theirs = predict_pb2.PredictRequest(output_filter=["label"])
theirs.inputs["pixels"].CopyFrom(tf.make_tensor_proto([[1.0, 2.0]]))
ours = message("tensorflow.serving.PredictRequest").FromString(theirs.SerializeToString())
assert ours.inputs["pixels"].tensor_shape.dim[1].size == 2
assert predict_pb2.PredictRequest.FromString(ours.SerializeToString()) == theirs
from serving.client.tensors import decode, encode
assert decode(ours.inputs["pixels"]) == [1.0, 2.0]
for values in ([b"a", b""], [1.5], [True, False], [-1, 1 << 40]):
    serialized = encode(values).SerializeToString()
    tensor = tf.make_ndarray(tensor_pb2.TensorProto.FromString(serialized))
    assert tensor.tolist() == values, values
"""


@pytest.mark.parametrize(
    "program", [MESSAGES_FIRST, TENSORFLOW_FIRST], ids=["messages_first", "tensorflow_first"]
)
def test_messages_work_beside_tensorflow_in_either_order_and_are_current(program):
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_message_gives_the_same_class_every_time():
    assert message("tensorflow.serving.PredictRequest") is message(
        "tensorflow.serving.PredictRequest"
    )


def test_message_of_unknown_name_raises_key_error():
    with pytest.raises(KeyError, match=r"tensorflow\.serving\.Nothing"):
        message("tensorflow.serving.Nothing")


@pytest.mark.parametrize(
    "name",
    [
        "ModelServerConfig",
        "PredictionLog",
        "ReloadConfigRequest",
        "GetModelStatusResponse",
        "PredictResponse",
    ],
)
def test_descriptor_set_holds_what_server_store_and_client_need(name):
    assert message(f"tensorflow.serving.{name}")().SerializeToString() == b""


def test_batching_parameters_read_the_text_that_tensorflow_serving_documents():
    from google.protobuf import text_format

    text = """
        max_batch_size { value: 128 } batch_timeout_micros { value: 0 }
        max_enqueued_batches { value: 1000 }
        num_batch_threads { value: 8 } thread_pool_name { value: "pool" } allowed_batch_sizes: 32
        allowed_batch_sizes: 128 pad_variable_length_inputs: true
    """
    parameters = text_format.Parse(text, message("tensorflow.serving.BatchingParameters")())
    assert parameters.max_batch_size.value == 128
    assert parameters.allowed_batch_sizes == [32, 128]
    # Field 2 present with an empty wrapper, on the wire.
    assert b"\x12\x00" in parameters.SerializeToString()
