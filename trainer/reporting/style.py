"""What the pictures share: colours, type, labels that fit, a bound on bytes, and a grid of
photographs.
"""

import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from trainer.errors import RunError
from whisker_ml import files

# Okabe and Ito, "Color Universal Design" (2008): told apart in every common form of colour
# blindness. Vermilion and green are darker than theirs, so that white text on them has the contrast
# of 4.5 that WCAG 2 asks for.
BLUE, VERMILION, SKY, GREEN = "#0072B2", "#C45500", "#56B4E9", "#007A5A"
INK, GREY, FAINT = "#1f2328", "#59636e", "#d8dee4"

WIDTH_IN = 5.0  # A phone shows the picture 360 CSS pixels wide: one point is then one CSS pixel.
MOST_CLASSES = 10
# Five grids of photographs and five charts of these sizes, as base64, leave the report below 5 MB.
MOST_BYTES, MOST_CHART_BYTES = 550_000, 110_000

JPEG_QUALITY = 85

_GAP_IN = 0.08
_FOOTER_IN = 0.3
_ROUNDING_IN = 0.05
_FONT = "DejaVu Sans"  # Comes with Matplotlib: every machine draws the same.

_WHITE: dict[str, Any] = {"color": "white", "family": _FONT, "parse_math": False}
# How a chart is drawn where nothing else is said.
_LOOK = {
    "font.family": _FONT,
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # A label such as "$5" is a label, not a formula.
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": GREY,
    "axes.labelsize": 9,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "legend.columnspacing": 1.0,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.labelcolor": "black",
    "xtick.labelcolor": GREY,
    "xtick.labelsize": 9.5,
    "xtick.major.size": 0,
    "ytick.labelcolor": GREY,
    "ytick.labelsize": 9.5,
    "ytick.major.size": 0,
}


@cache
def _drawable() -> frozenset[int]:
    return frozenset(get_font(findfont(_FONT)).get_charmap())


def labels(names: Iterable[str], width: int, lines: int = 1) -> dict[str, str]:
    """Returns how a picture writes its class names, so that different ones look different.

    Args:
        names: of all classes in the picture.
        width: characters in a line, at most.
        lines: of a label, at most.

    Returns:
        Labels by name: what the font cannot draw is escaped, and what is too long is left out in
        the middle; or at the beginning, where names would look the same otherwise.
    """
    drawn = {
        name: "".join(
            character
            if ord(character) in _drawable()
            else character.encode("unicode_escape").decode("ascii")
            for character in name
        )
        for name in names
    }
    fitted = _fit_apart(dict.fromkeys(drawn.values()), 0, width, lines)
    apart: dict[str, str] = {}
    for name, label in drawn.items():
        # A number where only blanks differ, or where what is left is another's too.
        number = f"{len(apart) + 1} " if fitted[label] in apart.values() else ""
        apart[name] = number + fitted[label]
    return apart


def _fit_apart(labels: Iterable[str], start: int, width: int, lines: int) -> dict[str, str]:
    """Fits labels, which are the same before `start`; those that look the same once more, from
    where they differ.
    """
    same: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        same[_fit("…" * bool(start) + label[start:], width, lines)].append(label)
    fitted: dict[str, str] = {}
    for shown, group in same.items():
        places = enumerate(zip_longest(*group))
        differ = next((place for place, each in places if len(set(each)) > 1), 0)
        if differ > start and "…" in shown:
            fitted |= _fit_apart(group, differ, width, lines)
        else:
            fitted |= dict.fromkeys(group, shown)
    return fitted


def _fit(label: str, width: int, lines: int) -> str:
    """Breaks a label at blanks, hyphens and underscores, and leaves out as little as has to be."""
    for most in range(width * lines, 0, -1):
        short = label
        if len(label) > most:
            short = f"{label[: most // 2]}…{label[len(label) - (most - 1) // 2 :]}"
        broken = textwrap.wrap(re.sub("_(?=[^_])", "_ ", short), width)
        if len(broken) <= lines:
            break
    return "\n".join(broken).replace("_ ", "_")


def and_more(count: int, what: str) -> str:
    """Returns what a picture says in place of the `count` things that it leaves out; "" where there
    are none.
    """
    return f"and {count:,} more {what}" if count > 0 else ""


def save(figure: Figure, path: Path) -> None:
    """Writes a figure, a chart as PNG and photographs as JPEG (.jpg), at the finest resolution that
    keeps it small enough.
    """
    form, most = ("JPEG", MOST_BYTES) if path.suffix == ".jpg" else ("PNG", MOST_CHART_BYTES)
    canvas = FigureCanvasAgg(figure)
    figure.set_facecolor("white")
    for dots_per_inch in (200, 160, 130, 100, 70):
        figure.set_dpi(dots_per_inch)
        canvas.draw()
        image, encoded = Image.fromarray(np.asarray(canvas.buffer_rgba())), BytesIO()
        image.convert("RGB").save(encoded, form, optimize=True, quality=JPEG_QUALITY)
        if encoded.tell() <= most:
            break
    write(path, encoded.getvalue())


@contextmanager
def chart(path: Path, height_in: float, rows: int = 1, columns: int = 1) -> Iterator[list[Axes]]:
    """Gives the quiet axes, row by row, of a chart of that height in inches, which is drawn in the
    `with` block; then writes it as a PNG file.
    """
    with rc_context(_LOOK):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        yield list(figure.subplots(rows, columns, squeeze=False).flat)
        save(figure, path)


def footnote(axes: Axes, words: str) -> None:
    """Writes words below a chart."""
    axes.figure.supxlabel(words, x=0.01, ha="left", fontsize=9, color=GREY)


class Grid:
    """Photographs in square tiles with tags and captions, counted from the top left.

    Args:
        rows: number of rows, at least 1.
        columns: number of columns.
        above_in: room in inches for a tag above the tiles of a row.
        above_every: of how many rows one has that room, the first among them.
        below_in: room in inches for a caption below each tile.
        footer: a line below the grid; "" for none.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        *,
        above_in: float = 0.0,
        above_every: int = 1,
        below_in: float = 0.0,
        footer: str = "",
    ) -> None:
        self._tile_in = (WIDTH_IN + _GAP_IN) / columns - _GAP_IN
        self._below_in, self._row_in = below_in, self._tile_in + below_in + _GAP_IN
        self._above_in, self._above_every = above_in, above_every
        bottom_in = self._corner(rows - 1, 0)[1] + self._row_in - _GAP_IN
        self._height_in = bottom_in + (_FOOTER_IN if footer else 0)
        # One for all tiles, in inches from the top left: axes of their own take six times as long.
        self._figure = Figure(figsize=(WIDTH_IN, self._height_in))
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set(xlim=(0, WIDTH_IN), ylim=(self._height_in, 0), autoscale_on=False)
        self._axes.set_axis_off()
        if footer:
            self._label(0.0, self._height_in - 0.5 * _FOOTER_IN, footer)

    def _corner(self, row: int, column: int) -> tuple[float, float]:
        """Inches from the top left of the grid to that of a tile."""
        top = row * self._row_in + (row // self._above_every + 1) * self._above_in
        return column * (self._tile_in + _GAP_IN), top

    def picture(self, row: int, column: int, pixels: np.ndarray) -> None:
        """Draws one picture, uint8 [H, W, 3], with round corners."""
        left, top = self._corner(row, column)
        extent = (left, left + self._tile_in, top + self._tile_in, top)
        self._axes.imshow(pixels, extent=extent, aspect="auto").set_clip_path(
            self._rounded(left, top, self._tile_in, self._tile_in)
        )

    def _rounded(self, left: float, top: float, width: float, height: float) -> FancyBboxPatch:
        corners = f"round,pad=0,rounding_size={_ROUNDING_IN}"
        box = FancyBboxPatch((left, top), width, height, boxstyle=corners, linewidth=0)
        box.set_transform(self._axes.transData)
        return box

    def tag(self, row: int, column: int, words: str) -> None:
        """Writes words on a dark label above a tile."""
        left, top = self._corner(row, column)
        self._label(left, top - 0.18, words)

    def _label(self, left: float, middle: float, words: str) -> None:
        paper = {
            "boxstyle": "round,pad=0.35,rounding_size=0.3",
            "facecolor": INK,
            "edgecolor": "none",
        }
        self._axes.text(left + 0.05, middle, words, va="center", fontsize=9.5, bbox=paper, **_WHITE)

    def caption(
        self, row: int, column: int, first: str, beside: str, second: str, color: str
    ) -> None:
        """Writes two texts in white on a strip of `color` below two tiles; `beside` ends the first
        line.
        """
        left, top = self._corner(row, column)
        top, height = top + self._tile_in + 0.03, self._below_in - 0.03
        width = 2 * self._tile_in + _GAP_IN
        box = self._rounded(left, top, width, height)
        box.set_color(color)
        self._axes.add_patch(box)
        margin = 0.05 * width
        left, right, low = left + margin, left + width - margin, top + height - 0.05
        self._axes.text(left, top + 0.05, first, va="top", fontsize=9, fontweight="bold", **_WHITE)
        self._axes.text(right, top + 0.05, beside, va="top", ha="right", fontsize=9, **_WHITE)
        self._axes.text(left, low, second, va="bottom", fontsize=9, **_WHITE)

    def save(self, path: Path) -> None:
        """Writes the grid as a JPEG file."""
        save(self._figure, path)


# The files that a report is made of: their names, and how one is written.

CLASS_ROWS = "class_rows.jpg"
LABEL_COUNTS = "label_counts.png"
AUGMENTATION = "augmentation.jpg"
TRAINING_CURVES = "training_curves.png"
CONFUSION = "confusion.png"
THRESHOLDS = "thresholds.png"
RELIABILITY = "reliability.png"
COMPARED_ACCURACIES = "compared_accuracies.png"
COMPARED_CURVES = "compared_curves.png"
COMPARED_COSTS = "compared_costs.png"
# What of `result.json` each of them shows.
PREDICTION_GRIDS = {
    "prediction_grid.jpg": "at_random",
    "mistakes.jpg": "mistakes",
    "least_certain.jpg": "least_certain",
}


def write(path: Path, content: bytes) -> None:
    """Writes a file so that a reader finds the old one or the new one whole, never a part; makes
    its folder.

    Raises:
        RunError: the file cannot be written; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, content)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror}; free space, or give another run folder"
        ) from error
