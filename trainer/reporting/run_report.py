"""Reporting: the pictures, the HTML page and the model card of a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from trainer.config import Config
from trainer.data.dataset import Dataset
from trainer.data.ledger import commonest_class
from trainer.reporting import charts, style, write_model_card, write_report
from trainer.reporting.style import Grid, and_more, chart, labels
from trainer.session import Session
from trainer.training.observers import show_pictures
from trainer.variants import VARIANTS
from trainer.variants.models import augmentation_layers

# Photographs of a run and how many there are, as small JPEG files, legible on a phone.

PICTURES_PER_CLASS = 3
AUGMENTED_COPIES = 9
# What stays of a picture where the answer does not rest on it, and what it fades to.
_LEFT, _FOG = 0.15, 140


def class_rows(pictures: Mapping[str, Sequence[np.ndarray]], path: Path) -> None:
    """Draws one row of three pictures for each of up to ten classes.

    Args:
        pictures: class -> its pictures, uint8 [H, W, 3]; from the fourth on they are left out.
        path: the JPEG file to write.
    """
    shown = list(pictures)[: style.MOST_CLASSES]
    footer = and_more(len(pictures) - len(shown), "classes")
    grid = Grid(len(shown), PICTURES_PER_CLASS, above_in=0.34, footer=footer)
    names = labels(shown, 40)
    for row, label in enumerate(shown):
        grid.tag(row, 0, names[label] + ("" if len(pictures[label]) else ": no pictures"))
        for column, picture in enumerate(pictures[label][:PICTURES_PER_CLASS]):
            grid.picture(row, column, picture)
    grid.save(path)


def label_counts(counts: Mapping[str, Mapping[str, int]], baseline: float, path: Path) -> None:
    """Draws how many pictures each class has in each split, the largest classes first.

    Args:
        counts: split, "train" among them -> class -> number of pictures.
        baseline: accuracy of always answering the commonest class, in [0, 1].
        path: the PNG file to write.
    """
    totals = Counter[str]()
    for of_split in counts.values():
        totals.update(of_split)
    ordered = [label for label, _ in totals.most_common()]
    shown = ordered[: style.MOST_CLASSES]
    rest = [totals[label] for label in ordered[style.MOST_CLASSES :]]
    commonest = commonest_class(counts["train"])
    below = (
        f"always answering the commonest class, {labels([commonest], 22)[commonest]}:"
        f" {baseline:.1%}"
    )
    if rest:
        more = and_more(len(rest), "classes")
        below = f"{more}, of {min(rest):,} to {max(rest):,} pictures\n{below}"

    with chart(path, 1.3 + 0.36 * len(shown)) as (axes,):
        ends = np.zeros(len(shown))
        looks = ((style.BLUE, ""), (style.SKY, "///"), (style.VERMILION, ""))
        for (split, of_split), (color, hatch) in zip(counts.items(), looks, strict=True):
            numbers = np.array([of_split.get(label, 0) for label in shown])
            axes.barh(
                range(len(shown)),
                numbers,
                0.66,
                ends,
                color=color,
                hatch=hatch,
                edgecolor="white",
                label=f"{split} {sum(of_split.values()):,}",
            )
            ends += numbers
        for row, end in enumerate(ends):
            axes.annotate(
                f"{end:,.0f}", (end, row), xytext=(4, 0), textcoords="offset points", va="center"
            )
        names = list(labels(shown, 18, 2).values())
        axes.set_yticks(range(len(shown)), names, color=style.INK)
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.grid(visible=False)
        axes.xaxis.set_visible(False)
        style.footnote(axes, below)
        axes.figure.legend(
            loc="outside upper left",
            ncols=len(counts),
            handlelength=1.2,
            columnspacing=2.0,
            labelcolor=style.INK,
        )


def augmentation_grid(
    original: np.ndarray, augmented: Mapping[str, Sequence[np.ndarray]], path: Path
) -> None:
    """Draws, for each augmentation, one picture as it is and nine copies that it made.

    Args:
        original: uint8 [H, W, 3].
        augmented: name of the augmentation -> its copies, uint8 [H, W, 3] each; from the tenth on
            they are left out.
        path: the JPEG file to write.
    """
    grid = Grid(2 * len(augmented), 5, above_in=0.34, above_every=2)
    for block, (name, copies) in enumerate(augmented.items()):
        grid.tag(2 * block, 0, f"the picture, then {name}")
        for index, picture in enumerate([original, *copies[:AUGMENTED_COPIES]]):
            grid.picture(2 * block + index // 5, index % 5, picture)
    grid.save(path)


def prediction_grid(
    pictures: Sequence[np.ndarray], said: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Draws test pictures with what the model says: ✓ on blue where it is right, ✗ on vermilion
    where it is wrong; and beside each the same picture, faded where the answer does not rest on it.

    Args:
        pictures: uint8 [H, W, 3] each.
        said: `label`, `predicted`, `probability` and `importance` of each.
        path: the JPEG file to write.
    """
    names = labels((each[name] for each in said for name in ("predicted", "label")), 20, 3)
    lines = 1 + max(name.count("\n") for name in names.values())
    grid = Grid(-(-len(pictures) // 2), 4, below_in=0.14 + 0.3 * lines)
    for index, (picture, answer) in enumerate(zip(pictures, said, strict=True)):
        row, column = index // 2, 2 * (index % 2)
        right = answer["predicted"] == answer["label"]
        grid.picture(row, column, picture)
        grid.picture(row, column + 1, _faded(picture, np.array(answer["importance"], np.float32)))
        first = f"{'✓' if right else '✗'} {names[answer['predicted']]}"
        second = f"true: {names[answer['label']]}"
        color = style.BLUE if right else style.VERMILION
        grid.caption(row, column, first, f"{answer['probability']:.0%}", second, color)
    grid.save(path)


def _faded(picture: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """A picture that is faded but for its important parts."""
    height, width, _ = picture.shape
    found = Image.fromarray(np.maximum(importance, 0)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    light = np.clip(np.asarray(found) / max(importance.max(), 1e-6), 0, 1)
    left = _LEFT + (1 - _LEFT) * light[..., np.newaxis]
    return (_FOG + (picture.astype(np.float32) - _FOG) * left).astype(np.uint8)


# What each layer of augmentation makes of a picture.
_DONE_BY = {
    "random_flip": "flipped",
    "random_rotation": "rotated",
    "random_zoom": "zoomed",
    "random_translation": "moved",
    "random_contrast": "with more or less contrast",
}


def draw_data(config: Config, session: Session, data: Dataset) -> None:
    """Draws what training starts from, for the report and for TensorBoard: pictures of each class,
    label counts, and one picture augmented nine times.

    Args:
        config: of the run.
        session: of the run; its folder gets the pictures.
        data: what is drawn.
    """
    examples, ledger, folder = data.examples, data.ledger, session.folder.file("pictures")
    generator = np.random.default_rng(config.seed)
    train = examples.indices("train")
    labels = examples.labels(train)
    shown = {}
    for number, name in enumerate(ledger.classes):
        of_class = train[labels == number]
        shown[name] = list(examples.pictures(generator.permutation(of_class)[:PICTURES_PER_CLASS]))
    class_rows(shown, folder / style.CLASS_ROWS)
    label_counts(ledger.counts(), ledger.baseline_accuracy(), folder / style.LABEL_COUNTS)
    # Features of untouched pictures alone see no augmentation.
    if VARIANTS[config.variant].augmented and (
        config.feature_views != 1 or config.fine_tune_epochs
    ):
        original = examples.pictures(generator.choice(train, 1))
        batch = tf.cast(tf.repeat(original, AUGMENTED_COPIES, axis=0), tf.float32)
        layers = augmentation_layers(config.seed, config.augmentation)
        augmented = {
            _DONE_BY[layer.name]: list(
                tf.cast(
                    tf.clip_by_value(tf.round(layer(batch, training=True)), 0, 255), tf.uint8
                ).numpy()
            )
            for layer in layers
        }
        augmentation_grid(original[0], augmented, folder / style.AUGMENTATION)
    show_pictures(folder, session.folder.path / "tensorboard", 0)


def draw_result(session: Session, data: Dataset, result: Mapping[str, Any], steps: int) -> None:
    """Draws how training went, and test pictures with what the model says of them, for the report
    and for TensorBoard.

    Args:
        session: of the run; its folder gets the pictures.
        data: the pictures that were judged.
        result: what `result.json` holds, but for what becomes of the model.
        steps: training steps, for TensorBoard.
    """
    folder = session.folder.file("pictures")
    history, test = result["history"], result["test"]
    baseline, kept = result["baseline_accuracy"], result["chosen_epoch"]
    charts.training_curves(history, baseline, kept, folder / style.TRAINING_CURVES)
    charts.confusion_matrix(test["per_class"], test["confused"], folder / style.CONFUSION)
    if result["curves"]["roc"]:
        charts.threshold_curves(result["curves"], folder / style.THRESHOLDS)
    charts.reliability_diagram(result["calibration"], folder / style.RELIABILITY)
    places = {picture.sha256: index for index, picture in enumerate(data.ledger.pictures)}
    for name, chosen in style.PREDICTION_GRIDS.items():
        if result[chosen]:
            indices = np.array([places[each["sha256"]] for each in result[chosen]])
            prediction_grid(list(data.examples.pictures(indices)), result[chosen], folder / name)
    show_pictures(folder, session.folder.path / "tensorboard", steps)


def write(session: Session, result: Mapping[str, Any]) -> None:
    """Writes the report and the model card of a run, whose pictures are drawn.

    Args:
        session: of the run; its folder gets them.
        result: what `result.json` holds.
    """
    folder, pictures = session.folder, session.folder.file("pictures")
    write_model_card(result, folder.environment, folder.file("model_card.md"))
    write_report(result, folder.environment, pictures, folder.file("report.html"))
