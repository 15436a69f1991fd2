"""TensorFlow Lite: interpreters of one model, and a version that is served by them."""

import queue
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.python.saved_model.signature_constants import (
    DEFAULT_SERVING_SIGNATURE_DEF_KEY,
    PREDICT_METHOD_NAME,
)

from serving.server.servable import Servable, one_line
from serving.server.status import StatusError, internal, invalid_argument
from whisker_ml.terminal import foreign_lines_kept_back

MODEL_FILE = "model.tflite"
# signature_def_util.h: where converters of TensorFlow 1 wrote signatures.
_SIGNATURES = b"signature_defs_metadata"


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
            # Deprecated in favour of the package ai-edge-litert, but part of every TensorFlow that
            # is allowed here; it names its delegate on standard error, whatever the log level is.
            with foreign_lines_kept_back():
                for _ in range(count):
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
    """A version whose folder ships `model.tflite`. No deadline ends a run that has begun.

    Its signatures are those in its metadata, as in tflite_session.cc; else those of the file, which
    the real server does not know; else one is made from the tensors.
    """

    def __init__(self, version: int, path: str, count: int) -> None:
        """Loads the model.

        Args:
            version: its number.
            path: its folder.
            count: how many requests may run at a time.

        Raises:
            StatusError: no interpreter can run the model (INVALID_ARGUMENT), or its signatures do
                not fit its tensors.
        """
        self.version = version
        with tf.io.gfile.GFile(f"{path}/{MODEL_FILE}", "rb") as file:
            content = file.read()
        self._interpreters = Interpreters(content, count)
        recorded = _recorded_signatures(content)
        # Tensor name to signature and alias; empty: tensors are the graph's own.
        self._owners: dict[str, tuple[str, str]] = {}
        with self._interpreters.one() as interpreter:
            names = interpreter.get_signature_list()
            if names and not recorded:
                self.signatures = {name: _signature(interpreter, name) for name in names}
                self._owners = {
                    info.name: (name, alias)
                    for name, signature in self.signatures.items()
                    for infos in (signature.inputs, signature.outputs)
                    for alias, info in infos.items()
                }
                return
            inputs = _by_name("Input", interpreter.get_input_details())
            outputs = _by_name("Output", interpreter.get_output_details())
        self._inputs = {name: detail["index"] for name, detail in inputs.items()}
        self._outputs = {name: detail["index"] for name, detail in outputs.items()}
        for signature in recorded.values():
            _resolve("input", signature.inputs, self._inputs)
            _resolve("output", signature.outputs, self._outputs)
        self.signatures = recorded or {
            DEFAULT_SERVING_SIGNATURE_DEF_KEY: SignatureDef(
                method_name=PREDICT_METHOD_NAME,
                inputs=_infos(inputs.items()),
                outputs=_infos(outputs.items()),
            )
        }

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout_s: float | None
    ) -> list[np.ndarray]:
        """Runs the graph, or the signatures to which the tensors belong; see `Servable`."""
        del timeout_s
        run = self._run_signatures if self._owners else self._run_graph
        with self._interpreters.one() as interpreter:
            try:
                return run(interpreter, feeds, fetches)
            except (ValueError, OverflowError) as error:
                # A dtype that the signature does not name, more elements than it counts.
                raise invalid_argument(f"Failed to set inputs. {one_line(str(error))}") from error
            except RuntimeError as error:
                raise internal(f"Failed to run interpreter. {one_line(str(error))}") from error

    def _run_graph(
        self,
        interpreter: tf.lite.Interpreter,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
    ) -> list[np.ndarray]:
        for name, value in feeds.items():
            interpreter.resize_tensor_input(self._inputs[name], value.shape)
        interpreter.allocate_tensors()
        for name, value in feeds.items():
            interpreter.set_tensor(self._inputs[name], value)
        interpreter.invoke()
        return [interpreter.get_tensor(self._outputs[name]) for name in fetches]

    def _run_signatures(
        self,
        interpreter: tf.lite.Interpreter,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
    ) -> list[np.ndarray]:
        given: dict[str, dict[str, np.ndarray]] = {self._owners[name][0]: {} for name in fetches}
        for name, value in feeds.items():
            signature, alias = self._owners[name]
            given[signature][alias] = value
        answers = {
            name: interpreter.get_signature_runner(name)(**inputs) for name, inputs in given.items()
        }
        owners = (self._owners[name] for name in fetches)
        return [answers[signature][alias] for signature, alias in owners]

    def close(self) -> None:
        """The interpreters go with the last reference to them."""


def _signature(interpreter: tf.lite.Interpreter, name: str) -> SignatureDef:
    # Not the name in the file: tensors of two signatures may have the same one.
    runner = interpreter.get_signature_runner(name)
    sides = (runner.get_input_details(), runner.get_output_details())
    inputs, outputs = (
        {
            alias: _tensor_info(f"{name}_{alias}:0", detail, "shape_signature")
            for alias, detail in side.items()
        }
        for side in sides
    )
    return SignatureDef(method_name=PREDICT_METHOD_NAME, inputs=inputs, outputs=outputs)


def _recorded_signatures(content: bytes) -> dict[str, SignatureDef]:
    """Reads the signatures in the metadata of a model; empty if there are none.

    Raises:
        StatusError: INVALID_ARGUMENT, they cannot be read.
    """
    try:
        model = schema.Model.GetRootAs(content, 0)
        for entry in map(model.Metadata, range(model.MetadataLength())):
            if entry.Name() == _SIGNATURES:
                written = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
                signatures = flexbuffers.GetRoot(written).AsMap
                return {
                    key.AsKey: SignatureDef.FromString(value.AsStringBytes)
                    for key, value in zip(signatures.Keys, signatures.Values, strict=True)
                }
    except Exception as error:  # Whatever flatbuffers make of bytes that are none.
        raise invalid_argument(
            f"Invalid SignatureDefs found in TfLite model: {one_line(str(error))}"
        ) from error
    return {}


def _by_name(noun: str, details: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    by_name: dict[str, dict[str, Any]] = {}
    for detail in sorted(details, key=lambda one: one["name"]):
        name = detail["name"]
        if name in by_name:
            raise StatusError(
                grpc.StatusCode.ALREADY_EXISTS, f"{noun} tensor name: {name} has multiple indices"
            )
        by_name[name] = detail
    return by_name


def _resolve(noun: str, infos: Mapping[str, TensorInfo], known: Mapping[str, int]) -> None:
    """Gives tensors of a signature the names that the graph has: early converters left ``:0``
    out.
    """
    for alias, info in infos.items():
        for name in (info.name, _without_index(info.name)):
            if name in known:
                info.name = name
                break
        else:
            raise internal(
                f"Unknown tensor '{info.name}'. Signature {noun} {alias} references an unknown"
                " tensor"
            )


def _infos(details: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, TensorInfo]:
    return {_without_index(name): _tensor_info(name, detail, "shape") for name, detail in details}


def _without_index(name: str) -> str:
    return name.partition(":")[0]


def _tensor_info(name: str, detail: Mapping[str, Any], shape: str) -> TensorInfo:
    sizes = [None if size < 0 else int(size) for size in detail[shape]]
    try:
        dtype = tf.as_dtype(detail["dtype"]).as_datatype_enum
    except TypeError as error:
        raise internal(f"Unknown TfLite type: {detail['dtype']} of tensor {name}") from error
    return TensorInfo(name=name, dtype=dtype, tensor_shape=tf.TensorShape(sizes).as_proto())
