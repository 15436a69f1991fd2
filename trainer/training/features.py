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
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.data.batches import Examples, as_it_is, epoch_order, make_ready
from trainer.data.ledger import SPLITS, Ledger
from trainer.devices import Part
from trainer.errors import RunError
from trainer.variants.models import augmentation_layers
from trainer.variants.preprocessing import PIXELS_VERSION
from whisker_ml.errors import WhiskerError
from whisker_ml.files import replacing
from whisker_ml.machine import available_processors
from whisker_ml.terminal import foreign_lines_kept_back, progress

logger = logging.getLogger(__name__)

# Goes up when the code below computes something else from the same pictures, or arranges it
# otherwise.
_FORMAT = 1

_DIGEST_BYTES = hashlib.sha256().digest_size
_EVALUATED_AT_ONCE = 1024

# Pictures per call: from 8 on XNNPACK gains nothing more, and 32 fall out of the processor's cache.
BATCH = 16
# Measured on 2 CPU cores, MobileNetV2 at 160 pixels, in one run: XNNPACK 2 to 4 times the pictures
# per second of a `tf.function`. One interpreter with a thread per core and two with a thread each
# came out alike.

# Backends may differ by so much of the largest feature; measured: at most 2e-4.
BACKENDS_BOUND = 2e-3
_COMPARED = 4

# Pixels, uint8 or float32 [n, H, W, 3] in 0…255, n at most `BATCH`, to features, float32 [n, m].
Extract = Callable[[np.ndarray], np.ndarray]


class FeatureExamples:
    """The pictures of a ledger as features, with the interface of `Examples` for training and
    evaluation.

    Args:
        examples: the pictures.
        features: float32 [rows, features], rows as the module says.
        views: of each training picture.
        run: has computed them; None: they were found computed.
    """

    def __init__(
        self, examples: Examples, features: np.ndarray, views: int, run: Extract | None = None
    ) -> None:
        self.run = run
        # Positions of a split's pictures in the ledger, and class numbers of pictures.
        self.indices, self.labels = examples.indices, examples.labels
        self._weights = examples.weights
        self._features = features
        self._views = views
        order = np.concatenate([examples.indices(split) for split in SPLITS])
        rows = np.where(np.arange(len(order)) < len(examples.indices("train")), views, 1)
        # Row of view 0, by position in the ledger.
        self._rows = (np.cumsum(rows) - rows)[np.argsort(order)]

    def features(self, indices: np.ndarray) -> np.ndarray:
        """Features of untouched pictures: float32 [n, m]."""
        return self._features[self._rows[indices]]

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
            start: number of the first batch that is given, to resume in the middle of an epoch.
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
        weights *= self._weights(order)
        # Drawn for every picture, whatever batch the epoch resumes at.
        views = generator.integers(self._views, size=len(indices))[positions]
        rows = self._rows[order] + views

        @as_it_is
        def read(rows: tf.Tensor, *others: tf.Tensor) -> tuple[tf.Tensor, ...]:
            # A function of NumPy, as the features are a mapped file, which need not fit into
            # memory.
            features = tf.numpy_function(
                self._features.__getitem__, [rows], tf.float32, stateful=False
            )
            return tf.ensure_shape(features, [None, self._features.shape[1]]), *others

        with tf.device("CPU:0"):
            dataset = tf.data.Dataset.from_tensor_slices((rows, self.labels(order), weights))
            return make_ready(dataset.batch(size).map(read))

    def evaluation_batches(
        self, split: str, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of a split in the order of the ledger: every picture once, untouched.

        Args:
            split: train, validation or test.
            batch_size: at least; features are small, so that there are a thousand in a batch.

        Yields:
            float32 [n, features], int32 [n]; the last batch may be smaller.
        """
        indices, size = self.indices(split), max(batch_size, _EVALUATED_AT_ONCE)
        # Without tf.data, which takes longer to begin than this does in all.
        for start in range(0, len(indices), size):
            batch = indices[start : start + size]
            yield self.features(batch), self.labels(batch)


def extract(
    examples: Examples,
    ledger: Ledger,
    extractor: keras.Model,
    *,
    views: int,
    seed: int,
    cache_folder: Path,
    augmentation: str = "light",
) -> FeatureExamples:
    """Computes the features of all pictures, or finds them computed.

    Args:
        examples: the pictures.
        ledger: what they are.
        extractor: from pixels to features, as `split_backbone` makes it.
        views: of each training picture, the untouched one among them.
        seed: of the augmented views.
        cache_folder: keeps features from run to run; made where it is missing.
        augmentation: of the views: ``light`` or ``strong``.

    Raises:
        RunError: the cache cannot be read or written.
    """
    start = time.perf_counter()
    rows = len(ledger.pictures) + (views - 1) * len(examples.indices("train"))
    name = cache_name(ledger, extractor, [views, seed, augmentation] if views > 1 else [views])
    files = {
        backend: cache_folder / f"{name}-{backend}.npy" for backend in preferred_backends(extractor)
    }
    try:
        file, run = next(filter(_is_usable, files.values()), None), None
        if file:
            how = f"found in {file}"
        else:
            cache_folder.mkdir(parents=True, exist_ok=True)
            used, run = fastest_backend(extractor, examples)
            file = files[used]
            augmentations = [_augmentation(seed, view, augmentation) for view in range(1, views)]
            _write(file, (rows, extractor.output_shape[1]), _compute(examples, run, augmentations))
            how = f"computed with {used}, {rows / (time.perf_counter() - start):.0f} views/s"
        features = np.load(file, mmap_mode="r")
    except OSError as error:
        raise RunError(
            f"{cache_folder}: the feature cache cannot be used ({error.strerror or error});"
            " expected a folder that this user may write, with"
            f" {4 * rows * extractor.output_shape[1] / 1e6:.1f} MB free"
        ) from error
    logger.info(
        f"features of {len(ledger.pictures)} pictures, {views} view{'s' * (views > 1)} of each"
        f" training picture: {how} ({time.perf_counter() - start:.1f} s)"
    )
    return FeatureExamples(examples, features, views, run)


def cache_name(ledger: Ledger, extractor: keras.Model, views: Sequence[Any]) -> str:
    """SHA-256 in hexadecimal over everything that features depend on, but for the backend; `views`
    with what they are made with.
    """
    weights = hashlib.sha256()
    # By their order: some have names that count on from model to model.
    for variable in extractor.variables:
        weights.update(f"{variable.shape} {variable.dtype}".encode())
        weights.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).data)
    scaling = extractor.get_layer("rescaling")
    inputs = {
        "format": [_FORMAT, PIXELS_VERSION],
        "ledger": ledger.digest,
        "order": [[picture.sha256, picture.split] for picture in ledger.pictures],
        "weights": weights.hexdigest(),
        "layers": [type(layer).__name__ for layer in extractor.layers],
        "scaling": [np.ravel(part).tolist() for part in (scaling.scale, scaling.offset)],
        "input": list(extractor.input_shape),
        "dtype": extractor.output.dtype,
        "views": views,
        "batch": BATCH,
        "versions": [tf.__version__, keras.__version__],
    }
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def _compute(
    examples: Examples, extract: Extract, augmentations: Sequence[Callable[[tf.Tensor], tf.Tensor]]
) -> Iterator[np.ndarray]:
    """Blocks of rows in the order of the file."""
    pictures = sum(len(examples.indices(split)) for split in SPLITS)
    bar = progress(desc="features", total=pictures, unit=" pictures")
    for split in SPLITS:
        for pixels, _ in examples.evaluation_batches(split, BATCH):
            bar.update(len(pixels))
            shown = [pixels]
            if split == "train":
                shown += [augment(tf.cast(pixels, tf.float32)) for augment in augmentations]
            features = np.stack([extract(view.numpy()) for view in shown], axis=1)
            yield features.reshape(-1, features.shape[-1])
    bar.close()


def _augmentation(seed: int, view: int, augmentation: str) -> Callable[[tf.Tensor], tf.Tensor]:
    # Layers of its own for each view, always called on the same batches in the same order: the same
    # views each time. Half of 32 bits, as the layers count on from their seed.
    layers = augmentation_layers(
        int(np.random.SeedSequence([seed, view]).generate_state(1)[0]) // 2, augmentation
    )

    # All that they do is linear, so that it is the same whether scaling comes before or after.
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
    def augment(pixels: tf.Tensor) -> tf.Tensor:
        for layer in layers:
            pixels = layer(pixels, training=True)
        return pixels

    return augment


def _write(file: Path, shape: tuple[int, int], blocks: Iterator[np.ndarray]) -> None:
    with replacing(file) as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        # Never through a mapped file, where a full disk kills the process instead of raising an
        # error.
        for block in blocks:
            stream.write(np.ascontiguousarray(block, "<f4").data)
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").digest()
        stream.write(digest)


def _is_usable(file: Path) -> bool:
    if not file.exists():
        return False
    # An empty file cannot be mapped.
    content = np.memmap(file, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8)
    digest = hashlib.sha256(content[:-_DIGEST_BYTES].data).digest()
    if content[-_DIGEST_BYTES:].tobytes() == digest:
        return True
    logger.warning("features in %s are damaged; they are computed again", file)
    return False


def split_backbone(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Takes the variant `transfer` apart where its frozen part ends.

    Both parts consist of the model's own layers: a trained head is the model's head, and nothing
    has to be copied.

    Args:
        model: what `build("transfer", …)` gives; to be called under the strategy's scope that it
            was built under.

    Returns:
        The extractor, from float32 [N, H, W, 3] in 0…255 to float32 [N, features],
        without augmentation; and the head, from there to logits.
    """
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    pool = model.get_layer("pool")
    pixels = keras.Input(model.input_shape[1:], name="pixels")
    # training=False: the frozen BatchNorm statistics, as in the whole model.
    features = pool(backbone(model.get_layer("rescaling")(pixels), training=False))
    return keras.Model(pixels, features, name="extractor"), keras.Model(
        pool.output, model.output, name="head"
    )


def preferred_backends(extractor: keras.Model) -> list[str]:
    """Names in `BACKENDS`, the fastest first; XNNPACK, on every core, is for float32 without a
    GPU.
    """
    if tf.config.list_logical_devices("GPU") or extractor.output.dtype != "float32":
        return ["TensorFlow"]
    return ["XNNPACK", "TensorFlow"]


def fast_extractor(
    extractor: keras.Model, examples: Examples, known: Extract | None = None
) -> Extract:
    """Gives what computes features of any number of pictures: by what is known to compute them, or
    on the fastest backend, which is prepared at the first call.
    """
    prepared = cache(lambda: known or fastest_backend(extractor, examples)[1])

    def extract(pixels: np.ndarray) -> np.ndarray:
        blocks = range(0, len(pixels), BATCH)
        return np.concatenate([prepared()(pixels[start : start + BATCH]) for start in blocks])

    return extract


def fastest_backend(extractor: keras.Model, examples: Examples) -> tuple[str, Extract]:
    """The first of the preferred backends that can run the extractor and gives TensorFlow's
    features, and what runs it; the last one is not checked.
    """
    *checked, last = preferred_backends(extractor)
    pixels = examples.pictures(examples.indices("validation")[:_COMPARED])
    for backend in checked:
        try:
            run = BACKENDS[backend](extractor)
            found = run(pixels)
        except WhiskerError:  # a request to stop
            raise
        except Exception as error:  # the converter's error has no public class
            reason = shorten(str(error), 120)
        else:
            expected = extractor(tf.cast(pixels, tf.float32), training=False).numpy()
            difference = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-9)
            if difference <= BACKENDS_BOUND:
                return backend, run
            reason = f"off by {difference:.1g} of the largest feature, {BACKENDS_BOUND:g} allowed"
        logger.warning(
            "%s cannot run this backbone (%s); %s does, more slowly", backend, reason, last
        )
    return last, BACKENDS[last](extractor)


def _tensorflow(extractor: keras.Model) -> Extract:
    """The extractor as a compiled function."""
    function = tf.function(
        lambda pixels: tf.cast(extractor(pixels, training=False), tf.float32),
        input_signature=[tf.TensorSpec(extractor.input_shape, tf.float32)],
    )
    return lambda pixels: function(tf.constant(pixels, tf.float32)).numpy()


def _xnnpack(extractor: keras.Model) -> Extract:
    """The extractor as a TensorFlow Lite model, which XNNPACK executes in float32."""
    shape = (BATCH, *extractor.input_shape[1:])
    function = tf.function(lambda pixels: extractor(pixels, training=False))
    concrete = function.get_concrete_function(tf.TensorSpec(shape, tf.float32))
    # The converter advises to name the function's owner. The interpreter is deprecated in favour of
    # the package ai-edge-litert, but part of every TensorFlow that is allowed here; it names its
    # delegate on standard error, whatever the log level is.
    with foreign_lines_kept_back():
        # From the concrete function, as from_keras_model takes five times as long for the same
        # result. Without the function's owner, as then its variables become constants, without
        # which XNNPACK takes over nothing.
        converted = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
        interpreter = tf.lite.Interpreter(
            model_content=converted, num_threads=available_processors()
        )
        interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    batch = np.zeros(shape, np.float32)

    def run(pixels: np.ndarray) -> np.ndarray:
        batch[: len(pixels)] = pixels
        interpreter.set_tensor(source["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])[: len(pixels)]

    return run


# Ways of running an extractor, by name: each makes the function that runs it.
BACKENDS: dict[str, Callable[[keras.Model], Extract]] = {
    "TensorFlow": _tensorflow,
    "XNNPACK": _xnnpack,
}
