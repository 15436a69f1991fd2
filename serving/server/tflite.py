"""TensorFlow Lite: interpreters of one model, and a version that is served by them."""

import queue
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

from serving.server.servable import Servable, one_line
from serving.server.status import StatusError, invalid_argument

MODEL_FILE = "model.tflite"


class Interpreters:
    """Interpreters of one model, with a thread each: no two threads may use the same one at a
    time.
    """

    def __init__(self, content: bytes, count: int) -> None:
        """Makes them.

        Args:
            content: the model.
            count: how many runs may go on at a time.

        Raises:
            StatusError: INVALID_ARGUMENT, no interpreter can run the content.
        """
        self._idle: queue.SimpleQueue[tf.lite.Interpreter] = queue.SimpleQueue()
        try:
            for _ in range(count):
                with warnings.catch_warnings():
                    # Deprecated in favour of the package ai-edge-litert, but part of every
                    # TensorFlow allowed here.
                    warnings.filterwarnings(
                        "ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated"
                    )
                    interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
                interpreter.allocate_tensors()
                self._idle.put(interpreter)
        except (ValueError, RuntimeError) as error:
            raise invalid_argument(
                f"Cannot build Interpreter from buffer. {one_line(str(error))}"
            ) from error

    @contextmanager
    def one(self) -> Iterator[tf.lite.Interpreter]:
        """Lends an interpreter, waiting for one if need be."""
        interpreter = self._idle.get()
        try:
            yield interpreter
        finally:
            self._idle.put(interpreter)


class TfliteModel(Servable):
    """A version whose folder ships `model.tflite`. No deadline ends a run that has begun."""

    def __init__(self, version: int, path: str, count: int) -> None:
        """Loads the model.

        Args:
            version: its number.
            path: its folder.
            count: how many requests may run at a time.

        Raises:
            StatusError: INVALID_ARGUMENT, no interpreter can run the model.
        """
        self.version = version
        with tf.io.gfile.GFile(f"{path}/{MODEL_FILE}", "rb") as file:
            self._interpreters = Interpreters(file.read(), count)
        with self._interpreters.one() as interpreter:
            self.signatures = {
                name: _signature(interpreter, name) for name in interpreter.get_signature_list()
            }
        if not self.signatures:
            raise invalid_argument(
                f"{path}/{MODEL_FILE} has no signature: convert it from a SavedModel"
            )
        self._owners = {
            info.name: (name, alias)
            for name, signature in self.signatures.items()
            for infos in (signature.inputs, signature.outputs)
            for alias, info in infos.items()
        }

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout_s: float | None
    ) -> list[np.ndarray]:
        """Runs the signature to which the tensors belong; see `Servable`."""
        del timeout_s
        name, _ = self._owners[fetches[0]]
        inputs = {self._owners[tensor][1]: value for tensor, value in feeds.items()}
        with self._interpreters.one() as interpreter:
            try:
                outputs = interpreter.get_signature_runner(name)(**inputs)
            except (ValueError, RuntimeError) as error:
                raise StatusError(
                    grpc.StatusCode.INTERNAL, f"Failed to run interpreter. {one_line(str(error))}"
                ) from error
        return [outputs[self._owners[tensor][1]] for tensor in fetches]

    def close(self) -> None:
        """The interpreters go with the last reference to them."""


def _signature(interpreter: tf.lite.Interpreter, name: str) -> SignatureDef:
    runner = interpreter.get_signature_runner(name)
    signature = SignatureDef(method_name=tf.saved_model.PREDICT_METHOD_NAME)
    for infos, details in (
        (signature.inputs, runner.get_input_details()),
        (signature.outputs, runner.get_output_details()),
    ):
        for alias, detail in details.items():
            # Not the name in the file: tensors of two signatures may have the same one.
            infos[alias].CopyFrom(_tensor_info(f"{name}_{alias}:0", detail))
    return signature


def _tensor_info(name: str, detail: Mapping[str, Any]) -> TensorInfo:
    shape = tf.TensorShape([None if size < 0 else int(size) for size in detail["shape_signature"]])
    dtype = tf.as_dtype(detail["dtype"]).as_datatype_enum
    return TensorInfo(name=name, dtype=dtype, tensor_shape=shape.as_proto())
