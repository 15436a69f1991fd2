"""Which pictures of a run are drawn: chosen here, by the run's seed; drawn by `trainer.reporting.plots`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import Config
from trainer.data.input import Examples
from trainer.data.ledger import Ledger
from trainer.reporting import files, plots
from trainer.variants.augmentation import augmentation_layers


def illustrate_data(examples: Examples, ledger: Ledger, config: Config, folder: Path) -> None:
    """Draws what training starts from: pictures of each class, label counts, and one picture augmented nine times.

    Args:
        examples: the pictures.
        ledger: their classes and splits.
        config: says the variant and the seed.
        folder: gets the PNG files.
    """
    generator = np.random.default_rng(config.seed)
    train = examples.indices("train")
    labels = examples.labels(train)
    shown = {}
    for number, name in enumerate(ledger.classes):
        of_class = train[labels == number]
        shown[name] = list(examples.pictures(generator.permutation(of_class)[: plots.PICTURES_PER_CLASS]))
    plots.class_rows(shown, folder / files.CLASS_ROWS)
    plots.label_counts(ledger.counts(), ledger.baseline_accuracy(), folder / files.LABEL_COUNTS)
    if config.variant != "plain":
        original = examples.pictures(generator.choice(train, 1))
        batch = tf.cast(tf.repeat(original, plots.AUGMENTED_COPIES, axis=0), tf.float32)
        for layer in augmentation_layers(config.seed, strong=config.strong_augmentation, scaled=False):
            batch = layer(batch, training=True)
        augmented = tf.cast(tf.clip_by_value(tf.round(batch), 0, 255), tf.uint8).numpy()
        plots.augmentation_grid(original[0], list(augmented), folder / files.AUGMENTATION)


def illustrate_result(
    examples: Examples,
    ledger: Ledger,
    result: Mapping[str, Any],
    probabilities: Mapping[str, np.ndarray],
    folder: Path,
) -> None:
    """Draws how training went, and test pictures with what the model says of them.

    Args:
        examples: the pictures.
        ledger: their classes and splits.
        result: what `result.json` holds.
        probabilities: float32 [n, K] by split, a row per picture in the order of the ledger.
        folder: gets the PNG files.
    """
    plots.training_curves(result["history"], result["baseline_accuracy"], folder / files.TRAINING_CURVES)
    test = examples.indices("test")
    rows = np.sort(np.random.default_rng(result["config"]["seed"]).permutation(len(test))[: plots.MOST_PREDICTIONS])
    chosen = probabilities["test"][rows]
    plots.prediction_grid(
        list(examples.pictures(test[rows])),
        [ledger.pictures[index].label for index in test[rows]],
        [ledger.classes[best] for best in chosen.argmax(axis=1)],
        chosen.max(axis=1).tolist(),
        folder / files.PREDICTION_GRID,
    )
