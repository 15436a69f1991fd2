"""Features of a frozen backbone: computed once per picture and augmented view, kept on disk, and
drawn from in batches.

The untouched picture is view 0 of every picture; training pictures have further views, flipped and
turned once and for all. An epoch sees one view of each: fixed views, not the fresh augmentation of
training on pixels.

A cache file is named after everything that its content depends on, so that it fits or is not found.
It holds a NumPy array and after it the SHA-256 of all bytes before. Its rows: all views of the
first training picture, of the second and so on, in the order of the ledger; then the validation and
the test pictures.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from trainer.data.input import Examples, Part, epoch_order, make_ready
from trainer.data.ledger import SPLITS, Ledger
from trainer.errors import RunError
from trainer.training.extractor import BACKENDS, BATCH, Run, fastest_backend
from trainer.variants.augmentation import augmentation_layers

# Goes up when the code below computes something else from the same pictures, or arranges it
# otherwise.
_FORMAT = 1

_DIGEST_BYTES = hashlib.sha256().digest_size
_READ_BYTES = 2**20
_EVALUATED_AT_ONCE = 1024


class FeatureExamples:
    """The pictures of a ledger as features, with the interface of `Examples` for training and
    evaluation.

    Args:
        examples: the pictures.
        features: float32 [rows, features], rows as the module says.
        views: of each training picture.
    """

    def __init__(self, examples: Examples, features: np.ndarray, views: int) -> None:
        self._examples = examples
        self._features = features
        self._views = views
        indices = [examples.indices(split) for split in SPLITS]
        train = len(indices[0])
        # Row of view 0, by position in the ledger.
        self._rows = np.empty(sum(map(len, indices)), np.int64)
        self._rows[np.concatenate(indices)] = np.concatenate(
            [np.arange(train) * views, train * views + np.arange(len(self._rows) - train)]
        )

    def indices(self, split: str) -> np.ndarray:
        """Positions of a split's pictures in the ledger: int64 [n], ascending."""
        return self._examples.indices(split)

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Class numbers of pictures: int32 [n]."""
        return self._examples.labels(indices)

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
        """Batches of one epoch, in an order and of views that depend on seed and epoch alone.

        Args:
            batch_size: pictures a batch, over all replicas.
            seed: of order and views.
            epoch: number of the pass, from 0.
            full: fills the last batch up with pictures of weight 0.
            start: number of the first batch that is given, to go on in the middle of an epoch.
            part: of every batch, which is then given replica by replica; None: all of it at once.

        Returns:
            A data set of (float32 [n, features], int32 [n], float32 weights [n]).
        """
        generator = np.random.default_rng([seed, epoch])
        indices = self.indices("train")
        positions, weights, size = epoch_order(
            len(indices), batch_size, generator, full=full, start=start, part=part
        )
        order = indices[positions]
        weights *= self._examples.weights(order)
        # Drawn for every picture, whatever batch the epoch is gone on with from.
        views = generator.integers(self._views, size=len(indices))[positions]
        return self._batches(self._rows[order] + views, size, self.labels(order), weights)

    def evaluation_batches(self, split: str, batch_size: int) -> tf.data.Dataset:
        """Batches of a split in the order of the ledger: every picture once, untouched.

        Args:
            split: train, validation or test.
            batch_size: at least; features are small, so that there are a thousand in a batch.

        Returns:
            A data set of (float32 [n, features], int32 [n]); the last batch may be smaller.
        """
        indices = self.indices(split)
        return self._batches(
            self._rows[indices], max(batch_size, _EVALUATED_AT_ONCE), self.labels(indices)
        )

    def _batches(self, rows: np.ndarray, batch_size: int, *others: np.ndarray) -> tf.data.Dataset:
        @tf.autograph.experimental.do_not_convert
        def read(rows: tf.Tensor, *others: tf.Tensor) -> tuple[tf.Tensor, ...]:
            # A function of NumPy, as the features are a mapped file, which need not fit into
            # memory.
            features = tf.numpy_function(
                lambda rows: self._features[rows], [rows], tf.float32, stateful=False
            )
            return tf.ensure_shape(features, [None, self._features.shape[1]]), *others

        with tf.device("CPU:0"):
            return make_ready(
                tf.data.Dataset.from_tensor_slices((rows, *others)).batch(batch_size).map(read)
            )


def extract(
    examples: Examples,
    ledger: Ledger,
    extractor: keras.Model,
    *,
    views: int,
    seed: int,
    cache_folder: Path,
    say: Callable[[str], None],
    backend: str | None = None,
) -> FeatureExamples:
    """Computes the features of all pictures, or finds them computed.

    Args:
        examples: the pictures.
        ledger: what they are.
        extractor: from pixels to features, as `split` makes it.
        views: of each training picture, the untouched one among them.
        seed: of the augmented views.
        cache_folder: keeps features from run to run; made where it is missing.
        say: prints one line.
        backend: name in `BACKENDS`; None: the fastest on this machine.

    Raises:
        RunError: the cache cannot be read or written.
    """
    start = time.perf_counter()
    backend = backend or fastest_backend()
    rows = len(ledger.pictures) + (views - 1) * len(examples.indices("train"))
    file = (
        cache_folder
        / f"{cache_name(ledger, extractor, views=views, seed=seed, backend=backend)}.npy"
    )
    try:
        if reused := file.exists():
            reused = _is_whole(file)
            if not reused:
                say(f"features in {file} are damaged; they are computed again")
        if not reused:
            cache_folder.mkdir(parents=True, exist_ok=True)
            blocks = _compute(examples, BACKENDS[backend](extractor), views, seed)
            _write(file, (rows, extractor.output_shape[1]), blocks)
        features = np.load(file, mmap_mode="r")
    except OSError as error:
        raise RunError(
            f"{file}: the feature cache cannot be used ({error.strerror or error}); expected a"
            " folder that this user may write, with"
            f" {4 * rows * extractor.output_shape[1] / 1e6:.1f} MB free"
        ) from error
    seconds = time.perf_counter() - start
    how = f"found in {file}" if reused else f"computed with {backend}, {rows / seconds:.0f} views/s"
    say(
        f"features of {len(ledger.pictures)} pictures, {views} view{'s' * (views > 1)} of each"
        f" training picture: {how} ({seconds:.1f} s)"
    )
    return FeatureExamples(examples, features, views)


def cache_name(
    ledger: Ledger, extractor: keras.Model, *, views: int, seed: int, backend: str
) -> str:
    """SHA-256 in hexadecimal over everything that features depend on."""
    weights = hashlib.sha256()
    for variable in extractor.variables:
        weights.update(f"{variable.path} {variable.shape} {variable.dtype}".encode())
        weights.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).data)
    inputs = {
        "format": _FORMAT,
        "ledger": ledger.digest,
        "order": [[picture.sha256, picture.split] for picture in ledger.pictures],
        "weights": weights.hexdigest(),
        "input": list(extractor.input_shape),
        "dtype": extractor.compute_dtype,
        "views": views,
        # Without augmented views the seed decides nothing.
        "seed": seed if views > 1 else None,
        "batch": BATCH,
        "backend": backend,
        "versions": [tf.__version__, keras.__version__],
    }
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def _compute(examples: Examples, run: Run, views: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of rows in the order of the file."""
    augmentations = [_augmentation(seed, view) for view in range(1, views)]
    pictures = sum(len(examples.indices(split)) for split in SPLITS)
    # disable=None: a bar on a terminal, nothing in a log.
    bar = tqdm(desc="features", total=pictures, unit=" pictures", leave=False, disable=None)
    for split in SPLITS:
        for pixels, _ in examples.evaluation_batches(split, BATCH):
            bar.update(len(pixels))
            shown = [pixels]
            if split == "train":
                shown += [augment(tf.cast(pixels, tf.float32)) for augment in augmentations]
            features = np.stack([run(view.numpy()) for view in shown], axis=1)
            yield features.reshape(-1, features.shape[-1])
    bar.close()


def _augmentation(seed: int, view: int) -> Callable[[tf.Tensor], tf.Tensor]:
    # Layers of its own for each view, always called on the same batches in the same order: the same
    # views each time. Half of 32 bits, as the layers count on from their seed.
    layers = augmentation_layers(
        int(np.random.SeedSequence([seed, view]).generate_state(1)[0]) // 2
    )

    # Flipping and turning are linear, so that it is all the same whether scaling to [-1, 1] comes
    # before or after.
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
    def augment(pixels: tf.Tensor) -> tf.Tensor:
        for layer in layers:
            pixels = layer(pixels, training=True)
        return pixels

    return augment


def _write(file: Path, shape: tuple[int, int], blocks: Iterator[np.ndarray]) -> None:
    """Writes under another name first: a file that is there is whole, unless it is damaged
    later.
    """
    unfinished = file.with_suffix(f".{os.getpid()}.unfinished")
    try:
        with unfinished.open("w+b") as stream:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            # Never through a mapped file, where a full disk kills the process instead of raising an
            # error.
            for block in blocks:
                stream.write(np.ascontiguousarray(block, "<f4").data)
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").digest()
            stream.write(digest)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _is_whole(file: Path) -> bool:
    digest = hashlib.sha256()
    left = file.stat().st_size - _DIGEST_BYTES
    with file.open("rb") as stream:
        while left > 0 and (part := stream.read(min(left, _READ_BYTES))):
            digest.update(part)
            left -= len(part)
        return stream.read() == digest.digest()
