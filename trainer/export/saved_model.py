"""The SavedModel: bytes in, label out, with everything between them inside the graph; and what it
costs to serve.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import keras
import tensorflow as tf

from trainer.evaluation.calibration import NO_DOUBT, Doubt
from trainer.training.features import split_backbone
from trainer.variants.objective import Objective
from trainer.variants.preprocessing import decode_batch
from whisker_ml import contract, files
from whisker_ml.formats import MAX_PIXELS


def _served(
    model: keras.Model,
    objective: Objective,
    classes: Sequence[str],
    image_size: int,
    max_pixels: int,
    doubt: Doubt,
) -> tf.Module:
    """A model with the two signatures of `whisker_ml.contract`."""
    extractor, head = split_backbone(model) if doubt.familiarity else (None, model)

    def answer(pixels: tf.Tensor, valid: tf.Tensor) -> dict[str, tf.Tensor]:
        familiarity = None
        if extractor and doubt.familiarity:
            pixels = extractor(pixels, training=False)
            familiarity = doubt.familiarity.of(pixels)
        logits = head(pixels, training=False)
        probabilities = objective.probabilities(logits)
        probabilities = tf.where(valid[:, tf.newaxis], probabilities, tf.zeros_like(probabilities))
        probability = tf.reduce_max(probabilities, axis=1)
        names = tf.constant(list(classes))
        return {
            contract.OUTPUT_LABEL: tf.where(
                valid, tf.gather(names, objective.predictions(logits)), ""
            ),
            contract.OUTPUT_PROBABILITY: probability,
            contract.OUTPUT_PROBABILITIES: probabilities,
            contract.OUTPUT_CLASSES: tf.tile(names[tf.newaxis], [tf.shape(pixels)[0], 1]),
            contract.OUTPUT_VALID: valid,
            contract.OUTPUT_UNSURE: doubt.unsure(probability, familiarity) | ~valid,
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=contract.INPUT_BYTES)])
    def from_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels, valid = decode_batch(image_bytes, image_size, max_pixels)
        return answer(tf.cast(pixels, tf.float32), valid)

    shape = [None, image_size, image_size, 3]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name=contract.INPUT_PIXELS)])
    def from_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer(pixels, tf.ones([tf.shape(pixels)[0]], tf.bool))

    served = tf.Module("whisker")
    # Variables alone are tracked: the exported graph then needs no Keras and no code of ours to be
    # loaded.
    served.model_variables = [variable.value for variable in model.variables]
    # Made here, or saving and calling would each make the graph of their own.
    served.from_bytes, served.from_pixels = (
        function.get_concrete_function() for function in (from_bytes, from_pixels)
    )
    return served


def export(
    model: keras.Model,
    objective: Objective,
    classes: Sequence[str],
    image_size: int,
    folder: Path,
    max_pixels: int = MAX_PIXELS,
    doubt: Doubt = NO_DOUBT,
    *,
    keep: bool = False,
) -> Callable:
    """Writes the SavedModel; the folder appears when it is whole.

    Args:
        model: on one device, pixels float32 [N, image_size, image_size, 3] in 0…255 to logits.
        objective: turns logits into probabilities, with the temperature that the graph keeps.
        classes: names in the order of the logits.
        image_size: side in pixels.
        folder: what to write; a folder of that name is replaced.
        max_pixels: width times height of a picture at most.
        doubt: says when an answer is not sure.
        keep: a SavedModel that is there stays, as it is of this very model.

    Returns:
        The signature for bytes, ready to be called in this process: encoded pictures, string [N],
            to the answer.
    """
    served = _served(model, objective, classes, image_size, max_pixels, doubt)
    if keep and (folder / contract.SAVED_MODEL_FILE).exists():
        return served.from_bytes
    # A name that a killed run has left is taken again.
    staging = folder.with_name(f".{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        tf.saved_model.save(
            served,
            os.fspath(staging),
            signatures={
                contract.SIGNATURE_BYTES: served.from_bytes,
                contract.SIGNATURE_PIXELS: served.from_pixels,
            },
        )
        for path in (*staging.rglob("*"), staging):
            files.synchronise(path)
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return served.from_bytes


def size_bytes(folder: Path) -> int:
    """Size of a SavedModel's files; what travels along in `assets.extra/` is left out."""
    extra = folder / contract.EXTRA_FOLDER
    return sum(
        file.stat().st_size
        for file in folder.rglob("*")
        if file.is_file() and extra not in file.parents
    )


def measure(
    folder: Path, answer: Callable[[tf.Tensor], Any], pictures: Sequence[bytes]
) -> dict[str, Any]:
    """Measures one picture a call, in this process: without a server, a network, or others that ask
    meanwhile.

    Args:
        folder: the SavedModel.
        answer: its signature for bytes, string [N].
        pictures: encoded, at least one; the first is asked for once more, to warm up.

    Returns:
        `size_bytes`, the median `latency_ms` of decoding and answering, and over how many `calls`.
    """
    took_ms = []
    for picture in (pictures[0], *pictures):
        start = time.perf_counter()
        answer(tf.constant([picture]))
        took_ms.append(1000 * (time.perf_counter() - start))
    return {
        "size_bytes": size_bytes(folder),
        "latency_ms": median(took_ms[1:]),
        "calls": len(pictures),
    }
