"""The report of a run: one HTML page that opens anywhere, with its pictures inside and no script."""

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trainer.reporting import files

_MOST_ROWS = 50
_MOST_NAMES = 10


def write_report(result: Mapping[str, Any], environment: Mapping[str, str], pictures: Path, report: Path) -> None:
    """Writes the report; a picture that is not there is left out of it.

    Args:
        result: what `result.json` holds.
        environment: what `environment.json` holds.
        pictures: folder with the PNG files that `trainer.reporting.plots` drew.
        report: the HTML file to write.

    Raises:
        RunError: the file cannot be written; nothing is left behind.
    """
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(percent=_percent, duration=_duration, value=_value)
    counts = _counts(result["classes"], result["data"]["counts"])
    page = pages.get_template("template.html").render(
        result=result,
        environment=environment,
        verdict=_verdict(result["test"], result["baseline_accuracy"]),
        figures=_figures(result, pictures),
        counts=counts,
        totals=[sum(column) for column in zip(*(row for _, row in counts), strict=True)],
        recalls=_worst_first(result["test"]["per_class"]),
        most=_MOST_ROWS,
    )
    # A file name that is no UTF-8 reaches us as lone surrogates, which only an escape can show.
    files.write(report, page.encode("utf-8", "backslashreplace"))


def _figures(result: Mapping[str, Any], pictures: Path) -> dict[str, dict[str, str]]:
    """Address, alternative text and caption of each picture that is there, by its name."""
    last = {name: numbers[-1] for name, numbers in result["history"].items()}
    words = {
        files.CLASS_ROWS: (
            f"Training pictures, a row for each class: {_names(result['classes'])}.",
            "What the model learns from",
        ),
        files.LABEL_COUNTS: (
            "Bar chart: pictures of each class in the training, validation and test splits; the same numbers "
            "stand in the table below.",
            "Pictures of each class",
        ),
        files.AUGMENTATION: (
            "One training picture as it is, beside nine copies of it that are flipped and turned at random.",
            "One picture, and what training makes of it: each epoch sees another copy",
        ),
        files.TRAINING_CURVES: (
            f"Two line charts by epoch. Accuracy ends at {_percent(last['accuracy'])} in training and "
            f"{_percent(last['validation_accuracy'])} in validation; loss at {last['loss']:.3f} and "
            f"{last['validation_loss']:.3f}.",
            "Accuracy and loss, epoch by epoch",
        ),
        "prediction_grid.png": (
            "Test pictures. Below each: a tick or a cross, the predicted class with its probability, the true class.",
            "Test pictures, taken at random, and what the model says of them",
        ),
    }
    return {
        name.removesuffix(".png"): {
            "address": "data:image/png;base64," + base64.b64encode((pictures / name).read_bytes()).decode("ascii"),
            "alt": alt,
            "caption": caption,
        }
        for name, (alt, caption) in words.items()
        if (pictures / name).is_file()
    }


def _names(classes: Iterable[str]) -> str:
    names = list(classes)
    more = f"; {len(names) - _MOST_NAMES:,} more classes are not shown" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _verdict(test: Mapping[str, Any], baseline: float) -> str:
    low, high = test["interval_95"]
    if low > baseline:
        return "it does better than"
    return "it does worse than" if high < baseline else "the 95 % interval does not tell it apart from"


def _counts(classes: Iterable[str], counts: Mapping[str, Mapping[str, int]]) -> list[tuple[str, list[int]]]:
    """Each class with its pictures in each split and in all."""
    rows = [(label, [of_split.get(label, 0) for of_split in counts.values()]) for label in classes]
    return [(label, [*row, sum(row)]) for label, row in rows]


def _worst_first(per_class: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Classes in their own order; where there are more than fit, those with the lowest recall first."""
    rows = list(per_class.items())
    if len(rows) > _MOST_ROWS:
        rows.sort(key=lambda row: 2.0 if row[1]["recall"] is None else row[1]["recall"])
    return rows


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", "\N{NARROW NO-BREAK SPACE}%")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _value(setting: object) -> str:
    """A setting as it is typed after its flag."""
    return str(setting).lower() if isinstance(setting, bool) else str(setting)
