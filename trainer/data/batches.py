"""From pictures to batches: each epoch is a pure function of the seed.

Where pixels are not kept, pictures are read and decoded again whenever they are needed.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from trainer.data.ledger import Ledger, Pictures
from trainer.devices import Part
from trainer.variants.preprocessing import decode_and_resize
from whisker_ml.formats import MAX_PIXELS
from whisker_ml.machine import available_processors

# Pictures decoded at a time: one waits for the disk while another takes a core.
CALLS = 2 * available_processors()
# For functions without tensors in their `if` and `for`: converting one takes tens of milliseconds,
# at every pass.
as_it_is = tf.autograph.experimental.do_not_convert
# Batches that are ready before they are asked for.
_READY = 2


def reader(pictures: Pictures, paths: Sequence[str]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Gives what reads, inside a graph, the picture with a number: int64 scalar to string
    scalar.
    """
    if pictures.shards is None:
        # Without Python: an eighth faster, decoding included.
        folder = pictures.folder
        files = tf.constant([str(folder / path) for path in paths])
        return lambda number: tf.io.read_file(files[number])

    def read(number: int) -> bytes:
        return pictures.read(paths[number])

    return lambda number: tf.ensure_shape(
        tf.numpy_function(read, [number], tf.string, stateful=False), []
    )


class Examples:
    """The pictures of a ledger, ready to be batched.

    Args:
        pictures: where they come from.
        ledger: which pictures, in which split.
        pixels: what the scan kept of them, or None.
        image_size: side in pixels.
        class_weights: ``balanced``: in training, every class weighs the same in all, whatever its
            number of pictures; ``none``: every picture weighs the same.
        max_pixels: width times height of a picture at most.
    """

    def __init__(
        self,
        pictures: Pictures,
        ledger: Ledger,
        pixels: np.ndarray | None,
        image_size: int,
        *,
        class_weights: str = "none",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._pictures = pictures
        self._ledger = ledger
        self._image_size = image_size
        self._max_pixels = max_pixels
        self._pixels = pixels
        row = {file.path: index for index, file in enumerate(pictures.found)}
        self._rows = np.array([row[picture.path] for picture in ledger.pictures], np.int64)
        self._labels = np.array(
            [ledger.classes.index(picture.label) for picture in ledger.pictures], np.int32
        )
        self._class_weights = np.ones(len(ledger.classes), np.float32)
        if class_weights == "balanced":
            counts = np.bincount(self.labels(self.indices("train")), minlength=len(ledger.classes))
            # So that the weights of all training pictures add up to their number.
            self._class_weights = (counts.sum() / (len(counts) * counts)).astype(np.float32)

    def indices(self, split: str) -> np.ndarray:
        """Positions of a split's pictures in the ledger: int64 [n], ascending."""
        return np.flatnonzero([picture.split == split for picture in self._ledger.pictures])

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Class numbers of pictures: int32 [n]."""
        return self._labels[indices]

    def weights(self, indices: np.ndarray) -> np.ndarray:
        """How much pictures weigh in training: float32 [n], on average 1 over the training
        pictures.
        """
        return self._class_weights[self.labels(indices)]

    def class_weights(self) -> dict[str, float]:
        """How much a picture of each class weighs in training."""
        return dict(zip(self._ledger.classes, self._class_weights.tolist(), strict=True))

    def pictures(self, indices: np.ndarray) -> np.ndarray:
        """Pixels of a few pictures: uint8 [n, image_size, image_size, 3]."""
        ((pixels, _),) = self.batches(indices, len(indices))
        return pixels.numpy()

    def training_batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        full: bool,
        start: int = 0,
        part: Part | None = None,
    ) -> tf.data.Dataset:
        """Batches of one epoch in an order that depends on seed and epoch alone.

        Args:
            batch_size: pictures a batch, over all replicas.
            seed: of the order.
            epoch: number of the pass, from 0.
            full: fills the last batch up with pictures of weight 0. Several replicas need it: one
                without a picture would compute on empty tensors, which some kernels get wrong.
            start: number of the first batch that is given, to go on in the middle of an epoch.
            part: of every batch, which is then given replica by replica; None: all of it at once.

        Returns:
            A data set of (uint8 [n, image_size, image_size, 3], int32 [n], float32 weights [n]).
        """
        indices = self.indices("train")
        generator = np.random.default_rng([seed, epoch])
        positions, weights, size = epoch_order(
            len(indices), batch_size, generator, full=full, start=start, part=part
        )
        order = indices[positions]
        return self.batches(order, size, weights * self.weights(order))

    def evaluation_batches(self, split: str, batch_size: int) -> tf.data.Dataset:
        """Batches of a split in the order of the ledger: every picture once, none augmented.

        Returns:
            A data set of (uint8 [n, image_size, image_size, 3], int32 [n]); the last batch may be
            smaller.
        """
        return self.batches(self.indices(split), batch_size)

    def batches(self, indices: np.ndarray, batch_size: int, *others: np.ndarray) -> tf.data.Dataset:
        """Batches of pictures by their positions in the ledger, as `evaluation_batches`; others are
        given batch by batch beside them.
        """
        others = (self._labels[indices], *others)
        with tf.device("CPU:0"):
            if self._pixels is not None:
                kept = self._pixels

                @as_it_is
                def look_up(rows: tf.Tensor, *others: tf.Tensor) -> tuple[tf.Tensor, ...]:
                    # A function of NumPy: pixels may be a mapped file, and a tensor would be one
                    # more copy of those in memory.
                    pixels = tf.numpy_function(kept.__getitem__, [rows], tf.uint8, stateful=False)
                    return tf.ensure_shape(pixels, [None, *kept.shape[1:]]), *others

                dataset = tf.data.Dataset.from_tensor_slices((self._rows[indices], *others))
                dataset = dataset.batch(batch_size).map(look_up)
            else:
                read = reader(self._pictures, [picture.path for picture in self._ledger.pictures])

                @as_it_is
                def decode(index: tf.Tensor, *others: tf.Tensor) -> tuple[tf.Tensor, ...]:
                    pixels = decode_and_resize(read(index), self._image_size, self._max_pixels)
                    return pixels, *others

                dataset = tf.data.Dataset.from_tensor_slices((indices, *others))
                dataset = dataset.map(decode, num_parallel_calls=CALLS, deterministic=True).batch(
                    batch_size
                )
            return make_ready(dataset)


def make_ready(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Prepares batches while others are computed on.

    Without tf.data's tuning: that ends no sooner than its next look, 10 ms after the start, then
    20, 40 and so on after the one before, so that a pass of 0.8 s took 1.3.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(_READY).with_options(options)


def epoch_order(
    count: int,
    batch_size: int,
    generator: np.random.Generator,
    *,
    full: bool,
    start: int,
    part: Part | None = None,
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
        Positions, int64 [n], 0…count-1; weights, float32 [n]; and how many of them are given at
        once.
    """
    positions = generator.permutation(count)
    weights = np.ones(count, np.float32)
    if full:
        missing = -count % batch_size
        positions = np.resize(positions, count + missing)
        weights = np.pad(weights, (0, missing))
    positions, weights = positions[start * batch_size :], weights[start * batch_size :]
    if part is None:
        return positions, weights, batch_size
    size = batch_size // part.replicas
    shape, own = (-1, part.replicas, size), slice(part.first, part.end)
    return positions.reshape(shape)[:, own].ravel(), weights.reshape(shape)[:, own].ravel(), size
