"""What travels with a version in `assets.extra/`: where it comes from (`whisker.json`), the rows of
its ledger, and warm-up records, which a server answers while it loads the version.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from serving.store.manifest import LEDGER_FILE, MANIFEST_FILE
from trainer.config import Config
from trainer.data.ledger import Ledger
from whisker_ml import contract

# One picture is what most clients send; a batch is what the server makes of many clients, or a
# client of many pictures.
_BATCH_SIZES = (1, 1, 8, 32)
# TensorFlow prepares a session anew for each set of outputs, which takes seconds: all of them, and
# those that our client asks for from its second request on.
_OUTPUT_FILTERS: tuple[tuple[str, ...], ...] = ((), contract.OUTPUTS_WITHOUT_CLASSES, (), ())
# So many different ones: what warms a model up is the shape of a request, and large pictures would
# make files large.
_DIFFERENT = 8
_MOST_BYTES = 2_000_000

_METRICS = ("n", "accuracy", "interval_95", "loss")


def write_ledger(ledger: Ledger, folder: Path) -> None:
    """Writes which picture was in which split, without paths, so that a later candidate is compared
    fairly.

    Args:
        ledger: of the run.
        folder: the SavedModel.
    """
    rows = sorted((picture.sha256, picture.split, picture.label) for picture in ledger.pictures)
    lines = (
        json.dumps({"sha256": sha256, "split": split, "label": label}, ensure_ascii=False) + "\n"
        for sha256, split, label in rows
    )
    _write(folder / LEDGER_FILE, "".join(lines))


def read_ledger(content: bytes) -> dict[str, str] | None:
    """Reads what `write_ledger` has written: split by hash; None where it is empty or no such
    file.
    """
    try:
        rows = [json.loads(line) for line in content.splitlines()]
        return {row["sha256"]: row["split"] for row in rows} or None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def describe(
    result: Mapping[str, Any], config: Config, *, commit: str, checkpoint: Path
) -> dict[str, Any]:
    """Says where a model comes from: data, commit, settings and weights.

    Args:
        result: what of `result.json` is known by now.
        config: of the run.
        commit: of the checkout that trained.
        checkpoint: the file with the weights that were exported.
    """
    return {
        "classes": result["classes"],
        "image_size": config.image_size,
        "variant": config.variant,
        "recipe": config.recipe,
        "data": {name: result["data"][name] for name in ("name", "digest", "counts")},
        "commit": commit,
        "config": result["config"],
        "checkpoint": {
            "name": checkpoint.name,
            "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        },
        "unsure": result["unsure"],
        "metrics": {
            split: {name: result[split][name] for name in _METRICS}
            for split in ("validation", "test")
        },
    }


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes `whisker.json` into a SavedModel's folder; the store adds number and digests when it
    publishes.
    """
    _write(folder / MANIFEST_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")


def write_warmup(folder: Path, model_name: str, pictures: Sequence[bytes]) -> int:
    """Writes requests with real pictures into a SavedModel's folder.

    Args:
        folder: the SavedModel.
        model_name: as servers will know it.
        pictures: encoded training pictures; the smallest of them are used, in batches of 1 (twice:
            for all outputs, and without the classes' names), 8 and 32.

    Returns:
        How many records there are: fewer than 4 where they would take more than 2 MB, 0 where one
            picture does.
    """
    smallest = sorted(pictures, key=len)[:_DIFFERENT]
    file = folder / contract.WARMUP_FILE
    file.parent.mkdir(exist_ok=True)
    records, size = 0, 0
    with tf.io.TFRecordWriter(str(file)) as writer:
        for batch_size, output_filter in zip(_BATCH_SIZES, _OUTPUT_FILTERS, strict=True):
            log = PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = model_name
            request.model_spec.signature_name = contract.SIGNATURE_BYTES
            request.output_filter.extend(output_filter)
            batch = list(islice(cycle(smallest), batch_size))
            request.inputs[contract.INPUT_BYTES].CopyFrom(tf.make_tensor_proto(batch, tf.string))
            size += log.ByteSize()
            if size > _MOST_BYTES:
                break
            writer.write(log.SerializeToString())
            records += 1
    return records
