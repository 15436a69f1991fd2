"""One loaded version of a model, by default a TF1 session on its SavedModel: it serves TF1 and TF2
exports alike.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf import config_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef, TensorInfo
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.saved_model.constants import LEGACY_INIT_OP_KEY, MAIN_OP_KEY
from tensorflow.python.saved_model.loader_impl import SavedModelLoader

from serving.server.batching import Parameters
from serving.server.merging import Merger
from serving.server.status import StatusError, invalid_argument, status_code
from serving.server.tensors import dtype_name, known_dtype
from whisker_ml import contract
from whisker_ml.contract import SAVED_MODEL_FILES

_PYTHON = {"EagerPyFunc", "PyFunc", "PyFuncStateless"}
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
    merger: Merger | None = None

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
        path: str,
        options: config_pb2.ConfigProto | None = None,
        tags: Sequence[str] = SERVING_TAGS,
    ) -> None:
        """Loads the SavedModel; `load` is the way in that maps every failure to a status."""
        self.version = version
        loader = SavedModelLoader(path)
        _refuse_python_calls(loader.get_meta_graph_def_from_tags(tags), path)
        self.graph = tf.Graph()
        self.session = tf.compat.v1.Session(graph=self.graph, config=options)
        try:
            with self.graph.as_default():
                meta_graph = loader.load(self.session, tags)
        except BaseException:
            self.session.close()
            raise
        self.signatures = dict(meta_graph.signature_def)
        self._tensors: dict[str, tf.Tensor] = {}

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


def load(
    version: int,
    path: str,
    options: config_pb2.ConfigProto | None = None,
    tags: Sequence[str] = SERVING_TAGS,
) -> SavedModel:
    """Loads a SavedModel, or says in one line why it cannot be served.

    Args:
        version: its number.
        path: its folder.
        options: of the session; None for TensorFlow's own.
        tags: of the metagraph to load.

    Raises:
        StatusError: nothing there (NOT_FOUND), a copy that is not complete (FAILED_PRECONDITION),
            or what TensorFlow makes of it.
    """
    if not any(tf.io.gfile.exists(f"{path}/{name}") for name in SAVED_MODEL_FILES):
        raise StatusError(
            grpc.StatusCode.NOT_FOUND,
            f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}",
        )
    try:
        return SavedModel(version, path, options, tags)
    except StatusError:
        raise
    except tf.errors.OpError as error:
        raise StatusError(status_code(error.error_code), one_line(error.message)) from error
    except Exception as error:
        # The real server takes a version without variables.index for loaded and fails every request
        # to it.
        if not tf.io.gfile.exists(f"{path}/variables/variables.index"):
            raise StatusError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{path} is incomplete: variables/variables.index is missing. Copy the whole "
                f"version under a name that is not a number, then rename it to {version}.",
            ) from error
        raise StatusError(
            grpc.StatusCode.UNKNOWN, f"{path} cannot be loaded: {one_line(str(error))}"
        ) from error


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


def _refuse_python_calls(meta_graph: MetaGraphDef, path: str) -> None:
    """Refuses a model whose signatures or initialization call Python.

    A SavedModel holds the call of tf.py_function, but not the function: TensorFlow would load it
    and fail at each request, with a traceback.

    Raises:
        StatusError: UNIMPLEMENTED, with what calls it.
    """
    graph = meta_graph.graph_def
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    if not any(node.op in _PYTHON for body in bodies for node in body):
        return
    # Also functions that no signature uses are in a SavedModel: those do not matter.
    outputs = {
        f"signature {name}": [one for info in signature.outputs.values() for one in _names(info)]
        for name, signature in sorted(meta_graph.signature_def.items())
    }
    outputs["initialization"] = [
        name
        for key in (MAIN_OP_KEY, LEGACY_INIT_OP_KEY)
        if key in meta_graph.collection_def
        for name in meta_graph.collection_def[key].node_list.value
    ]
    for part, names in outputs.items():
        for node in _used(graph, names):
            if node.op in _PYTHON:
                raise StatusError(
                    grpc.StatusCode.UNIMPLEMENTED,
                    f"{path} cannot be served: its {part} calls Python (node {node.name}, of"
                    " tf.py_function or tf.numpy_function), which a SavedModel does not hold; use"
                    " TensorFlow's own operations and export it again",
                )


def _names(info: TensorInfo) -> Iterator[str]:
    yield info.name
    yield info.coo_sparse.values_tensor_name
    yield info.coo_sparse.indices_tensor_name
    for component in info.composite_tensor.components:
        yield from _names(component)


def _used(graph: GraphDef, names: Iterable[str]) -> Iterator[NodeDef]:
    """Gives the nodes on which tensors rest, with those of the functions that they call."""
    nodes = {node.name: node for node in graph.node}
    waiting, used = list(names), []
    while waiting:
        node = nodes.pop(waiting.pop().lstrip("^").partition(":")[0], None)
        if node is not None:
            used.append(node)
            waiting += node.input
    functions = {function.signature.name: function.node_def for function in graph.library.function}
    while used:
        node = used.pop()
        yield node
        called = [f.name for value in node.attr.values() for f in (value.func, *value.list.func)]
        for name in [node.op, *called]:
            used += functions.pop(name, [])
