"""Predictions as text: an aligned table for people, JSON lines and CSV for programs; nothing is
held back in memory.

A format is a function of a stream and of how many classes to show. It gives a function that is
called with every picture's path and outcome and writes at most one line (and, before the first, a
heading).
"""

import csv
import json
from collections.abc import Callable, Mapping
from itertools import chain
from typing import TextIO

from serving.client.errors import ClientError
from serving.client.prediction import Prediction

Write = Callable[[str, Prediction | ClientError], None]


def _table(stream: TextIO, top: int | None) -> Write:
    """Aligns its columns by the class names of the first prediction; failed pictures get no
    line.
    """
    titles: list[str] = []
    widths: list[int] = []

    def write(path: str, outcome: Prediction | ClientError) -> None:
        if isinstance(outcome, ClientError):
            return
        best = _best(outcome, top or 1)
        if not titles:
            titles.extend(_titles(len(best)))
            longest = max(map(len, outcome.probabilities))
            widths.extend(max(len(title), longest * title.startswith("label")) for title in titles)
            heading = "  ".join(
                f"{title:<{width}}" for title, width in zip(titles, widths, strict=True)
            )
            print(f"{heading}  version  path", file=stream)
        cells = (
            f"{cell:<{width}}" if isinstance(cell, str) else f"{cell:>{width}.4f}"
            for cell, width in zip(chain.from_iterable(best), widths, strict=False)
        )
        print(f"{'  '.join(cells)}  {outcome.model_version:>7}  {path}", file=stream)

    return write


def _json(stream: TextIO, top: int | None) -> Write:
    def write(path: str, outcome: Prediction | ClientError) -> None:
        line: dict[str, object] = {"path": path}
        if isinstance(outcome, ClientError):
            line["error"] = str(outcome)
        else:
            line |= {
                "label": outcome.label,
                "probability": outcome.probability,
                "probabilities": dict(_best(outcome, top)) if top else outcome.probabilities,
                "model_version": outcome.model_version,
            }
        print(json.dumps(line), file=stream)

    return write


def _csv(stream: TextIO, top: int | None) -> Write:
    # A model with fewer classes than `top` leaves cells empty.
    writer = csv.DictWriter(stream, csv_titles(top), restval="", lineterminator="\n")
    writer.writeheader()

    def write(path: str, outcome: Prediction | ClientError) -> None:
        row: dict[str, object] = {"path": path}
        if isinstance(outcome, ClientError):
            row["error"] = outcome
        else:
            best = _best(outcome, top or 1)
            row |= zip(_titles(len(best)), chain.from_iterable(best), strict=True)
            row["model_version"] = outcome.model_version
        writer.writerow(row)

    return write


FORMATS: Mapping[str, Callable[[TextIO, int | None], Write]] = {
    "table": _table,
    "json": _json,
    "csv": _csv,
}


def csv_titles(top: int | None) -> list[str]:
    """Gives the columns of CSV with so many classes; the first is the path, and the last the
    error.
    """
    return ["path", *_titles(top or 1), "model_version", "error"]


def _best(prediction: Prediction, count: int) -> list[tuple[str, float]]:
    if count == 1:
        return [(prediction.label, prediction.probability)]
    return sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:count]


def _titles(count: int) -> list[str]:
    titles = ["label", "probability"]
    for rank in range(2, count + 1):
        titles += [f"label_{rank}", f"probability_{rank}"]
    return titles
