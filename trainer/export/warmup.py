"""Warm-up records: requests that a server answers while it loads a version, so that no client meets
a cold model.
"""

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from whisker_ml import contract

# One picture is what most clients send; a batch is what the server makes of many clients, or a
# client of many pictures.
_BATCH_SIZES = (1, 8, 32)
# So many different ones: what warms a model up is the shape of a request, and large pictures would
# make files large.
_DIFFERENT = 8
_MOST_BYTES = 2_000_000


def write(folder: Path, model_name: str, pictures: Sequence[bytes]) -> int:
    """Writes requests with real pictures into a SavedModel's folder.

    Args:
        folder: the SavedModel.
        model_name: as servers will know it.
        pictures: encoded training pictures; the smallest of them are used, in batches of 1, 8 and
            32.

    Returns:
        How many records there are: fewer than 3 where they would take more than 2 MB, 0 where one
            picture does.
    """
    smallest = sorted(pictures, key=len)[:_DIFFERENT]
    file = folder / contract.WARMUP_FILE
    file.parent.mkdir(exist_ok=True)
    records, size = 0, 0
    with tf.io.TFRecordWriter(str(file)) as writer:
        for batch_size in _BATCH_SIZES:
            log = PredictionLog()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = (
                model_name,
                contract.SIGNATURE_BYTES,
            )
            batch = list(islice(cycle(smallest), batch_size))
            request.inputs[contract.INPUT_BYTES].CopyFrom(tf.make_tensor_proto(batch, tf.string))
            size += log.ByteSize()
            if size > _MOST_BYTES:
                break
            writer.write(log.SerializeToString())
            records += 1
    return records
