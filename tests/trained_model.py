"""Pictures and one trained, published model that many tests share; loaded by tests/conftest.py as a
plugin.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from whisker_ml.cli import import_tensorflow

LOGICAL_CPUS = 4


def pytest_collection_finish(session: pytest.Session) -> None:
    """Splits the CPU before anything uses TensorFlow, which allows it no more afterwards."""
    if any(
        "tests/trainer" in str(item.path) or "tests/integration" in str(item.path)
        for item in session.items
    ):
        import_tensorflow()
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        if tf.config.get_logical_device_configuration(cpu) is None:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(LOGICAL_CPUS)]
            )


@contextmanager
def logged(lines: list[str] | None = None) -> Iterator[list[str]]:
    """Collects the lines that Whisker logs inside the block; gives the list that they go to."""
    lines = [] if lines is None else lines
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(handler.format(record))
    loggers = [logging.getLogger(name) for name in ("trainer", "serving", "whisker_ml")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


def encode(pixels: np.ndarray, form: str = "JPEG", **options: Any) -> bytes:
    """An encoded picture of uint8 pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def draw(label: str, number: int) -> bytes:
    """A picture that says its class by its main colour, as a JPEG."""
    generator = np.random.default_rng([number, *label.encode()])
    colour = {"cats": (200, 90, 40), "dogs": (40, 90, 200)}.get(label, (90, 200, 40))
    size = (int(generator.integers(30, 60)), int(generator.integers(30, 60)), 3)
    return encode(np.clip(generator.normal(colour, 40, size), 0, 255).astype(np.uint8), quality=90)


def write_pictures(
    folder: Path, labels: tuple[str, ...] = ("cats", "dogs"), per_class: int = 40
) -> Path:
    """A folder of class folders."""
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(per_class):
            (folder / label / f"{number}.jpg").write_bytes(draw(label, number))
    return folder


def load_examples(
    folder: Path, size: int, *, cached: bool = True, **options: Any
) -> tuple[Any, Any]:
    """The pictures of a folder as `Examples`, and their ledger."""
    from trainer.data.batches import Examples
    from trainer.data.dataset import open_pictures, pixel_rows, scan
    from trainer.data.splits import assign

    pictures = open_pictures(folder)
    cache = pixel_rows((len(pictures.found), size, size, 3), None) if cached else None
    pictures = scan(pictures, size, on_bad_image="skip", cache=cache)
    ledger = assign(pictures, "given")
    return Examples(pictures, ledger, cache, size, **options), ledger


def give_statistics(backbone: Any, pixels: np.ndarray) -> None:
    """Makes the features of random weights tell pictures apart: BatchNorm's statistics become those
    of the pictures.

    Args:
        backbone: a frozen Keras model.
        pixels: float32 [n, size, size, 3], 0…255.
    """
    import keras

    backbone.trainable = True
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    backbone(pixels / 127.5 - 1, training=True)
    backbone.trainable = False


@dataclass(frozen=True)
class Trained:
    """A run that has ended.

    Attributes:
        run: its run folder.
        store: the model store that it published version 1 to.
        pictures: the data folder.
        result: what `trainer.pipeline.run` gave back.
        lines: what it said.
    """

    run: Path
    store: Path
    pictures: Path
    result: dict[str, Any]
    lines: list[str]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One real run of the variant `preprocessed` at 32 pixels, published; read-only for tests."""
    from trainer.config import Config
    from trainer.pipeline import run

    base = tmp_path_factory.mktemp("trained")
    pictures = write_pictures(base / "pictures")
    (pictures / "cats" / "broken.jpg").write_bytes(draw("cats", 0)[:300])
    config = Config(
        data=str(pictures),
        image_size=32,
        epochs=3,
        run_dir=str(base / "run"),
        model_dir=str(base / "store"),
        logical_replicas=2,
        mixed_precision="none",
    )
    with logged() as lines:
        result = run(config, downloads=base / "downloads")
    return Trained(base / "run", base / "store", pictures, result, lines)
