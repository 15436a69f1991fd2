"""The report of a run: one HTML file with its pictures inside, which loads nothing and needs no JavaScript."""

from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trainer.reporting import files


def write_report(result: Mapping[str, Any], environment: Mapping[str, str], pictures: Path, report: Path) -> None:
    """Writes the report; what has no picture in the folder `pictures` is left out.

    Args:
        result: every number that is shown: the content of result.json.
        environment: versions, commit, devices: name -> value.
        pictures: the folder with the pictures that `files` names.
        report: the HTML file to write; a reader finds the old one or the new one whole.

    Raises:
        RunError: the report cannot be written.
    """
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {"percent": _percent, "duration": _duration, "number": "{:,}".format}
    names = (files.CLASS_ROWS, files.LABEL_COUNTS, files.AUGMENTATION, files.TRAINING_CURVES, files.PREDICTION_GRID)
    embedded = {Path(name).stem: _data_uri(pictures / name) for name in names if (pictures / name).is_file()}
    html = page.get_template("template.html").render(result=result, environment=environment, pictures=embedded)
    # A file name that is no valid UTF-8 reaches here as lone surrogates.
    files.write(report, html.encode("utf-8", "backslashreplace"))


def _data_uri(picture: Path) -> str:
    return f"data:image/png;base64,{b64encode(picture.read_bytes()).decode()}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
