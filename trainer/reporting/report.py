"""The reports of a run and of a comparison: one HTML page each, with its pictures inside and no
script.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from trainer.evaluation.summary import (
    BAD,
    GOOD,
    UNCLEAR,
    against_baseline,
    duration,
    names,
    percent,
)
from trainer.reporting import style
from trainer.reporting.model_card import example, model_card

if TYPE_CHECKING:
    from trainer.evaluation.suspects import Found, Suspect

_MOST_ROWS = 50
_VERDICTS = {
    GOOD: "it does better than",
    BAD: "it does worse than",
    UNCLEAR: "an exact test does not tell it apart from",
}


def write_report(
    result: Mapping[str, Any], environment: Mapping[str, str], pictures: Path, report: Path
) -> None:
    """Writes the report of a run; a picture that is not there is left out of it.

    Args:
        result: what `result.json` holds.
        environment: what `environment.json` holds.
        pictures: folder with the pictures that `trainer.reporting` drew.
        report: the HTML file to write.

    Raises:
        RunError: the file cannot be written; nothing is left behind.
    """
    counts = _counts(result["classes"], result["data"]["counts"])
    _write(
        "run.html",
        report,
        result=result,
        card=model_card(result, environment),
        example=example(result),
        verdict=_VERDICTS[against_baseline(result)[0]],
        figures=_figures(_words(result), pictures),
        counts=counts,
        totals=[sum(column) for column in zip(*(row for _, row in counts), strict=True)],
        recalls=_worst_first(result["test"]["per_class"]),
        most=_MOST_ROWS,
    )


def write_comparison(compared: Mapping[str, Any], pictures: Path, report: Path) -> None:
    """Writes the report of a comparison.

    Args:
        compared: what `compare.json` holds.
        pictures: folder with the PNG files that `trainer.reporting.charts` drew.
        report: the HTML file to write.

    Raises:
        RunError: the file cannot be written; nothing is left behind.
    """
    means = ", ".join(
        f"{name} {percent(found['test']['mean'])}" for name, found in compared["variants"].items()
    )
    words = {
        style.COMPARED_ACCURACIES: (
            f"Dot chart of test accuracy; means: {means}.",
            "Test accuracy, run by run",
        ),
        style.COMPARED_CURVES: (
            (
                "Two line charts by epoch: validation accuracy above validation loss, a line for"
                " each run."
            ),
            "How they learnt, a line for each seed",
        ),
        style.COMPARED_COSTS: (
            (
                "Mean test accuracy against milliseconds per picture; the same numbers stand in the"
                " table."
            ),
            "What accuracy costs: time per picture, and megabytes (the area of a mark)",
        ),
    }
    _write("comparison.html", report, compared=compared, figures=_figures(words, pictures))


def write_suspects(found: "Found", shown: "Sequence[Suspect]", listing: str, report: Path) -> None:
    """Writes the sheet of pictures whose labels look wrong.

    Args:
        found: all that were found.
        shown: those that the sheet shows, the worst first; at least one.
        listing: address of the file that lists the same pictures.
        report: the HTML file to write.

    Raises:
        RunError: the file cannot be written; nothing is left behind.
    """
    positions = np.array([suspect.position for suspect in shown], np.int64)
    tiles = []
    for suspect, pixels in zip(shown, found.data.examples.pictures(positions), strict=True):
        encoded = BytesIO()
        Image.fromarray(pixels).save(encoded, "JPEG", quality=style.JPEG_QUALITY)
        tiles.append((suspect, base64.b64encode(encoded.getvalue()).decode()))
    _write("suspects.html", report, found=found, tiles=tiles, listing=listing)


def _write(template: str, report: Path, **values: Any) -> None:
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(percent=percent, duration=duration)
    page = pages.get_template(template).render(**values)
    # A file name that is no UTF-8 reaches us as lone surrogates, which only an escape can show.
    style.write(report, page.encode("utf-8", "backslashreplace"))


def _words(result: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Alternative text and caption of each picture of a run."""
    last = {name: numbers[-1] for name, numbers in result["history"].items()}
    calibration, curves = result["calibration"], result["curves"]
    before, after = calibration["before"]["error"], calibration["after"]["error"]
    areas = (
        f"area {curves['roc']['area']:.4f} under ROC, {curves['precision_recall']['area']:.4f}"
        " under precision-recall"
        if curves["roc"]
        else ""
    )
    captions = (
        "Below each: a tick or a cross, the predicted class with its probability, the true class."
        " Beside each: the same picture, faded where the answer does not depend on it."
    )
    return {
        style.CLASS_ROWS: (
            f"Training pictures, a row for each class: {names(result['classes'])}.",
            "Training pictures of each class",
        ),
        style.LABEL_COUNTS: (
            (
                "Bar chart: pictures of each class in the training, validation and test splits; the"
                " same numbers stand in the table below."
            ),
            "Pictures of each class",
        ),
        style.AUGMENTATION: (
            (
                "One training picture, beside nine copies of it that are flipped at random, and"
                " nine that are turned."
            ),
            "One picture, and what each augmentation makes of it",
        ),
        style.TRAINING_CURVES: (
            (
                f"Two line charts by epoch. Accuracy ends at {percent(last['accuracy'])} in"
                f" training and {percent(last['validation_accuracy'])} in validation; loss at"
                f" {last['loss']:.3f} and {last['validation_loss']:.3f}. Epoch"
                f" {result['chosen_epoch']} was kept."
            ),
            "Accuracy and loss, epoch by epoch",
        ),
        style.CONFUSION: (
            (
                "Confusion matrix of the test pictures, a row for each true class; right answers"
                " stand on the diagonal."
            ),
            "Rows: what pictures show. Columns: what the model answered",
        ),
        style.THRESHOLDS: (
            f"Two line charts: ROC and precision-recall curves of {curves['of']}; {areas}.",
            f"How right and wrong answers change with the threshold: {curves['of']}",
        ),
        style.RELIABILITY: (
            (
                "Two charts of how often answers are right against how sure they are. The expected"
                f" calibration error is {percent(before)} before temperature scaling and"
                f" {percent(after)} after."
            ),
            (
                "On the dotted line, answers are right as often as they are sure. The larger a"
                " mark, the more pictures it stands for. Temperature"
                f" {calibration['temperature']:.2f}, from {calibration['fitted_on']:,} validation"
                " pictures"
            ),
        ),
        "prediction_grid.jpg": (
            f"Test pictures. {captions}",
            "Test pictures taken at random. Beside each: the parts that the answer depends on",
        ),
        "mistakes.jpg": (
            f"Test pictures that are wrong, the surest first. {captions}",
            "Wrong answers, the surest first",
        ),
        "least_certain.jpg": (
            f"Test pictures with the lowest probability. {captions}",
            "Answers with the lowest probability",
        ),
    }


def _figures(words: Mapping[str, tuple[str, str]], pictures: Path) -> dict[str, dict[str, Any]]:
    """Address, alternative text and caption of each picture that is there, by its name."""
    return {
        Path(name).stem: {
            "address": (
                f"data:image/{'png' if name.endswith('.png') else 'jpeg'};base64,"
                + base64.b64encode((pictures / name).read_bytes()).decode("ascii")
            ),
            "alt": alt,
            "caption": caption,
            "chart": name.endswith(".png"),
        }
        for name, (alt, caption) in words.items()
        if (pictures / name).is_file()
    }


def _counts(
    classes: Iterable[str], counts: Mapping[str, Mapping[str, int]]
) -> list[tuple[str, list[int]]]:
    """Each class with its pictures in each split and in all."""
    rows = [(label, [of_split.get(label, 0) for of_split in counts.values()]) for label in classes]
    return [(label, [*row, sum(row)]) for label, row in rows]


def _worst_first(per_class: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Classes in their own order; where there are more than fit, those with the lowest recall
    first.
    """
    rows = list(per_class.items())
    if len(rows) > _MOST_ROWS:
        rows.sort(key=lambda row: 2.0 if row[1]["recall"] is None else row[1]["recall"])
    return rows
