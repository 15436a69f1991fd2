"""Reporting: the pictures, the HTML page and the model card of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import Config
from trainer.data.batches import Examples
from trainer.data.dataset import Dataset
from trainer.data.ledger import Ledger
from trainer.reporting import charts, photos, style
from trainer.reporting.model_card import write_model_card
from trainer.reporting.report import write_report
from trainer.session import Session
from trainer.training.observers import show_pictures
from trainer.variants import VARIANTS
from trainer.variants.models import augmentation_layers

# What each layer of augmentation makes of a picture.
_DONE_BY = {
    "random_flip": "flipped",
    "random_rotation": "rotated",
    "random_zoom": "zoomed",
    "random_translation": "moved",
    "random_contrast": "with more or less contrast",
}


def draw_data(config: Config, session: Session, data: Dataset) -> None:
    """Draws what training starts from, for the report and for TensorBoard.

    Args:
        config: of the run.
        session: of the run; its folder gets the pictures.
        data: what is drawn.
    """
    folder = session.folder.file("pictures")
    illustrate_data(data.examples, data.ledger, config, folder)
    show_pictures(folder, session.folder.path / "tensorboard", 0)


def write(session: Session, data: Dataset, result: Mapping[str, Any], steps: int) -> None:
    """Draws the pictures of a run, and writes its report and its model card.

    Args:
        session: of the run; its folder gets them.
        data: the pictures that were judged.
        result: what `result.json` holds.
        steps: training steps, for TensorBoard.
    """
    folder, pictures = session.folder, session.folder.file("pictures")
    illustrate_result(data.examples, data.ledger, result, pictures)
    show_pictures(pictures, folder.path / "tensorboard", steps)
    write_model_card(result, folder.environment, folder.file("model_card.md"))
    write_report(result, folder.environment, pictures, folder.file("report.html"))


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
            examples.pictures(generator.permutation(of_class)[: photos.PICTURES_PER_CLASS])
        )
    photos.class_rows(shown, folder / style.CLASS_ROWS)
    photos.label_counts(ledger.counts(), ledger.baseline_accuracy(), folder / style.LABEL_COUNTS)
    # Features of untouched pictures alone see no augmentation.
    if VARIANTS[config.variant].augmented and (
        config.feature_views != 1 or config.fine_tune_epochs
    ):
        original = examples.pictures(generator.choice(train, 1))
        batch = tf.cast(tf.repeat(original, photos.AUGMENTED_COPIES, axis=0), tf.float32)
        layers = augmentation_layers(config.seed, config.augmentation, scaled=False)
        augmented = {
            _DONE_BY[layer.name]: list(
                tf.cast(
                    tf.clip_by_value(tf.round(layer(batch, training=True)), 0, 255), tf.uint8
                ).numpy()
            )
            for layer in layers
        }
        photos.augmentation_grid(original[0], augmented, folder / style.AUGMENTATION)


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
    charts.training_curves(history, baseline, kept, folder / style.TRAINING_CURVES)
    charts.pace(history["learning_rate"], result["throughput"], folder / style.PACE)
    charts.confusion_matrix(test["per_class"], test["confused"], folder / style.CONFUSION)
    if result["curves"]["roc"]:
        charts.threshold_curves(result["curves"], folder / style.THRESHOLDS)
    charts.reliability_diagram(result["calibration"], folder / style.RELIABILITY)
    charts.coverage(result["coverage"], folder / style.COVERAGE)
    places = {picture.sha256: index for index, picture in enumerate(ledger.pictures)}
    for name, chosen in style.PREDICTION_GRIDS.items():
        if result[chosen]:
            indices = np.array([places[each["sha256"]] for each in result[chosen]])
            photos.prediction_grid(list(examples.pictures(indices)), result[chosen], folder / name)
