"""The pictures of a run as small PNG files, legible on a phone and without telling colours apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from trainer.reporting import style
from trainer.reporting.style import Grid, and_more, shorten

PICTURES_PER_CLASS = 3
AUGMENTED_COPIES = 9
MOST_PREDICTIONS = 12


def class_rows(pictures: Mapping[str, Sequence[np.ndarray]], path: Path) -> None:
    """Draws one row of three pictures for each of up to ten classes.

    Args:
        pictures: class -> its pictures, uint8 [H, W, 3]; from the fourth on they are left out.
        path: the PNG file to write.
    """
    shown = list(pictures)[: style.MOST_CLASSES]
    footer = and_more(len(pictures) - len(shown), "classes")
    grid = Grid(len(shown), PICTURES_PER_CLASS, above_in=0.34, footer=footer)
    for row, label in enumerate(shown):
        grid.tag(row, 0, shorten(label, 40) + ("" if len(pictures[label]) else ": no pictures"))
        for column, picture in enumerate(pictures[label][:PICTURES_PER_CLASS]):
            grid.picture(row, column, picture)
    grid.save(path)


def label_counts(counts: Mapping[str, Mapping[str, int]], baseline: float, path: Path) -> None:
    """Draws how many pictures each class has in each split, the largest classes first.

    Args:
        counts: split, "train" among them -> class -> number of pictures.
        baseline: accuracy of always answering the majority class of the training split, in [0, 1].
        path: the PNG file to write.
    """
    totals: dict[str, int] = {}
    for of_split in counts.values():
        for label, number in of_split.items():
            totals[label] = totals.get(label, 0) + number
    labels = sorted(totals, key=lambda label: -totals[label])
    shown, rest = labels[: style.MOST_CLASSES], [totals[label] for label in labels[style.MOST_CLASSES :]]
    majority = max(counts["train"], key=lambda label: counts["train"][label])

    figure = Figure(figsize=(style.WIDTH_IN, 1.3 + 0.36 * len(shown)), layout="constrained")
    axes = _axes(figure, 111)
    ends = np.zeros(len(shown))
    looks = ((style.BLUE, ""), (style.SKY, "///"), (style.VERMILION, ""))
    for (split, of_split), (color, hatch) in zip(counts.items(), looks, strict=True):
        numbers = np.array([of_split.get(label, 0) for label in shown])
        name = f"{split} {sum(of_split.values()):,}"
        axes.barh(range(len(shown)), numbers, 0.66, ends, color=color, hatch=hatch, edgecolor="white", label=name)
        ends += numbers
    for row, label in enumerate(shown):
        beside: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{totals[label]:,}", (ends[row], row), **beside, **style.text())
    axes.set_yticks(range(len(shown)), [shorten(label, 18) for label in shown], **style.text())
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.grid(visible=False)
    axes.xaxis.set_visible(False)
    below = [f"Baseline {baseline:.1%}: always answering “{shorten(majority, 16)}” (majority in train)"]
    if rest:
        below.insert(0, f"{and_more(len(rest), 'classes')}, of {min(rest):,} to {max(rest):,} pictures")
    figure.supxlabel("\n".join(below), x=0.01, ha="left", **style.text(9, style.GREY))
    look: dict[str, Any] = {"loc": "outside upper left", "ncols": len(counts), "frameon": False, "handlelength": 1.2}
    figure.legend(**look, fontsize=9.5, labelcolor=style.INK)
    style.save(figure, path)


def augmentation_grid(original: np.ndarray, augmented: Sequence[np.ndarray], path: Path) -> None:
    """Draws one picture as it is and nine augmented copies of it.

    Args:
        original: uint8 [H, W, 3].
        augmented: the copies, uint8 [H, W, 3] each; from the tenth on they are left out.
        path: the PNG file to write.
    """
    grid = Grid(3, 4)
    grid.picture(1, 0, original)
    grid.tag(1, 0, "original →")
    for index, picture in enumerate(augmented[:AUGMENTED_COPIES]):
        grid.picture(index // 3, 1 + index % 3, picture)
    grid.save(path)


def training_curves(history: Mapping[str, Sequence[float]], baseline: float, path: Path) -> None:
    """Draws accuracy above loss by epoch, training and validation on the same axes, and the baseline.

    Args:
        history: "accuracy", "loss", "validation_accuracy" and "validation_loss", one number an epoch.
        baseline: accuracy of always answering the majority class of the training split, in [0, 1].
        path: the PNG file to write.
    """
    figure = Figure(figsize=(style.WIDTH_IN, 4.6), layout="constrained")
    upper = _axes(figure, 211)
    lower = _axes(figure, 212, upper)
    for axes, name in ((upper, "accuracy"), (lower, "loss")):
        epochs = range(1, len(history[name]) + 1)
        look: dict[str, Any] = {"markersize": 4, "clip_on": False}
        axes.plot(epochs, history[name], "o--", color=style.VERMILION, label="training", **look)
        axes.plot(epochs, history[f"validation_{name}"], "s-", color=style.BLUE, label="validation", **look)
        axes.set_title(name, loc="left", **style.text(11))
    upper.axhline(baseline, color=style.GREY, linestyle=":", label=f"baseline {baseline:.1%}")
    upper.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    upper.tick_params(labelbottom=False)
    lower.set_ylim(bottom=0)
    lower.set_xlabel("epoch", **style.text())
    lower.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False, fontsize=9.5)
    style.save(figure, path)


def prediction_grid(
    pictures: Sequence[np.ndarray],
    true: Sequence[str],
    predicted: Sequence[str],
    probabilities: Sequence[float],
    path: Path,
) -> None:
    """Draws test pictures with what the model says: ✓ on blue where it is right, ✗ on vermilion where it is wrong.

    Args:
        pictures: uint8 [H, W, 3] each; from the thirteenth on they are counted, not drawn.
        true: the label of each picture.
        predicted: what the model says of each picture.
        probabilities: probability in [0, 1] of each predicted label.
        path: the PNG file to write.
    """
    shown = list(zip(pictures, true, predicted, probabilities, strict=True))[:MOST_PREDICTIONS]
    footer = and_more(len(pictures) - len(shown), "pictures")
    grid = Grid(-(-len(shown) // 3), 3, below_in=0.44, footer=footer)
    for index, (picture, label, answer, probability) in enumerate(shown):
        row, column = divmod(index, 3)
        right = answer == label
        grid.picture(row, column, picture)
        said = f"{'✓' if right else '✗'} {shorten(answer, 9)}"
        color = style.BLUE if right else style.VERMILION
        grid.caption(row, column, said, f"{probability:.0%}", f"true: {shorten(label, 12)}", color)
    grid.save(path)


def _axes(figure: Figure, place: int, beside: Axes | None = None) -> Axes:
    axes = figure.add_subplot(place, sharex=beside)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(style.FAINT)
    axes.tick_params(length=0, labelsize=9.5, labelcolor=style.GREY)
    axes.grid(color=style.FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes
