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
    with chart(path, 4.6, 2, 1) as (upper, lower):
        for axes, name in ((upper, "accuracy"), (lower, "loss")):
            axes.axvline(chosen_epoch, color=style.SKY, linewidth=5, alpha=0.45, label="epoch kept")
            for values, marks, color, label in (
                (history[name], "o--", style.VERMILION, "training"),
                (history[f"validation_{name}"], "s-", style.BLUE, "validation"),
            ):
                epochs = range(1, len(values) + 1)
                axes.plot(
                    epochs, values, marks, color=color, label=label, markersize=4, clip_on=False
                )
        constant = f"always answering the commonest class: {baseline:.1%}"
        upper.axhline(baseline, color=style.GREY, linestyle=":", label=constant)
        _by_epoch(upper, lower, "", 2)


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
    with chart(path, 1.5 + (0.8 if few else 0.42) * len(shown)) as (axes,):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row, column in np.ndindex(counts.shape):
            color = "white" if shares[row, column] > 0.5 else style.INK
            if counts[row, column] or few:
                axes.text(
                    column,
                    row,
                    f"{counts[row, column]:,}",
                    ha="center",
                    va="center",
                    fontsize=14 if few else 9.5,
                    color=color,
                )
        names = list((labels(shown, 11, 3) if few else labels(shown, 16, 2)).values())
        axes.set_xticks(range(len(shown)), names, rotation=0 if few else 90, color=style.INK)
        axes.set_yticks(range(len(shown)), names, color=style.INK)
        axes.set_xlabel("answered", fontsize=9.5)
        axes.set_ylabel("true", fontsize=9.5)
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
            axes.set_title(f"{title}, area {curve['area']:.3f}")
            _unit_square(axes)
        both[0].plot([0, 1], [0, 1], ":", color=style.GREY)


def reliability_diagram(calibration: Mapping[str, Any], path: Path) -> None:
    """Draws how often answers are right against how sure they are, before and after temperature
    scaling.

    Args:
        calibration: as `result.json` has it.
        path: the PNG file to write.
    """
    with chart(path, 2.95, 1, 2) as both:
        for axes, moment, color in (
            (both[0], "before", style.VERMILION),
            (both[1], "after", style.BLUE),
        ):
            bins = calibration[moment]["bins"]
            sure, right, n = np.transpose(
                [[each[name] for name in ("confidence", "accuracy", "n")] for each in bins]
            )
            low, high = np.transpose([each["interval_95"] for each in bins])
            axes.plot([0, 1], [0, 1], ":", color=style.GREY)
            axes.vlines(sure, low, high, color=color, linewidth=1.5, alpha=0.6)
            axes.plot(sure, right, color=color, clip_on=False)
            # Round marks as large as the share of pictures that they stand for.
            areas = 20 + 180 * n / n.sum()
            axes.scatter(sure, right, areas, color=color, clip_on=False, zorder=3)
            axes.set_title(f"{moment}: error {calibration[moment]['error']:.1%}")
            _unit_square(axes, bins[0]["low"] if bins[0]["low"] >= 0.5 else 0)
            axes.set(xlabel="how sure", ylim=(0, 1.03))
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
        names = list(labels(runs, 20, 2).values())
        axes.set_yticks(range(len(runs)), names, fontsize=10, color=style.INK)
        axes.set_ylim(len(runs) - 0.5, -0.5)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_title("test accuracy, each run with its 95 % interval")


def compared_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draws validation accuracy above validation loss by epoch, every run of a variant in its look.

    Args:
        runs: by variant, with `history`.
        path: the PNG file to write.
    """
    with chart(path, 4.8, 2, 1) as (upper, lower):
        for place, (variant, of_variant) in enumerate(runs.items()):
            color, dashes = _look(place)
            for number, run in enumerate(of_variant):
                for axes, name in ((upper, "validation_accuracy"), (lower, "validation_loss")):
                    values = run["history"][name]
                    axes.plot(
                        range(1, len(values) + 1),
                        values,
                        dashes,
                        marker="o" if len(values) == 1 else "",
                        color=color,
                        linewidth=1.6,
                        alpha=0.85,
                        label=None if number else variant,
                    )
        _by_epoch(upper, lower, "validation ", 4)


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
            axes.annotate(
                f"{names[name]}, {megabytes:.0f} MB",
                place,
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axes.margins(0.25)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("milliseconds per picture, one at a time")
        axes.set_title("test accuracy", fontsize=11)


def _by_epoch(upper: Axes, lower: Axes, of: str, columns: int) -> None:
    """Dresses accuracy above loss, by epoch; the legend has so many columns."""
    upper.set_title(f"{of}accuracy", fontsize=11)
    lower.set_title(f"{of}loss", fontsize=11)
    upper.yaxis.set_major_formatter(PercentFormatter(1.0))
    lower.set_ylim(bottom=0)
    for each in (upper, lower):
        each.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("epoch", fontsize=9.5, color=style.INK)
    handles = upper.get_legend_handles_labels()
    upper.figure.legend(*handles, loc="outside upper left", ncols=columns)


def _unit_square(axes: Axes, left: float = 0.0) -> None:
    axes.set(xlim=(left, 1), ylim=(0, 1.01), xticks=[left, (left + 1) / 2, 1])
    axes.tick_params(pad=7)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:.0%}")
