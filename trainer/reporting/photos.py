"""Photographs of a run and how many there are, as small PNG files, legible on a phone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.reporting import style
from trainer.reporting.style import Grid, and_more, figure_with_axes, shorten

PICTURES_PER_CLASS = 3
AUGMENTED_COPIES = 9


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
    shown, rest = (
        labels[: style.MOST_CLASSES],
        [totals[label] for label in labels[style.MOST_CLASSES :]],
    )
    majority = max(counts["train"], key=lambda label: counts["train"][label])

    figure, (axes,) = figure_with_axes(1.3 + 0.36 * len(shown), 1, 1)
    ends = np.zeros(len(shown))
    looks = ((style.BLUE, ""), (style.SKY, "///"), (style.VERMILION, ""))
    for (split, of_split), (color, hatch) in zip(counts.items(), looks, strict=True):
        numbers = np.array([of_split.get(label, 0) for label in shown])
        name = f"{split} {sum(of_split.values()):,}"
        axes.barh(
            range(len(shown)),
            numbers,
            0.66,
            ends,
            color=color,
            hatch=hatch,
            edgecolor="white",
            label=name,
        )
        ends += numbers
    for row, label in enumerate(shown):
        beside: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{totals[label]:,}", (ends[row], row), **beside, **style.text())
    axes.set_yticks(range(len(shown)), [shorten(label, 18) for label in shown], **style.text())
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.grid(visible=False)
    axes.xaxis.set_visible(False)
    below = [
        f"Baseline {baseline:.1%}: always answering “{shorten(majority, 16)}” (majority in train)"
    ]
    if rest:
        below.insert(
            0, f"{and_more(len(rest), 'classes')}, of {min(rest):,} to {max(rest):,} pictures"
        )
    figure.supxlabel("\n".join(below), x=0.01, ha="left", **style.text(9, style.GREY))
    look: dict[str, Any] = {
        "loc": "outside upper left",
        "ncols": len(counts),
        "frameon": False,
        "handlelength": 1.2,
    }
    figure.legend(**look, fontsize=9.5, labelcolor=style.INK)
    style.save(figure, path)


def augmentation_grid(
    original: np.ndarray, augmented: Mapping[str, Sequence[np.ndarray]], path: Path
) -> None:
    """Draws, for each augmentation, one picture as it is and nine copies that it made.

    Args:
        original: uint8 [H, W, 3].
        augmented: name of the augmentation -> its copies, uint8 [H, W, 3] each; from the tenth on
            they are left out.
        path: the PNG file to write.
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
    where it is wrong.

    Args:
        pictures: uint8 [H, W, 3] each.
        said: `label`, `predicted` and `probability` of each.
        path: the PNG file to write.
    """
    grid = Grid(-(-len(pictures) // 3), 3, below_in=0.44)
    for index, (picture, answer) in enumerate(zip(pictures, said, strict=True)):
        row, column = divmod(index, 3)
        right = answer["predicted"] == answer["label"]
        grid.picture(row, column, picture)
        first = f"{'✓' if right else '✗'} {shorten(answer['predicted'], 9)}"
        second = f"true: {shorten(answer['label'], 12)}"
        color = style.BLUE if right else style.VERMILION
        grid.caption(row, column, first, f"{answer['probability']:.0%}", second, color)
    grid.save(path)
