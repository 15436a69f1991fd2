"""Which pictures of a run are drawn: chosen here, by the run's seed; drawn by
`trainer.reporting.plots`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import Config
from trainer.data.input import Examples
from trainer.data.ledger import Ledger
from trainer.reporting import charts, files, plots
from trainer.variants.augmentation import augmentation_layers

# What each layer of augmentation makes of a picture.
_DONE_BY = {
    "random_flip": "flipped",
    "random_rotation": "rotated",
    "random_zoom": "zoomed",
    "random_translation": "moved",
    "random_contrast": "with more or less contrast",
}


def illustrate_data(examples: Examples, ledger: Ledger, config: Config, folder: Path) -> None:
    """Draws what training starts from: pictures of each class, label counts, and one picture
    augmented nine times.

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
        shown[name] = list(
            examples.pictures(generator.permutation(of_class)[: plots.PICTURES_PER_CLASS])
        )
    plots.class_rows(shown, folder / files.CLASS_ROWS)
    plots.label_counts(ledger.counts(), ledger.baseline_accuracy(), folder / files.LABEL_COUNTS)
    # Features of untouched pictures alone see no augmentation.
    if config.variant != "plain" and (config.feature_views != 1 or config.fine_tune_epochs):
        original = examples.pictures(generator.choice(train, 1))
        batch = tf.cast(tf.repeat(original, plots.AUGMENTED_COPIES, axis=0), tf.float32)
        layers = augmentation_layers(config.seed, strong=config.strong_augmentation, scaled=False)
        augmented = {
            _DONE_BY[layer.name]: list(
                tf.cast(
                    tf.clip_by_value(tf.round(layer(batch, training=True)), 0, 255), tf.uint8
                ).numpy()
            )
            for layer in layers
        }
        plots.augmentation_grid(original[0], augmented, folder / files.AUGMENTATION)


def illustrate_result(
    examples: Examples, ledger: Ledger, result: Mapping[str, Any], folder: Path
) -> None:
    """Draws how training went, and test pictures with what the model says of them.

    Args:
        examples: the pictures.
        ledger: their classes and splits.
        result: what `result.json` holds.
        folder: gets the PNG files.
    """
    history, test = result["history"], result["test"]
    baseline, kept = result["baseline_accuracy"], result["chosen_epoch"]
    charts.training_curves(history, baseline, kept, folder / files.TRAINING_CURVES)
    charts.pace(history["learning_rate"], result["throughput"], folder / files.PACE)
    charts.confusion_matrix(test["per_class"], test["confused"], folder / files.CONFUSION)
    if result["curves"]["roc"]:
        charts.threshold_curves(result["curves"], folder / files.THRESHOLDS)
    charts.reliability_diagram(result["calibration"], folder / files.RELIABILITY)
    charts.coverage(result["coverage"], folder / files.COVERAGE)
    places = {picture.sha256: index for index, picture in enumerate(ledger.pictures)}
    for name, chosen in files.PREDICTION_GRIDS.items():
        if result[chosen]:
            indices = np.array([places[each["sha256"]] for each in result[chosen]])
            plots.prediction_grid(list(examples.pictures(indices)), result[chosen], folder / name)
