"""Reporting: the pictures, the HTML page and the model card of a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainer.config import Config
from trainer.data.dataset import Dataset
from trainer.data.ledger import commonest_class
from trainer.evaluation.judge import SHOWN, listed_pictures
from trainer.reporting import charts, style, write_model_card, write_report
from trainer.reporting.style import Caption, Photographs, and_more, chart, labels
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
    sheet = Photographs(PICTURES_PER_CLASS)
    for name, label in labels(shown, 40).items():
        sheet.tag(label + ("" if len(pictures[name]) else ": no pictures"))
        sheet.pictures(pictures[name][:PICTURES_PER_CLASS])
    if rest := and_more(len(pictures) - len(shown), "classes"):
        sheet.tag(rest)
    sheet.save(path)


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
    shown, rest = ordered[: style.MOST_CLASSES], ordered[style.MOST_CLASSES :]
    commonest = commonest_class(counts["train"])
    below = (
        f"always answering the commonest class, {labels([commonest], 22)[commonest]}:"
        f" {baseline:.1%}"
    )
    if rest:
        more = and_more(len(rest), "classes")
        below = f"{more}, of {totals[rest[-1]]:,} to {totals[rest[0]]:,} pictures\n{below}"

    with chart(path, 1.3 + 0.36 * len(shown)) as (axes,):
        ends = np.zeros(len(shown))
        looks = ((style.BLUE, ""), (style.SKY, "///"), (style.VERMILION, ""))
        for (split, of_split), (color, hatch) in zip(counts.items(), looks, strict=True):
            numbers = [of_split.get(label, 0) for label in shown]
            bars = axes.barh(
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
        axes.bar_label(bars, [f"{end:,.0f}" for end in ends], padding=4)
        style.name_ticks(axes.yaxis, shown, 18, 2)
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.grid(visible=False)
        axes.xaxis.set_visible(False)
        style.footnote(axes, below)
        axes.figure.legend(loc="outside upper left", ncols=len(counts), labelcolor=style.INK)


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
    sheet = Photographs(5)
    for name, copies in augmented.items():
        sheet.tag(f"the picture, then {name}")
        sheet.pictures([original, *copies[:AUGMENTED_COPIES]])
    sheet.save(path)


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
    tiles, captions = [], []
    for picture, answer in zip(pictures, said, strict=True):
        tiles += [picture, _faded(picture, answer)]
        mark, color = "✗", style.VERMILION
        if answer["predicted"] == answer["label"]:
            mark, color = "✓", style.BLUE
        first, second = names[answer["predicted"]], names[answer["label"]]
        sure = f"{answer['probability']:.0%}"
        captions.append(Caption(f"{mark} {first}", sure, f"true: {second}", color))
    sheet = Photographs(4)
    sheet.pictures(tiles, captions)
    sheet.save(path)


def _faded(picture: np.ndarray, answer: Mapping[str, Any]) -> np.ndarray:
    """A picture that is faded but for the parts that are important for the answer."""
    importance = np.array(answer["importance"], np.float32).clip(0)
    found = Image.fromarray(importance).resize(picture.shape[1::-1], Image.Resampling.BICUBIC)
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
        chosen = generator.permutation(train[labels == number])[:PICTURES_PER_CLASS]
        shown[name] = list(examples.pictures(chosen))
    class_rows(shown, folder / "class_rows.jpg")
    label_counts(ledger.counts(), ledger.baseline_accuracy(), folder / "label_counts.png")
    # Features of untouched pictures alone see no augmentation.
    if VARIANTS[config.variant].augmented and (
        config.feature_views != 1 or config.fine_tune_epochs
    ):
        original = examples.pictures(generator.choice(train, 1))
        batch = np.repeat(original, AUGMENTED_COPIES, axis=0).astype(np.float32)
        augmented = {}
        for layer in augmentation_layers(config.seed, config.augmentation):
            copies = layer(batch, training=True).numpy()
            augmented[_DONE_BY[layer.name]] = copies.round().clip(0, 255).astype(np.uint8)
        augmentation_grid(original[0], augmented, folder / "augmentation.jpg")
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
    test, baseline, kept = result["test"], result["baseline_accuracy"], result["chosen_epoch"]
    charts.training_curves(result["history"], baseline, kept, folder / "training_curves.png")
    charts.confusion_matrix(test["per_class"], test["confused"], folder / "confusion.png")
    if result["curves"]["roc"]:
        charts.threshold_curves(result["curves"], folder / "thresholds.png")
    charts.reliability_diagram(result["calibration"], folder / "reliability.png")
    for name in SHOWN:
        if said := result[name]:
            file = "prediction_grid" if name == "at_random" else name
            pictures = list(listed_pictures(data, said))
            prediction_grid(pictures, said, folder / f"{file}.jpg")
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
