"""One loaded version of a model, by default a TF1 session on its SavedModel, which serves TF1 and
TF2 exports alike; and how requests to it share its runs.
"""

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.saved_model.loader_impl import SavedModelLoader

from serving.server.batching import (
    Execute,
    Parameters,
    Task,
    Tensors,
    joined,
    pieces,
    run_together,
    seconds_left,
)
from serving.server.status import StatusError, deadline_exceeded, invalid_argument, status_code
from serving.server.tensors import dtype_name, known_dtype
from whisker_ml import contract

SERVING_TAGS = (tf.saved_model.SERVING,)


class Servable(Protocol):
    """A version that answers.

    Safe for use by many threads at once.

    Attributes:
        version: its number.
        signatures: name to SignatureDef.
        batching: how requests to it are batched; None: not at all.
        merger: answers those together that wait, where each row's answer rests on that row alone,
            as Whisker's models promise; None: each runs alone.
    """

    version: int
    signatures: dict[str, SignatureDef]
    batching: Parameters | None = None
    merger: "Merger | None" = None

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout_s: float | None
    ) -> list[np.ndarray]:
        """Runs the model once.

        Args:
            feeds: tensor name to value; the dtypes are the signature's, any shape.
            fetches: tensor names.
            timeout_s: seconds after which the run ends with DEADLINE_EXCEEDED; None for no limit.

        Returns:
            The values of `fetches`; strings as arrays of bytes objects.

        Raises:
            StatusError: as the model fails.
        """

    def close(self) -> None:
        """Frees the model. Nobody may be in `run`."""


def is_whiskers(signatures: Mapping[str, SignatureDef]) -> bool:
    """Tells whether signatures are those that Whisker exports."""
    outputs = (set(contract.OUTPUTS), set(contract.FIRST_OUTPUTS))
    return all(
        name in signatures
        and set(signatures[name].inputs) == {alias}
        and set(signatures[name].outputs) in outputs
        for name, alias in (
            (contract.SIGNATURE_BYTES, contract.INPUT_BYTES),
            (contract.SIGNATURE_PIXELS, contract.INPUT_PIXELS),
        )
    )


class SavedModel(Servable):
    """A SavedModel in a session of its own."""

    def __init__(
        self,
        version: int,
        loader: SavedModelLoader,
        options: config_pb2.ConfigProto | None,
        tags: Sequence[str],
    ) -> None:
        """Loads the SavedModel; `loading.load_saved_model` makes a status of every failure."""
        self.version = version
        meta_graph = loader.get_meta_graph_def_from_tags(tags)
        self.signatures = dict(meta_graph.signature_def)
        self.graph = tf.Graph()
        self.session = tf.compat.v1.Session(graph=self.graph, config=self._fitting(options))
        try:
            with self.graph.as_default():
                loader.load(self.session, tags)
        except BaseException:
            self.session.close()
            raise
        self._tensors: dict[str, tf.Tensor] = {}

    def _fitting(self, given: config_pb2.ConfigProto | None) -> config_pb2.ConfigProto:
        """Options of the session: one pass of Grappler over each graph instead of two, for
        Whisker's own models. The second makes no request faster, and takes a quarter of the time
        that a version needs to load and warm up.
        """
        options = config_pb2.ConfigProto()
        options.CopyFrom(given or options)
        rewriting = options.graph_options.rewrite_options
        if is_whiskers(self.signatures) and not rewriting.meta_optimizer_iterations:
            rewriting.meta_optimizer_iterations = rewriting.ONE
        return options

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout_s: float | None
    ) -> list[np.ndarray]:
        """Runs the graph once.

        `Session.run` refuses shapes that differ from the placeholder's, which the real server
        accepts, and `_make_callable_from_options` fixes the timeout when it is made; the call
        below, on which `Session.run` itself stands, does neither and gives the C++ core's own error
        texts.
        """
        inputs = {self._tensor(name)._as_tf_output(): value for name, value in feeds.items()}
        outputs = [_answerable(self._tensor(name))._as_tf_output() for name in fetches]
        options = None
        try:
            if timeout_s is not None:
                # 0 would mean no limit. The upper bound keeps a client's absurd deadline inside an
                # int32.
                milliseconds = min(max(1, int(timeout_s * 1000)), 2**31 - 1)
                text = config_pb2.RunOptions(timeout_in_ms=milliseconds).SerializeToString()
                options = pywrap_tf_session.TF_NewBufferFromString(text)
            values = self.session._call_tf_sessionrun(options, inputs, outputs, [], None)
        except tf.errors.OpError as error:
            raise StatusError(status_code(error.error_code), error.message) from error
        except UnicodeDecodeError as error:
            # TensorFlow fails to make an exception of a message that quotes bytes of the request as
            # they are.
            raise invalid_argument(error.object.decode("utf-8", "replace")) from error
        finally:
            if options is not None:
                pywrap_tf_session.TF_DeleteBuffer(options)
        return [_as_array(value) for value in values]

    def close(self) -> None:
        """Frees the session."""
        self.session.close()

    def _tensor(self, name: str) -> tf.Tensor:
        # Finding it takes half as long as a small model runs.
        if name not in self._tensors:
            self._tensors[name] = self._find(name)
        return self._tensors[name]

    def _find(self, name: str) -> tf.Tensor:
        """Finds a tensor as TensorFlow's core does, which takes a name without ``:0`` too, and
        with its errors. Composite tensors (sparse, ragged) have an empty name.
        """
        node, _, digits = name.rpartition(":")
        if not re.fullmatch("[0-9]+", digits):
            node, digits = name, "0"
        try:
            operation = self.graph.get_operation_by_name(node)
        except (KeyError, ValueError) as error:
            raise invalid_argument(
                f"Tensor {node}:{digits}, specified in either feed_devices or fetch_devices was not"
                " found in the Graph"
            ) from error
        if int(digits) >= len(operation.outputs):
            raise StatusError(
                grpc.StatusCode.OUT_OF_RANGE,
                f"Node '{node}' (type: '{operation.type}', num of outputs:"
                f" {len(operation.outputs)}) does not have output {digits}",
            )
        return operation.outputs[int(digits)]


def _answerable(tensor: tf.Tensor) -> tf.Tensor:
    dtype = tensor.dtype.base_dtype.as_datatype_enum
    if known_dtype(dtype) is None:
        raise invalid_argument(
            f"Failed to write value for tensor type: {dtype_name(dtype)} (of {tensor.name}): leave"
            " this output out, or cast it in the model"
        )
    return tensor


def one_line(text: str) -> str:
    """Folds a text into a line."""
    return re.sub(r"\s+", " ", text).strip()


def _as_array(value: np.ndarray | np.generic | bytes) -> np.ndarray:
    if isinstance(value, bytes):
        # np.asarray makes a fixed-width string of it and so loses trailing zero bytes.
        scalar = np.empty((), dtype=object)
        scalar[()] = value
        return scalar
    return np.asarray(value)


# Requests that wait while a model works are answered together, where its rows are independent.
# That takes no timer, and no thread of its own: a request that finds the model idle runs at once;
# whoever ends a run hands the model to the first that waits, which takes as many others along as
# fit.

# Rows of a run. TensorFlow prepares anew for each number of rows that it has not seen, so there are
# few of them; beyond 32 a picture gets no cheaper and memory grows (9 GB for 1,000 rows of
# MobileNetV2 at 160 pixels in one run, measured).
SIZES = (1, 2, 4, 8, 16, 32)
MOST_ROWS = SIZES[-1]


class Merger:
    """Runs of one loaded version; used by many threads at once."""

    def __init__(self, runs: int) -> None:
        """Takes how many runs may go on at a time."""
        self._lock = threading.Lock()
        self._idle = runs
        # Taken from the front and put back at the end: every kind of request gets its turn.
        self._queues: dict[Hashable, deque[Task]] = {}

    def run(
        self,
        key: Hashable,
        execute: Execute,
        inputs: Tensors,
        timeout_s: float | None,
        *,
        begin: Callable[[], None] = lambda: None,
    ) -> dict[str, np.ndarray]:
        """Runs one request, together with others that wait.

        Args:
            key: requests with equal keys may share a run, if their shapes agree: same outputs.
            execute: runs inputs of at most `MOST_ROWS` rows, within a number of seconds if it is
                not None; every output has a row for each row of the inputs.
            inputs: name to value; first dimensions equal.
            timeout_s: None for no limit.
            begin: called when a run with this request, or with a piece of it, begins.

        Returns:
            This request's rows of what `execute` answers.

        Raises:
            StatusError: its own run failed; what others ask for makes no difference to it.
        """
        shapes = tuple((name, value.shape[1:]) for name, value in sorted(inputs.items()))
        tasks = pieces(inputs, MOST_ROWS, timeout_s, begin)
        return joined([self._answer((key, shapes), execute, task) for task in tasks])

    def _answer(self, key: Hashable, execute: Execute, task: Task) -> dict[str, np.ndarray]:
        with self._lock:
            if self._idle:
                self._idle -= 1
                task.turn.set_result([task])
            else:
                self._queues.setdefault(key, deque()).append(task)
        if batch := self._wait(key, task):
            try:
                _run(execute, batch)
            finally:
                self._hand_on()
            for other in batch[1:]:
                other.turn.set_result([])
        return task.result.result()

    def _wait(self, key: Hashable, task: Task) -> list[Task]:
        try:
            return task.turn.result(
                None if task.deadline is None else task.deadline - time.monotonic()
            )
        except TimeoutError:
            pass
        with self._lock:
            queue = self._queues.get(key)
            if queue is not None and task in queue:
                queue.remove(task)
                if not queue:
                    del self._queues[key]
                raise deadline_exceeded("Deadline exceeded before the request ran")
        # It is being run, or about to be.
        return task.turn.result()

    def _hand_on(self) -> None:
        """Gives the model to the first that waits and to those that fit into its run."""
        with self._lock:
            if not self._queues:
                self._idle += 1
                return
            key = next(iter(self._queues))
            queue = self._queues.pop(key)
            waiting = min(sum(task.rows for task in queue), MOST_ROWS)
            most = max(size for size in SIZES if size <= max(waiting, 1))
            batch = [queue.popleft()]
            rows = batch[0].rows
            while queue and rows + queue[0].rows <= most:
                rows += queue[0].rows
                batch.append(queue.popleft())
            if queue:
                self._queues[key] = queue
        batch[0].turn.set_result(batch)


def _run(execute: Execute, batch: list[Task]) -> None:
    """Runs a batch; where that fails, each of its requests alone, as the fault may be one's."""
    inputs = batch[0].inputs
    if len(batch) > 1:
        inputs = {name: np.concatenate([task.inputs[name] for task in batch]) for name in inputs}
    try:
        answers = run_together(batch, inputs, execute, seconds_left(batch))
    except Exception as error:
        if len(batch) == 1:
            batch[0].result.set_exception(error)
        else:
            for task in batch:
                _run(execute, [task])
        return
    for task, answer in zip(batch, answers, strict=True):
        task.result.set_result(answer)
