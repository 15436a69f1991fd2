"""Loads a version, from a folder or a bucket: by TensorFlow, TensorFlow Lite or XNNPACK; warms it
up.
"""

import logging
import shutil
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.config_pb2 import ConfigProto
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, TensorInfo
from tensorflow.python.saved_model.constants import LEGACY_INIT_OP_KEY, MAIN_OP_KEY
from tensorflow.python.saved_model.loader_impl import SavedModelLoader
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from serving.server import discovery, lite, predict
from serving.server.batching import Parameters, read_parameters
from serving.server.flags import Flags
from serving.server.servable import (
    SERVING_TAGS,
    Merger,
    SavedModel,
    Servable,
    is_whiskers,
    one_line,
)
from serving.server.status import (
    StatusError,
    failed_precondition,
    invalid_argument,
    not_found,
    status_code,
    unimplemented,
)
from serving.server.xnnpack import accelerate
from serving.store import manifest
from serving.store.manifest import LabelsError
from whisker_ml.contract import (
    INPUT_BYTES,
    OUTPUT_CLASSES,
    SAVED_MODEL_FILES,
    SIGNATURE_BYTES,
    WARMUP_FILE,
)
from whisker_ml.errors import StorageError

# --verify_digests: a version is loaded only if it is what was published, and its model names the
# classes recorded.


def _check_classes(loaded: Servable, path: str) -> None:
    """Compares the classes that the model answers with those in its manifest, where both are there.

    Args:
        loaded: the version.
        path: its local folder, which has a manifest.

    Raises:
        LabelsError: they differ.
        StatusError: what the model fails with.
    """
    signature = loaded.signatures.get(SIGNATURE_BYTES)
    recorded = manifest.parse(Path(path, manifest.MANIFEST_FILE).read_bytes(), path).get("classes")
    if recorded is None or signature is None or OUTPUT_CLASSES not in signature.outputs:
        return
    # Bytes that are no picture are answered with the classes all the same.
    feeds = {signature.inputs[INPUT_BYTES].name: np.array([b""], object)}
    answered = loaded.run(feeds, [signature.outputs[OUTPUT_CLASSES].name], None)[0]
    names = [name.decode("utf-8", "replace") for name in answered.reshape(-1)]
    if names != recorded:
        raise LabelsError(
            f"{path}: the model's classes are {names}, those in {manifest.MANIFEST_FILE} are"
            f" {recorded}: export the model again and publish it"
        )


# Warm-up: requests that a version brings along are answered while it is loaded; no client meets a
# cold model.

# saved_model_warmup_util.h
_MAX_RECORDS = 1000

_log = logging.getLogger(__name__)


def warm_up(servable: Servable, path: str, iterations: int) -> None:
    """Answers the requests that a version brings along, if it does.

    Args:
        servable: the loaded version.
        path: its folder.
        iterations: how often each record is answered.

    Raises:
        StatusError: a record that fails, more than 1000 of them, or a file that is no TFRecord: the
            load has failed.
    """
    file = f"{path}/{WARMUP_FILE}"
    if not tf.io.gfile.exists(file):
        _log.info("No warmup data file found at %s", file)
        return
    count = 0
    try:
        for count, record in enumerate(tf.compat.v1.io.tf_record_iterator(file), start=1):
            for _ in range(iterations):
                _answer(servable, _parse(record, file))
            if count > _MAX_RECORDS:
                raise invalid_argument(
                    f"Number of warmup records exceeds the maximum ({_MAX_RECORDS}) at {file}"
                )
    except tf.errors.DataLossError as error:
        text = f"{error.message}. Please verify your warmup data is in TFRecord format."
        raise StatusError(grpc.StatusCode.DATA_LOSS, text) from error
    _log.info(
        "Finished reading warmup data for model at %s. Number of warmup records read: %d",
        file,
        count,
    )


def _parse(record: bytes, file: str) -> PredictionLog:
    try:
        return PredictionLog.FromString(record)
    except DecodeError as error:
        raise invalid_argument(f"Failed to parse warmup record: {record!r} from {file}") from error


def _answer(servable: Servable, log: PredictionLog) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "session_run_log":
        number = PredictionLog.SESSION_RUN_LOG_FIELD_NUMBER
        raise unimplemented(f"Unsupported log_type for warmup: {number}")

    def run(feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> dict[str, np.ndarray]:
        return dict(zip(fetches, servable.run(feeds, fetches, None), strict=True))

    if kind is not None:
        predict.answer(servable, getattr(log, kind).request, run)


# saved_model_bundle_factory.cc
_BATCHING_FILE = "batching_params.pbtxt"
# Runs of one version at a time, where requests are merged: while one is in the network, another one
# decodes. 32 clients got 129 to 153 answers a second with two and 119 to 124 with one, and 1 or 8
# clients as many with either (2 cores, MobileNetV2 at 160 pixels, 3 repeats in turn, 2026-11-27).
_RUNS = 2


def load(
    version: int,
    path: str,
    flags: Flags,
    session: ConfigProto | None = None,
    batching: Parameters | None = None,
) -> Servable:
    """Loads a version.

    Args:
        version: its number.
        path: its folder, local or in a bucket.
        flags: what they say about loading.
        session: options of TensorFlow's sessions; None for its own.
        batching: how requests to it are merged, unless its own file says how; None: not at all.

    Raises:
        StatusError: it cannot be loaded, or a request that it brings along fails.
    """
    if not discovery.is_address(path):
        return _load_and_warm_up(version, path, flags, session, batching)
    folder = discovery.fetch(path)
    try:
        loaded = _load_and_warm_up(version, folder, flags, session, batching)
    except StatusError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StatusError(error.code, error.message.replace(folder, path)) from error
    # A graph may read its assets at any time.
    weakref.finalize(loaded, shutil.rmtree, folder, ignore_errors=True)
    return loaded


def _load_and_warm_up(
    version: int,
    path: str,
    flags: Flags,
    session: ConfigProto | None,
    batching: Parameters | None,
) -> Servable:
    try:
        if flags.verify_digests:
            manifest.verify(Path(path), version, path)
        if flags.enable_per_model_batching_parameters:
            file = Path(path, _BATCHING_FILE)
            batching = read_parameters(str(file)) if file.exists() else None
        loaded = _load(version, path, flags, session)
        loaded.batching = batching
        if is_whiskers(loaded.signatures):
            loaded.merger = Merger(_RUNS)
        try:
            if flags.verify_digests:
                _check_classes(loaded, path)
            if flags.enable_model_warmup:
                warm_up(loaded, path, max(1, flags.num_request_iterations_for_warmup))
        except BaseException:
            loaded.close()
            raise
    except StorageError as error:
        raise failed_precondition(str(error)) from error
    except tf.errors.OpError as error:
        raise StatusError(status_code(error.error_code), one_line(error.message)) from error
    return loaded


def _load(version: int, path: str, flags: Flags, session: ConfigProto | None) -> Servable:
    interpreters = max(1, flags.num_tflite_pools)
    if flags.prefer_tflite_model and tf.io.gfile.exists(f"{path}/{lite.MODEL_FILE}"):
        return lite.TfliteModel(version, path, interpreters)
    tags = [tag for tag in flags.saved_model_tags.split(",") if tag]
    model = load_saved_model(version, path, session, tags)
    return accelerate(model, path, interpreters) if flags.xnnpack else model


# SavedModels.

_PYTHON = {"EagerPyFunc", "PyFunc", "PyFuncStateless"}


def load_saved_model(
    version: int,
    path: str,
    options: ConfigProto | None = None,
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
        raise not_found(
            f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}"
        )
    try:
        loader = SavedModelLoader(path)
        _refuse_python_calls(loader.get_meta_graph_def_from_tags(tags), path)
        return SavedModel(version, loader, options, tags)
    except StatusError:
        raise
    except tf.errors.OpError as error:
        raise StatusError(status_code(error.error_code), one_line(error.message)) from error
    except Exception as error:
        # The real server takes a version without variables.index for loaded and fails every request
        # to it.
        if not tf.io.gfile.exists(f"{path}/variables/variables.index"):
            raise failed_precondition(
                f"{path} is incomplete: variables/variables.index is missing. Copy the whole "
                f"version under a name that is not a number, then rename it to {version}."
            ) from error
        raise StatusError(
            grpc.StatusCode.UNKNOWN, f"{path} cannot be loaded: {one_line(str(error))}"
        ) from error


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
                raise unimplemented(
                    f"{path} cannot be served: its {part} calls Python (node {node.name}, of"
                    " tf.py_function or tf.numpy_function), which a SavedModel does not hold; use"
                    " TensorFlow's own operations and export it again"
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
