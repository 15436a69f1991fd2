"""Whisker's own models at a multiple of TensorFlow's speed on CPUs: it decodes, and XNNPACK runs
the network.

Measured on 2 cores with MobileNetV2 at 160 pixels: XNNPACK takes 2 to 4 times less processor time
per picture than the session on pixels, about half with decoding; most is gained by single
pictures. An interpreter takes the same time per picture in batches of 1 to 16, and a second
thread brings it nothing. So each picture is a run of its own, on as many interpreters with one
thread as there are cores, and no batch is padded or resized.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from serving.server.lite import Interpreters
from serving.server.servable import SavedModel, Servable, is_whiskers
from serving.server.status import deadline_exceeded
from whisker_ml import contract

# How far a probability may be from TensorFlow's; both compute in float32, in another order.
TOLERANCE = 1e-3

_PICTURES_COMPARED = 4

_log = logging.getLogger(__name__)


class XnnpackModel(Servable):
    """A Whisker model whose two signatures are answered through XNNPACK."""

    def __init__(self, model: SavedModel, path: str, count: int) -> None:
        """Converts the network.

        Args:
            model: the loaded version, which is closed with this one.
            path: its folder.
            count: how many pictures may run at a time.

        Raises:
            ValueError: serve `model` itself.
        """
        self.version, self.signatures = model.version, model.signatures
        self._model = model
        self._size = _image_size(model)
        loaded = tf.saved_model.load(path)
        self._decoded, self._valid = _import_decoding(model, loaded, self._size)
        self._interpreters = Interpreters(_convert(loaded, self._size), count)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="xnnpack")
        # By the input tensor: the aliases of the output tensors.
        self._aliases = {
            next(iter(signature.inputs.values())).name: {
                info.name: alias for alias, info in signature.outputs.items()
            }
            for signature in (
                self.signatures[name]
                for name in (contract.SIGNATURE_BYTES, contract.SIGNATURE_PIXELS)
            )
        }
        self._bytes = self.signatures[contract.SIGNATURE_BYTES].inputs[contract.INPUT_BYTES].name
        self._classes = self._compare()

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout_s: float | None
    ) -> list[np.ndarray]:
        """Runs a signature; see `Servable`. What is not Whisker's own is left to TensorFlow."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        (fed, value), *rest = feeds.items()
        aliases = self._aliases.get(fed, {})
        if rest or not set(fetches) <= set(aliases):
            return self._model.run(feeds, fetches, timeout_s)
        if fed == self._bytes:
            pixels, valid = self._model.run(feeds, [self._decoded, self._valid], timeout_s)
        elif value.shape[1:] == (self._size, self._size, 3):
            pixels, valid = value, np.ones(len(value), bool)
        else:
            return self._model.run(feeds, fetches, timeout_s)
        answer = self._answer(pixels, valid, end)
        return [answer[aliases[name]] for name in fetches]

    def close(self) -> None:
        """Frees threads and session."""
        self._threads.shutdown()
        self._model.close()

    def _answer(
        self, pixels: np.ndarray, valid: np.ndarray, end: float | None
    ) -> dict[str, np.ndarray]:
        count = len(self._classes)
        probabilities = np.zeros((len(valid), count), np.float32)
        unsure = ~valid
        rows = np.flatnonzero(valid)
        # A lone picture needs no other thread.
        run = map if len(rows) == 1 else self._threads.map
        for row, answer in zip(
            rows, run(lambda row: self._network(pixels[row], end), rows), strict=True
        ):
            probabilities[row], unsure[row] = answer[:count], answer[-1]
        return {
            contract.OUTPUT_LABEL: np.where(
                valid, self._classes[probabilities.argmax(axis=1)], b""
            ),
            contract.OUTPUT_PROBABILITY: probabilities.max(axis=1),
            contract.OUTPUT_PROBABILITIES: probabilities,
            contract.OUTPUT_CLASSES: np.broadcast_to(self._classes, (len(valid), count)),
            contract.OUTPUT_VALID: valid,
            contract.OUTPUT_UNSURE: unsure,
        }

    def _network(self, pixels: np.ndarray, end: float | None) -> np.ndarray:
        """Probabilities of one picture, and after them 1 where the answer is not sure."""
        if end is not None and time.monotonic() >= end:
            raise deadline_exceeded("The deadline passed before the network ran")
        with self._interpreters.one() as interpreter:
            (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
            interpreter.set_tensor(
                source["index"], pixels[np.newaxis].astype(np.float32, copy=False)
            )
            interpreter.invoke()
            answer: np.ndarray = interpreter.get_tensor(target["index"])[0]
        return answer

    def _compare(self) -> np.ndarray:
        """Compares with TensorFlow on noise, and gives the names of the classes."""
        signature = self.signatures[contract.SIGNATURE_PIXELS]
        shape = (_PICTURES_COMPARED, self._size, self._size, 3)
        pixels = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
        aliases = (contract.OUTPUT_PROBABILITIES, contract.OUTPUT_CLASSES)
        expected, classes = self._model.run(
            {signature.inputs[contract.INPUT_PIXELS].name: pixels},
            [signature.outputs[alias].name for alias in aliases],
            None,
        )
        actual = np.stack([self._network(row, None) for row in pixels])[:, :-1]
        difference = np.abs(actual - expected).max()
        if not difference <= TOLERANCE:
            raise ValueError(
                f"XNNPACK's probabilities differ by {difference:.2g}, allowed are {TOLERANCE:g}"
            )
        return classes[0]


def accelerate(model: SavedModel, path: str, count: int) -> Servable:
    """Gives the model with its network in XNNPACK, or as it is with a warning that says why.

    Args:
        model: the loaded version.
        path: its folder.
        count: how many pictures may run at a time.
    """
    try:
        return XnnpackModel(model, path, count)
    except Exception as error:  # Whatever the converter makes of a stranger's model.
        _log.warning("%s is served by TensorFlow alone: %s", path, error)
        return model


def _image_size(model: SavedModel) -> int:
    if not is_whiskers(model.signatures):
        raise ValueError("it does not have the signatures of a Whisker model")
    shape = model.signatures[contract.SIGNATURE_PIXELS].inputs[contract.INPUT_PIXELS].tensor_shape
    return int(shape.dim[1].size)


def _import_decoding(model: SavedModel, loaded: Any, size: int) -> tuple[str, str]:
    """Puts the decoding half of the bytes' signature beside the model, with its input; names pixels
    and validity.
    """
    frozen = convert_variables_to_constants_v2(loaded.signatures[contract.SIGNATURE_BYTES])
    # Where uint8 pictures become floats, decoding ends and the network begins.
    cut = [
        operation.inputs[0]
        for operation in frozen.graph.get_operations()
        if operation.type == "Cast"
        and operation.inputs[0].dtype == tf.uint8
        and operation.inputs[0].shape.as_list() == [None, size, size, 3]
    ]
    if len(cut) != 1:
        raise ValueError(f"its graph turns pictures into floats at {len(cut)} places, expected 1")
    # Outputs are in the order of their names.
    signature = model.signatures[contract.SIGNATURE_BYTES]
    valid = frozen.outputs[sorted(signature.outputs).index(contract.OUTPUT_VALID)]
    # Behind what gives it out, which waits for all of the network.
    while valid.op.type == "Identity":
        valid = valid.op.inputs[0]
    half = tf.compat.v1.graph_util.extract_sub_graph(
        frozen.graph.as_graph_def(), [cut[0].op.name, valid.op.name]
    )
    source = signature.inputs[contract.INPUT_BYTES].name
    with model.graph.as_default():
        fed = {frozen.inputs[0].name: model.graph.get_tensor_by_name(source)}
        outputs = tf.import_graph_def(half, fed, [cut[0].name, valid.name], name="decoding")
        # `SavedModel.run` does not tell the session of new nodes.
        model.session.run(outputs, {source: []})
    return outputs[0].name, outputs[1].name


def _convert(loaded: Any, size: int) -> bytes:
    pixels = loaded.signatures[contract.SIGNATURE_PIXELS]

    @tf.function(input_signature=[tf.TensorSpec([1, size, size, 3], tf.float32)])
    def network(rows: tf.Tensor) -> tf.Tensor:
        answer = pixels(**{contract.INPUT_PIXELS: rows})
        unsure = answer.get(contract.OUTPUT_UNSURE, tf.zeros([1], tf.bool))
        return tf.concat(
            [answer[contract.OUTPUT_PROBABILITIES], tf.cast(unsure, tf.float32)[:, tf.newaxis]], 1
        )

    concrete = network.get_concrete_function()
    # Without the owner of the variables, with which they would be no constants for XNNPACK to take
    # over.
    content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    return content
