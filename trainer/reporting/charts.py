"""The charts of a run and of a comparison as small PNG files, legible on a phone and without
telling colours apart.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from trainer.reporting import style
from trainer.reporting.style import and_more, chart, labels

# Each model of a comparison is known by its colour and its dashes; sixteen of them differ.
_COLOURS, _DASHES = (style.GREY, style.VERMILION, style.GREEN, style.BLUE), (":", "-.", "--", "-")


def _look(number: int) -> tuple[str, str]:
    return _COLOURS[number % 4], _DASHES[(number + number // 4) % 4]


def training_curves(
    history: Mapping[str, Sequence[float]], baseline: float, chosen_epoch: int, path: Path
) -> None:
    """Draws accuracy above loss by epoch, training and validation on the same axes, the baseline,
    and the epoch kept.

    Args:
        history: "accuracy", "loss", "validation_accuracy" and "validation_loss", one number an
            epoch.
        baseline: accuracy of always answering the commonest class, in [0, 1].
        chosen_epoch: the one whose weights were kept, from 1.
        path: the PNG file to write.
    """
    with chart(path, 4.6, 2, 1) as both:
        for axes in both:
            axes.axvline(chosen_epoch, color=style.SKY, linewidth=5, alpha=0.45, label="epoch kept")
        for label, of, marks, color in (
            ("training", "", "o--", style.VERMILION),
            ("validation", "validation_", "s-", style.BLUE),
        ):
            _by_epoch(
                both, history, of, marks, label=label, color=color, markersize=4, clip_on=False
            )
        constant = f"always answering the commonest class: {baseline:.1%}"
        both[0].axhline(baseline, color=style.GREY, linestyle=":", label=constant)
        _accuracy_above_loss(both, "", 2)


def confusion_matrix(
    per_class: Mapping[str, Mapping[str, Any]], confused: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Draws the confusion matrix; of many classes, the ten that are confused most.

    Args:
        per_class: `n` and `correct` of each class.
        confused: cells beside the diagonal, as `true`, `predicted`, `n`, the largest first.
        path: the PNG file to write.
    """
    first = dict.fromkeys(name for cell in confused for name in (cell["true"], cell["predicted"]))
    chosen = list(first | dict.fromkeys(per_class))[: style.MOST_CLASSES]
    shown = [name for name in per_class if name in chosen]
    cells = {(name, name): per_class[name]["correct"] for name in shown}
    cells |= {(cell["true"], cell["predicted"]): cell["n"] for cell in confused}
    counts = np.array([[cells.get((true, said), 0) for said in shown] for true in shown])
    shares = counts / [[max(per_class[name]["n"], 1)] for name in shown]

    few = len(shown) <= 4
    side, size, width, lines, turned = (0.8, 14, 11, 3, 0) if few else (0.42, 9.5, 16, 2, 90)
    with chart(path, 1.5 + side * len(shown)) as (axes,):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), count in np.ndenumerate(counts):
            if count or few:
                color = "white" if shares[row, column] > 0.5 else style.INK
                axes.text(
                    column,
                    row,
                    f"{count:,}",
                    ha="center",
                    va="center",
                    fontsize=size,
                    color=color,
                )
        style.name_ticks(axes.xaxis, shown, width, lines, turned)
        style.name_ticks(axes.yaxis, shown, width, lines)
        axes.set(xlabel="answered", ylabel="true")
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        if rest := and_more(len(per_class) - len(shown), "classes, confused less"):
            style.footnote(axes, rest)


def threshold_curves(curves: Mapping[str, Any], path: Path) -> None:
    """Draws the ROC and the precision-recall curve beside one another.

    Args:
        curves: as `trainer.evaluation.calibration` gives them.
        path: the PNG file to write.
    """
    with chart(path, 2.85, 1, 2) as both:
        for axes, title, name, x, y in (
            (both[0], "ROC", "roc", "false_positive_rate", "true_positive_rate"),
            (both[1], "PR", "precision_recall", "recall", "precision"),
        ):
            curve = curves[name]
            axes.plot(curve[x], curve[y], color=style.BLUE, linewidth=2, clip_on=False)
            axes.fill_between(curve[x], curve[y], color=style.BLUE, alpha=0.12, linewidth=0)
            axes.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
            _unit_square(axes, f"{title}, area {curve['area']:.3f}")
        both[0].plot([0, 1], [0, 1], ":", color=style.GREY)


def reliability_diagram(calibration: Mapping[str, Any], path: Path) -> None:
    """Draws how often answers are right against how sure they are, before and after temperature
    scaling.

    Args:
        calibration: as `result.json` has it.
        path: the PNG file to write.
    """
    with chart(path, 2.95, 1, 2) as both:
        for axes, moment, color in zip(
            both, ("before", "after"), (style.VERMILION, style.BLUE), strict=True
        ):
            found = calibration[moment]
            names = ("low", "n", "confidence", "accuracy")
            left, n, sure, right = np.transpose(
                [[each[name] for name in names] for each in found["bins"]]
            )
            low, high = np.transpose([each["interval_95"] for each in found["bins"]])
            axes.plot([0, 1], [0, 1], ":", color=style.GREY)
            axes.vlines(sure, low, high, color=color, linewidth=1.5, alpha=0.6)
            axes.plot(sure, right, color=color, clip_on=False)
            # Round marks as large as the share of pictures that they stand for.
            areas = 20 + 180 * n / n.sum()
            axes.scatter(sure, right, areas, color=color, clip_on=False, zorder=3)
            axes.set(xlabel="how sure")
            title = f"{moment}: error {found['error']:.1%}"
            _unit_square(axes, title, left[0] if left[0] >= 0.5 else 0)
        both[0].set_ylabel("how often right")


def compared_accuracies(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draws each run's test accuracy with its interval, a row per variant.

    Args:
        runs: by variant, with `test`.
        path: the PNG file to write.
    """
    with chart(path, 0.8 + 0.6 * len(runs)) as (axes,):
        for row, of_variant in enumerate(runs.values()):
            places = row + 0.14 * (np.arange(len(of_variant)) - (len(of_variant) - 1) / 2)
            low, high = np.transpose([run["test"]["interval_95"] for run in of_variant])
            color, _ = _look(row)
            axes.hlines(places, low, high, color=color, linewidth=2)
            accuracies = [run["test"]["accuracy"] for run in of_variant]
            axes.plot(accuracies, places, "o", color=color, markersize=6)
        style.name_ticks(axes.yaxis, list(runs), 20, 2)
        axes.set_ylim(len(runs) - 0.5, -0.5)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_title("test accuracy, each run with its 95 % interval")


def compared_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draws validation accuracy above validation loss by epoch, every run of a variant in its look.

    Args:
        runs: by variant, with `history`.
        path: the PNG file to write.
    """
    with chart(path, 4.8, 2, 1) as both:
        for place, (variant, of_variant) in enumerate(runs.items()):
            color, dashes = _look(place)
            for number, run in enumerate(of_variant):
                history, label = run["history"], None if number else variant
                marks = dashes + "o" * (len(history["validation_loss"]) == 1)
                _by_epoch(
                    both,
                    history,
                    "validation_",
                    marks,
                    color=color,
                    label=label,
                    linewidth=1.6,
                    alpha=0.85,
                )
        _accuracy_above_loss(both, "validation ", 4)


def compared_costs(models: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws mean test accuracy against the milliseconds that a picture takes; the area of a mark is
    the size of the exported model.

    Args:
        models: by name, with `test`, `latency_ms` and `size_bytes`.
        path: the PNG file to write.
    """
    with chart(path, 3.2) as (axes,):
        names = labels(models, 20)
        for number, (name, found) in enumerate(models.items()):
            place = found["latency_ms"], found["test"]["mean"]
            megabytes = found["size_bytes"] / 1e6
            color, _ = _look(number)
            axes.scatter(*place, s=20 + 4 * megabytes, color=color, alpha=0.5, linewidths=0)
            label = f"{names[name]}, {megabytes:.0f} MB"
            axes.annotate(label, place, (0, 4), textcoords="offset points", ha="center", fontsize=8)
        axes.margins(0.25)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("milliseconds per picture, one at a time")
        axes.set_title("test accuracy")


def _by_epoch(
    both: Sequence[Axes], history: Mapping[str, Sequence[float]], of: str, marks: str, **look: Any
) -> None:
    """Draws a line of accuracy above one of loss."""
    for axes, name in zip(both, ("accuracy", "loss"), strict=True):
        values = history[of + name]
        axes.plot(range(1, len(values) + 1), values, marks, **look)


def _accuracy_above_loss(both: Sequence[Axes], of: str, columns: int) -> None:
    """Dresses accuracy above loss, by epoch; the legend has so many columns."""
    upper, lower = both
    upper.set(title=f"{of}accuracy")
    upper.tick_params(labelbottom=False)
    upper.yaxis.set_major_formatter(PercentFormatter(1.0))
    lower.set(title=f"{of}loss", xlabel="epoch")
    lower.set_ylim(bottom=0)
    for axes in both:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    handles = upper.get_legend_handles_labels()
    upper.figure.legend(*handles, loc="outside upper left", ncols=columns)


def _unit_square(axes: Axes, title: str, left: float = 0.0) -> None:
    axes.set(title=title, xlim=(left, 1), ylim=(0, 1.02), xticks=[left, (left + 1) / 2, 1])
    axes.tick_params(pad=7)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:.0%}")
