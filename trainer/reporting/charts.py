"""The charts of a run and of a comparison as small PNG files, legible on a phone and without
telling colours apart.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from trainer.reporting import style
from trainer.reporting.style import and_more, figure_with_axes, labels

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
    figure, (upper, lower) = figure_with_axes(4.6, 2, 1)
    for axes, name in ((upper, "accuracy"), (lower, "loss")):
        epochs = range(1, len(history[name]) + 1)
        look: dict[str, Any] = {"markersize": 4, "clip_on": False}
        axes.axvline(chosen_epoch, color=style.SKY, linewidth=5, alpha=0.45, label="epoch kept")
        axes.plot(epochs, history[name], "o--", color=style.VERMILION, label="training", **look)
        axes.plot(
            epochs,
            history[f"validation_{name}"],
            "s-",
            color=style.BLUE,
            label="validation",
            **look,
        )
        axes.set_title(name, loc="left", **style.text(11))
    constant = f"always answering the commonest class: {baseline:.1%}"
    upper.axhline(baseline, color=style.GREY, linestyle=":", label=constant)
    upper.yaxis.set_major_formatter(PercentFormatter(1.0))
    lower.set_ylim(bottom=0)
    _by_epoch(upper, lower)
    _legend(figure, upper, 2)
    style.save(figure, path)


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
    totals = np.array([[max(per_class[name]["n"], 1)] for name in shown])

    few = len(shown) <= 4
    figure, (axes,) = figure_with_axes(1.5 + (0.8 if few else 0.42) * len(shown), 1, 1)
    axes.imshow(counts / totals, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(counts.shape):
        color = "white" if counts[row, column] / totals[row, 0] > 0.5 else style.INK
        look = {"ha": "center", "va": "center", **style.text(14 if few else 9.5, color)}
        if counts[row, column] or few:
            axes.text(column, row, f"{counts[row, column]:,}", **look)
    names = list((labels(shown, 11, 3) if few else labels(shown, 16, 2)).values())
    axes.set_xticks(range(len(shown)), names, rotation=0 if few else 90, **style.text())
    axes.set_yticks(range(len(shown)), names, **style.text())
    axes.set_xlabel("answered", **style.text(9.5, style.GREY))
    axes.set_ylabel("true", **style.text(9.5, style.GREY))
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    if rest := and_more(len(per_class) - len(shown), "classes, confused less"):
        figure.supxlabel(rest, x=0.01, ha="left", **style.text(9, style.GREY))
    style.save(figure, path)


def threshold_curves(curves: Mapping[str, Any], path: Path) -> None:
    """Draws the ROC and the precision-recall curve beside one another.

    Args:
        curves: as `trainer.evaluation.calibration` gives them.
        path: the PNG file to write.
    """
    figure, both = figure_with_axes(2.85, 1, 2)
    axes_names = (
        ("roc", "false_positive_rate", "true_positive_rate"),
        ("precision_recall", "recall", "precision"),
    )
    for axes, (name, x, y) in zip(both, axes_names, strict=True):
        curve = curves[name]
        title = "ROC" if name == "roc" else "PR"
        axes.plot(curve[x], curve[y], color=style.BLUE, linewidth=2, clip_on=False)
        axes.fill_between(curve[x], curve[y], color=style.BLUE, alpha=0.12, linewidth=0)
        axes.set_title(f"{title}, area {curve['area']:.3f}", loc="left", **style.text(10))
        axes.set_xlabel(x.replace("_", " "), **style.text(9, style.GREY))
        axes.set_ylabel(y.replace("_", " "), **style.text(9, style.GREY))
        _unit_square(axes)
    both[0].plot([0, 1], [0, 1], ":", color=style.GREY)
    style.save(figure, path)


def reliability_diagram(calibration: Mapping[str, Any], path: Path) -> None:
    """Draws how often answers are right against how sure they are, before and after temperature
    scaling.

    Args:
        calibration: as `result.json` has it.
        path: the PNG file to write.
    """
    figure, both = figure_with_axes(2.95, 1, 2)
    for axes, moment, color in zip(
        both, ("before", "after"), (style.VERMILION, style.BLUE), strict=True
    ):
        bins = calibration[moment]["bins"]
        sure, right = [each["confidence"] for each in bins], [each["accuracy"] for each in bins]
        low, high = np.transpose([each["interval_95"] for each in bins])
        axes.plot([0, 1], [0, 1], ":", color=style.GREY)
        axes.vlines(sure, low, high, color=color, linewidth=1.5, alpha=0.6)
        axes.plot(sure, right, color=color, clip_on=False)
        # Round marks as large as the share of pictures that they stand for.
        areas = [20 + 180 * each["n"] / sum(every["n"] for every in bins) for each in bins]
        axes.scatter(sure, right, areas, color=color, clip_on=False, zorder=3)
        axes.set_title(
            f"{moment}: error {calibration[moment]['error']:.1%}", loc="left", **style.text(10)
        )
        axes.set_xlabel("how sure", **style.text(9, style.GREY))
        _unit_square(axes, bins[0]["low"] if bins[0]["low"] >= 0.5 else 0)
        axes.set_ylim(0, 1.03)
    both[0].set_ylabel("how often right", **style.text(9, style.GREY))
    style.save(figure, path)


def compared_accuracies(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draws each run's test accuracy with its interval, a row per variant.

    Args:
        runs: by variant, with `test`.
        path: the PNG file to write.
    """
    figure, (axes,) = figure_with_axes(0.8 + 0.6 * len(runs), 1, 1)
    for row, variant in enumerate(runs):
        places = row + 0.14 * (np.arange(len(runs[variant])) - (len(runs[variant]) - 1) / 2)
        low, high = np.transpose([run["test"]["interval_95"] for run in runs[variant]])
        colour, _ = _look(row)
        axes.hlines(places, low, high, color=colour, linewidth=2)
        axes.plot(
            [run["test"]["accuracy"] for run in runs[variant]],
            places,
            "o",
            color=colour,
            markersize=6,
        )
    axes.set_yticks(range(len(runs)), list(labels(runs, 20, 2).values()), **style.text(10))
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("test accuracy, each run with its 95 % interval", loc="left", **style.text(10))
    style.save(figure, path)


def compared_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draws validation accuracy above validation loss by epoch, every run of a variant in its look.

    Args:
        runs: by variant, with `history`.
        path: the PNG file to write.
    """
    figure, (upper, lower) = figure_with_axes(4.8, 2, 1)
    for place, (variant, of_variant) in enumerate(runs.items()):
        color, dashes = _look(place)
        for number, run in enumerate(of_variant):
            for axes, name in ((upper, "validation_accuracy"), (lower, "validation_loss")):
                values, label = run["history"][name], None if number else variant
                marker = "o" if len(values) == 1 else ""
                epochs = range(1, len(values) + 1)
                axes.plot(
                    epochs,
                    values,
                    dashes,
                    marker=marker,
                    color=color,
                    linewidth=1.6,
                    alpha=0.85,
                    label=label,
                )
    upper.set_title("validation accuracy", loc="left", **style.text(11))
    lower.set_title("validation loss", loc="left", **style.text(11))
    upper.yaxis.set_major_formatter(PercentFormatter(1.0))
    lower.set_ylim(bottom=0)
    _by_epoch(upper, lower)
    _legend(figure, upper, 4)
    style.save(figure, path)


def compared_costs(models: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws mean test accuracy against the milliseconds that a picture takes; the area of a mark is
    the size of the exported model.

    Args:
        models: by name, with `test`, `latency_ms` and `size_bytes`.
        path: the PNG file to write.
    """
    figure, (axes,) = figure_with_axes(3.2, 1, 1)
    names = labels(models, 20)
    for number, (name, found) in enumerate(models.items()):
        place = found["latency_ms"], found["test"]["mean"]
        megabytes = found["size_bytes"] / 1e6
        axes.scatter(*place, s=20 + 4 * megabytes, color=_look(number)[0], alpha=0.5, linewidths=0)
        axes.annotate(
            f"{names[name]}, {megabytes:.0f} MB",
            place,
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            **style.text(8),
        )
    axes.margins(0.25)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("milliseconds per picture, one at a time", **style.text(9, style.GREY))
    axes.set_title("test accuracy", loc="left", **style.text(11))
    style.save(figure, path)


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    look: dict[str, Any] = {
        "ncols": columns,
        "frameon": False,
        "fontsize": 9.5,
        "columnspacing": 1.0,
    }
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper left", handlelength=1.6, **look
    )


def _by_epoch(*axes: Axes) -> None:
    for each in axes:
        each.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    for each in axes[:-1]:
        each.tick_params(labelbottom=False)
    axes[-1].set_xlabel("epoch", **style.text())


def _unit_square(axes: Axes, left: float = 0.0) -> None:
    axes.set_xlim(left, 1)
    axes.set_ylim(0, 1.01)
    axes.set_xticks([left, (left + 1) / 2, 1])
    axes.tick_params(pad=7)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
