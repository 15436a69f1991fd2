"""Reports of a run, a comparison, and labels that look wrong, and the model card: whole pages, no
script.
"""

import base64
import html
import re
from collections.abc import Mapping, Sequence
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
    value,
)
from trainer.reporting import style
from trainer.variants import VARIANTS

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
    classes, by_split = result["classes"], result["data"]["counts"].values()
    counts = np.array([[counted.get(label, 0) for counted in by_split] for label in classes])
    counts = np.column_stack([counts, counts.sum(axis=1)])
    recalls = list(result["test"]["per_class"].items())
    if len(recalls) > _MOST_ROWS:
        # The worst first; of those without pictures nobody knows.
        recalls.sort(key=lambda row: row[1]["recall"] if row[1]["n"] else 2)
    _write(
        "run.html",
        report,
        **_card(result, environment),
        verdict=_VERDICTS[against_baseline(result)[0]],
        pictures=_pictures(pictures),
        counts=list(zip(classes, counts, strict=True)),
        totals=counts.sum(axis=0),
        recalls=recalls,
        most=_MOST_ROWS,
    )


def write_model_card(result: Mapping[str, Any], environment: Mapping[str, str], path: Path) -> None:
    """Writes the model card of a run, which its report holds too, as Markdown; arguments and errors
    as `write_report` has them.
    """
    _write("model_card.jinja", path, **_card(result, environment))


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
    _write("comparison.html", report, compared=compared, means=means, pictures=_pictures(pictures))


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
        tiles.append((suspect, _address("jpeg", encoded.getvalue())))
    _write("suspects.html", report, found=found, tiles=tiles, listing=listing)


def _write(template: str, file: Path, **values: Any) -> None:
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(
        percent=percent, duration=duration, names=names, value=value, markdown=_markdown
    )
    page = pages.get_template(template).render(**values)
    # A file name that is no UTF-8 reaches us as lone surrogates, which only an escape can show.
    style.write(file, page.encode("utf-8", "backslashreplace"))


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]#|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _card(result: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """What the model card shows."""
    return {
        "result": result,
        "environment": environment,
        "has_backbone": VARIANTS[result["variant"]].backbone,
        # Python lines that ask the model; an unpublished one is found in its run folder.
        "example": (
            "import tensorflow as tf\n\n"
            f"model = tf.saved_model.load({result['model_path'] or 'export'!r})\n"
            'with open("picture.jpg", "rb") as picture:\n'
            '    answer = model.signatures["serving_default"]'
            "(image_bytes=tf.constant([picture.read()]))\n"
            'print(answer["label"].numpy()[0].decode(), float(answer["probability"][0]))'
        ),
    }


def _pictures(folder: Path) -> dict[str, str]:
    """The pictures of a folder as addresses that hold them whole, by their names."""
    kinds = {".png": "png", ".jpg": "jpeg"}
    return {
        path.stem: _address(kinds[path.suffix], path.read_bytes())
        for path in folder.glob("*")
        if path.suffix in kinds
    }


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
