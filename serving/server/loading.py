"""Loads a version, from a folder or a bucket: by TensorFlow, TensorFlow Lite or XNNPACK; warms it
up.
"""

import os
import shutil
import weakref
from dataclasses import dataclass, field
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf.config_pb2 import ConfigProto

from serving.server import remote, servable, tflite
from serving.server.batching_parameters import Parameters, read_parameters
from serving.server.servable import Servable, one_line
from serving.server.status import StatusError, status_code
from serving.server.verification import verify_classes, verify_files
from serving.server.warmup import warm_up
from serving.server.xnnpack import accelerate

# saved_model_bundle_factory.cc
_BATCHING_FILE = "batching_params.pbtxt"


@dataclass(frozen=True)
class Options:
    """What the flags say about loading.

    Attributes:
        prefer_tflite: a version that ships `model.tflite` is served by it.
        xnnpack: Whisker's own models run their network in XNNPACK.
        interpreters: how many of them a version has, with a thread each.
        warm_up: answer the requests that a version brings along.
        warm_up_iterations: how often each.
        session: options of TensorFlow's sessions; None for its own.
        tags: of the metagraph that is loaded.
        batching: how requests to a version are merged; None: not at all.
        batching_per_version: a version's own file says how instead, and one without it is not
            batched.
        verify_digests: only a version that is what was published, by its manifest, is loaded.
    """

    prefer_tflite: bool = False
    xnnpack: bool = False
    interpreters: int = field(default_factory=lambda: os.cpu_count() or 1)
    warm_up: bool = True
    warm_up_iterations: int = 1
    session: ConfigProto | None = None
    tags: tuple[str, ...] = servable.SERVING_TAGS
    batching: Parameters | None = None
    batching_per_version: bool = False
    verify_digests: bool = False


def load(version: int, path: str, options: Options) -> Servable:
    """Loads a version.

    Args:
        version: its number.
        path: its folder, local or in a bucket.
        options: see there.

    Raises:
        StatusError: it cannot be loaded, or a request that it brings along fails.
    """
    if not remote.is_address(path):
        return _load_and_warm_up(version, path, options)
    folder = remote.fetch(path)
    try:
        loaded = _load_and_warm_up(version, folder, options)
    except StatusError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StatusError(error.code, error.message.replace(folder, path)) from error
    # A graph may read its assets at any time.
    weakref.finalize(loaded, shutil.rmtree, folder, ignore_errors=True)
    return loaded


def _load_and_warm_up(version: int, path: str, options: Options) -> Servable:
    if options.verify_digests:
        verify_files(version, path)
    batching = options.batching
    if options.batching_per_version:
        file = Path(path, _BATCHING_FILE)
        batching = read_parameters(str(file)) if file.exists() else None
    try:
        loaded = _load(version, path, options)
        loaded.batching = batching
        try:
            if options.verify_digests:
                verify_classes(loaded, path)
            if options.warm_up:
                warm_up(loaded, path, options.warm_up_iterations)
        except BaseException:
            loaded.close()
            raise
    except tf.errors.OpError as error:
        raise StatusError(status_code(error.error_code), one_line(error.message)) from error
    return loaded


def _load(version: int, path: str, options: Options) -> Servable:
    if options.prefer_tflite and tf.io.gfile.exists(f"{path}/{tflite.MODEL_FILE}"):
        return tflite.TfliteModel(version, path, options.interpreters)
    model = servable.load(version, path, options.session, options.tags)
    return accelerate(model, path, options.interpreters) if options.xnnpack else model
