"""Warm-up: requests that a version brings along are answered while it is loaded; no client meets a
cold model.
"""

import functools
import logging
from collections.abc import Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from serving.server import examples, prediction
from serving.server.servable import Servable
from serving.server.status import StatusError, invalid_argument
from whisker_ml.contract import WARMUP_FILE

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
    run = functools.partial(_run, servable)
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        prediction.predict(servable, log.predict_log.request, run)
    elif kind in ("classify_log", "regress_log"):
        request = getattr(log, kind).request
        method = examples.classify if kind == "classify_log" else examples.regress
        method(servable, request.model_spec.signature_name, request.input, run)
    elif kind == "multi_inference_log":
        examples.multi_inference(servable, log.multi_inference_log.request, run)
    elif kind == "session_run_log":
        number = PredictionLog.SESSION_RUN_LOG_FIELD_NUMBER
        raise StatusError(
            grpc.StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}"
        )


def _run(
    servable: Servable, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]
) -> dict[str, np.ndarray]:
    return dict(zip(fetches, servable.run(feeds, fetches, None), strict=True))
