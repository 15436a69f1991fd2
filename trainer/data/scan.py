"""The first pass over the pictures: every one is read, hashed and decoded once."""

import hashlib
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from trainer.data.cache import PixelCache
from trainer.data.input import CALLS, as_it_is, make_ready, reader
from trainer.data.kinds import why_undecodable
from trainer.data.ledger import LeftOut
from trainer.data.pictures import Pictures
from trainer.errors import DataError
from trainer.variants.preprocessing import decode_and_resize

_SCANNED_AT_ONCE = 32


@dataclass(frozen=True)
class Scan:
    """What one pass over the pictures found.

    Attributes:
        sha256: content hash in hexadecimal, by path, of those that decode.
        left_out: those that do not, with the reason.
        pixels: uint8 [n, image_size, image_size, 3], a row per picture in the order given, or None
            where they are not kept. Rows of pictures that do not decode are zeros.
    """

    sha256: dict[str, str]
    left_out: list[LeftOut]
    pixels: np.ndarray | None


def scan(
    pictures: Pictures, image_size: int, *, on_bad_image: str, cache: PixelCache | None = None
) -> Scan:
    """Reads, hashes and decodes every picture once, in parallel.

    Args:
        pictures: where they come from.
        image_size: side in pixels that pictures are resized to.
        on_bad_image: ``skip`` or ``fail``.
        cache: keeps what is decoded, a row per picture; None: nothing is kept.

    Raises:
        DataError: a picture does not decode and on_bad_image is ``fail``, or none does, or the disk
            is full.
    """
    found = pictures.found
    digests = [""] * len(found)
    with tf.device("CPU:0"):
        read = reader(pictures, [file.path for file in found])

        @as_it_is
        def decode(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            encoded = read(index)
            return index, encoded, decode_and_resize(encoded, image_size)

        dataset = tf.data.Dataset.range(len(found)).map(decode, num_parallel_calls=CALLS)
        dataset = make_ready(dataset.ignore_errors().batch(_SCANNED_AT_ONCE))
    # disable=None: a bar on a terminal, nothing in a log.
    with tqdm(desc="reading pictures", total=len(found), leave=False, disable=None) as bar:
        for indices, encoded, rows in dataset.as_numpy_iterator():
            for index, content in zip(indices, encoded, strict=True):
                digests[index] = hashlib.sha256(content).hexdigest()
            if cache is not None:
                for run in np.split(
                    np.arange(len(indices)), np.flatnonzero(np.diff(indices) != 1) + 1
                ):
                    cache.put(int(indices[run[0]]), rows[run[0] : run[-1] + 1])
            bar.update(len(indices))
    left_out = [
        _problem(pictures, found[index].path) for index, digest in enumerate(digests) if not digest
    ]
    if left_out and on_bad_image == "fail":
        raise DataError(
            f"{pictures.folder / left_out[0].path}: {left_out[0].reason} ({len(left_out)} such"
            " files); mend or remove it, or use --on_bad_image=skip"
        )
    sha256 = {file.path: digest for file, digest in zip(found, digests, strict=True) if digest}
    if not sha256:
        raise DataError(
            f"--data={pictures.folder}: none of the {len(found)} files is a picture that can be"
            " decoded"
        )
    return Scan(sha256, left_out, None if cache is None else cache.pixels)


def _problem(pictures: Pictures, path: str) -> LeftOut:
    try:
        return LeftOut(path, why_undecodable(pictures.read(path), "TensorFlow"))
    except OSError as error:
        return LeftOut(path, f"cannot be read: {error.strerror or error}")
