"""From files to batches: every picture is read, hashed and decoded once; then each epoch is a pure function of seed.

Pixels are kept in memory where they fit. Where they do not, they are decoded again whenever they are needed.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from trainer.data.ledger import Found, Ledger, LeftOut
from trainer.errors import DataError
from trainer.variants.preprocessing import decode_and_resize

# Share of the memory that is free when a run starts which cached pixels may take: the rest is for the model, for
# batches on their way, and for other programs.
_CACHE_SHARE = 0.25


@dataclass(frozen=True)
class Scan:
    """What one pass over the files found.

    Attributes:
        sha256: content hash in hexadecimal, by path, of the files that decode.
        left_out: files that do not, with the reason.
        pixels: uint8 [n, image_size, image_size, 3], a row per file in the order given, or None where they would not
            fit into memory. Rows of files that do not decode are zeros.
    """

    sha256: dict[str, str]
    left_out: list[LeftOut]
    pixels: np.ndarray | None


@dataclass(frozen=True)
class Part:
    """Which part of every batch one of several workers trains on: that of its replicas.

    Attributes:
        first: number of its first replica.
        end: number after its last.
        replicas: of all workers; the batch size is a multiple of it.
    """

    first: int
    end: int
    replicas: int


def scan(folder: Path, found: Sequence[Found], image_size: int, *, on_bad_image: str, free_bytes: int) -> Scan:
    """Reads, hashes and decodes every file once, in parallel.

    Args:
        folder: the data folder.
        found: files in it.
        image_size: side in pixels that pictures are resized to.
        on_bad_image: ``skip`` or ``fail``.
        free_bytes: memory that is free now; a quarter of it may hold decoded pictures.

    Raises:
        DataError: a file does not decode and on_bad_image is ``fail``, or none does.
    """
    shape = (len(found), image_size, image_size, 3)
    pixels = np.zeros(shape, np.uint8) if np.prod(shape, dtype=np.int64) <= free_bytes * _CACHE_SHARE else None

    def read(index: int) -> str | LeftOut:
        path = found[index].path
        try:
            encoded = (folder / path).read_bytes()
            decoded = decode_and_resize(tf.constant(encoded), image_size)
        except OSError as error:
            return LeftOut(path, f"cannot be read: {error.strerror or error}")
        except tf.errors.InvalidArgumentError:
            return LeftOut(path, _why_undecodable(encoded))
        if pixels is not None:
            pixels[index] = decoded.numpy()
        return hashlib.sha256(encoded).hexdigest()

    # Decoding happens outside the interpreter lock, so that threads are enough.
    with tf.device("CPU:0"), ThreadPoolExecutor(os.cpu_count()) as pool:
        reading = pool.map(read, range(len(found)))
        # disable=None: a bar on a terminal, nothing in a log.
        results = list(tqdm(reading, "reading pictures", len(found), leave=False, disable=None))
    left_out = [result for result in results if isinstance(result, LeftOut)]
    if left_out and on_bad_image == "fail":
        raise DataError(
            f"{folder / left_out[0].path}: {left_out[0].reason} ({len(left_out)} such files); mend or remove it, or "
            "use --on_bad_image=skip"
        )
    sha256 = {file.path: result for file, result in zip(found, results, strict=True) if isinstance(result, str)}
    if not sha256:
        raise DataError(f"--data={folder}: none of the {len(found)} files is a picture that can be decoded")
    return Scan(sha256, left_out, pixels)


def _why_undecodable(encoded: bytes) -> str:
    if not encoded:
        return "empty file"
    signatures = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF")
    if encoded.startswith(signatures):
        return "truncated or damaged picture, or one of a kind that TensorFlow does not decode"
    return "no JPEG, PNG, GIF, BMP or WebP picture"


class Examples:
    """The pictures of a ledger, ready to be batched.

    Args:
        folder: the data folder.
        ledger: which pictures, in which split.
        found: the files that were scanned, in their order.
        pixels: what the scan kept of them, or None.
        image_size: side in pixels.
    """

    def __init__(
        self, folder: Path, ledger: Ledger, found: Sequence[Found], pixels: np.ndarray | None, image_size: int
    ) -> None:
        self._ledger = ledger
        self._image_size = image_size
        self._paths = [str(folder / picture.path) for picture in ledger.pictures]
        row = {file.path: index for index, file in enumerate(found)}
        self._rows = np.array([row[picture.path] for picture in ledger.pictures], np.int64)
        with tf.device("CPU:0"):
            # One tensor on the host, which data sets refer to and none copies.
            self._cache = None if pixels is None else tf.constant(pixels)
        self._labels = np.array([ledger.classes.index(picture.label) for picture in ledger.pictures], np.int32)

    def indices(self, split: str) -> np.ndarray:
        """Positions of a split's pictures in the ledger: int64 [n], ascending."""
        return np.array([i for i, picture in enumerate(self._ledger.pictures) if picture.split == split], np.int64)

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Class numbers of pictures: int32 [n]."""
        return self._labels[indices]

    def pictures(self, indices: np.ndarray) -> np.ndarray:
        """Pixels of a few pictures: uint8 [n, image_size, image_size, 3]."""
        if self._cache is not None:
            return tf.gather(self._cache, self._rows[indices]).numpy()
        return np.stack(
            [decode_and_resize(tf.io.read_file(self._paths[index]), self._image_size).numpy() for index in indices]
        )

    def training_batches(
        self, batch_size: int, *, seed: int, epoch: int, full: bool, start: int = 0, part: Part | None = None
    ) -> tf.data.Dataset:
        """Batches of one epoch in an order that depends on seed and epoch alone.

        Args:
            batch_size: pictures a batch, over all replicas.
            seed: of the order.
            epoch: number of the pass, from 0.
            full: fills the last batch up with pictures of weight 0. Several replicas need it: one without a picture
                would compute on empty tensors, which some kernels get wrong.
            start: number of the first batch that is given, to go on in the middle of an epoch.
            part: of every batch, which is then given replica by replica; None: all of it at once.

        Returns:
            A data set of (uint8 [n, image_size, image_size, 3], int32 [n], float32 weights [n]).
        """
        generator = np.random.default_rng([seed, epoch])
        indices = self.indices("train")
        positions, weights, size = epoch_order(len(indices), batch_size, generator, full=full, start=start, part=part)
        order = indices[positions]
        return tf.data.Dataset.zip(
            self._batches(order, size), tf.data.Dataset.from_tensor_slices(weights).batch(size)
        ).map(lambda pictures, weights: (*pictures, weights))

    def evaluation_batches(self, split: str, batch_size: int) -> tf.data.Dataset:
        """Batches of a split in the order of the ledger: every picture once, none augmented.

        Returns:
            A data set of (uint8 [n, image_size, image_size, 3], int32 [n]); the last batch may be smaller.
        """
        return self._batches(self.indices(split), batch_size)

    def _batches(self, indices: np.ndarray, batch_size: int) -> tf.data.Dataset:
        with tf.device("CPU:0"):
            labels = tf.constant(self._labels)
            if self._cache is not None:
                rows = tf.constant(self._rows)
                dataset = tf.data.Dataset.from_tensor_slices(indices).batch(batch_size)
                dataset = dataset.map(
                    lambda batch: (tf.gather(self._cache, tf.gather(rows, batch)), tf.gather(labels, batch))
                )
            else:
                paths = tf.constant(self._paths)
                dataset = tf.data.Dataset.from_tensor_slices(indices).map(
                    lambda index: (decode_and_resize(tf.io.read_file(paths[index]), self._image_size), labels[index]),
                    num_parallel_calls=tf.data.AUTOTUNE,
                    deterministic=True,
                )
                dataset = dataset.batch(batch_size)
        return dataset.prefetch(tf.data.AUTOTUNE)


def epoch_order(
    count: int, batch_size: int, generator: np.random.Generator, *, full: bool, start: int, part: Part | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Order of an epoch, for pictures and features alike.

    Args:
        count: examples to train on.
        batch_size: of them in a batch, over all replicas.
        generator: decides the order.
        full: fills the last batch up with examples of weight 0.
        start: number of the first batch that is given.
        part: of every batch, which has to be full; None: all of it.

    Returns:
        Positions, int64 [n], 0…count-1; weights, float32 [n]; and how many of them are given at once.
    """
    positions = generator.permutation(count)
    weights = np.ones(count, np.float32)
    if full:
        length = -(-count // batch_size) * batch_size
        positions = np.resize(positions, length)
        weights = np.pad(weights, (0, length - count))
    positions, weights = positions[start * batch_size :], weights[start * batch_size :]
    if part is None:
        return positions, weights, batch_size
    size = batch_size // part.replicas
    shape, own = (-1, part.replicas, size), slice(part.first, part.end)
    return positions.reshape(shape)[:, own].ravel(), weights.reshape(shape)[:, own].ravel(), size


def free_memory_bytes() -> int:
    """Memory that is free now, in bytes; where the system does not tell, 1 GiB."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2**30
