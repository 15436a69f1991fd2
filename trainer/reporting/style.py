"""What the pictures share: colours, type, shortened labels, a bound on bytes, and a grid of
photographs.
"""

from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
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
# Five grids of photographs and seven charts of these sizes, as base64, leave the report below 5 MB.
MOST_BYTES, MOST_CHART_BYTES = 550_000, 110_000

_GAP_IN = 0.08
_FOOTER_IN = 0.3
_FONT = "DejaVu Sans"  # Comes with Matplotlib: every machine draws the same.


def text(size: float = 9.5, color: str = INK) -> dict[str, Any]:
    """Returns the keywords of a text: a label such as "$5" is a label, not a formula."""
    return {"fontsize": size, "color": color, "family": _FONT, "parse_math": False}


@cache
def _drawable() -> frozenset[int]:
    return frozenset(get_font(findfont(_FONT)).get_charmap())


def shorten(label: str, most: int) -> str:
    """Returns a label of at most `most` characters, left out in the middle, □ for what the font
    cannot draw.
    """
    if len(label) > most:
        label = f"{label[: most // 2]}…{label[len(label) - (most - 1) // 2 :]}"
    return "".join(character if ord(character) in _drawable() else "□" for character in label)


def and_more(count: int, what: str) -> str:
    """Returns what a picture says in place of the `count` things that it leaves out; "" where there
    are none.
    """
    return f"and {count:,} more {what}" if count > 0 else ""


def save(figure: Figure, path: Path, *, photographs: bool = False) -> None:
    """Writes a figure as PNG at the finest resolution that keeps it small enough.

    Args:
        figure: what to write.
        path: the PNG file.
        photographs: the ground is transparent, and 255 colours do: as true colour, photographs take
            four times the bytes.
    """
    canvas = FigureCanvasAgg(figure)
    figure.set_facecolor("none" if photographs else "white")
    for dots_per_inch in (160, 130, 100, 70) if photographs else (200, 160, 130, 100, 70):
        figure.set_dpi(dots_per_inch)
        canvas.draw()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba()))
        png = BytesIO()
        (_with_palette(image) if photographs else image.convert("RGB")).save(
            png, "PNG", optimize=True
        )
        if png.tell() <= (MOST_BYTES if photographs else MOST_CHART_BYTES):
            break
    write(path, png.getvalue())


def _with_palette(image: Image.Image) -> Image.Image:
    opaque = Image.new(
        "RGB", image.size, "grey"
    )  # Soft edges turn grey, which neither light nor dark ground shows.
    opaque.paste(image, mask=image.getchannel("A"))
    palette = opaque.quantize(255, Image.Quantize.MEDIANCUT)
    indices = np.array(opaque.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    indices[np.asarray(image.getchannel("A")) < 128] = 255
    result = Image.fromarray(indices)
    result.putpalette(bytes(palette.getpalette() or ()).ljust(3 * 256, b"\0"))
    result.info["transparency"] = 255
    return result


def figure_with_axes(height_in: float, rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    """Returns a chart of that height in inches, and its quiet axes, row by row."""
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    every = [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]
    for axes in every:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(FAINT)
        axes.tick_params(length=0, labelsize=9.5, labelcolor=GREY)
        axes.grid(color=FAINT, linewidth=0.7)
        axes.set_axisbelow(True)
    return figure, every


class Grid:
    """Photographs in square tiles with tags and captions, counted from the top left; the ground is
    transparent.

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
        self._height_in = (
            self._top(rows - 1) + self._row_in - _GAP_IN + (_FOOTER_IN if footer else 0)
        )
        self._figure = Figure(figsize=(WIDTH_IN, self._height_in))
        if footer:
            self._label(0.0, 0.5 * _FOOTER_IN / self._height_in, footer)

    def _top(self, row: int) -> float:
        """Inches from the top of the grid to the tiles of a row."""
        return row * self._row_in + (row // self._above_every + 1) * self._above_in

    def _box(
        self, row: int, column: int, down_in: float, height_in: float
    ) -> tuple[float, float, float, float]:
        left = column * (self._tile_in + _GAP_IN)
        bottom = self._height_in - self._top(row) - down_in - height_in
        return (
            left / WIDTH_IN,
            bottom / self._height_in,
            self._tile_in / WIDTH_IN,
            height_in / self._height_in,
        )

    def picture(self, row: int, column: int, pixels: np.ndarray) -> None:
        """Draws one picture, uint8 [H, W, 3], with round corners."""
        axes = self._figure.add_axes(self._box(row, column, 0, self._tile_in))
        axes.set_axis_off()
        corners = "round,pad=0,rounding_size=0.05"
        axes.imshow(pixels).set_clip_path(
            FancyBboxPatch((0, 0), 1, 1, boxstyle=corners, transform=axes.transAxes)
        )

    def tag(self, row: int, column: int, words: str) -> None:
        """Writes words on a dark label above a tile."""
        left, top, _, _ = self._box(row, column, 0, 0)
        self._label(left, top + 0.18 / self._height_in, words)

    def _label(self, left: float, middle: float, words: str) -> None:
        paper = {
            "boxstyle": "round,pad=0.35,rounding_size=0.3",
            "facecolor": INK,
            "edgecolor": "none",
        }
        inset = 0.05 / WIDTH_IN
        self._figure.text(
            left + inset, middle, words, va="center", bbox=paper, **text(color="white")
        )

    def caption(
        self, row: int, column: int, first: str, beside: str, second: str, color: str
    ) -> None:
        """Writes two lines in white on a strip of `color` below a tile; `beside` ends the first
        line.
        """
        axes = self._figure.add_axes(
            self._box(row, column, self._tile_in + 0.03, self._below_in - 0.03)
        )
        axes.set_axis_off()
        corners = "round,pad=0,rounding_size=0.04"
        axes.add_patch(
            FancyBboxPatch(
                (0, 0), 1, 1, boxstyle=corners, mutation_aspect=4, color=color, linewidth=0
            )
        )
        axes.text(0.05, 0.72, first, va="center", fontweight="bold", **text(9, "white"))
        axes.text(0.95, 0.72, beside, va="center", ha="right", **text(9, "white"))
        axes.text(0.05, 0.28, second, va="center", **text(9, "white"))

    def save(self, path: Path) -> None:
        """Writes the grid as a PNG file."""
        save(self._figure, path, photographs=True)


# The files that a report is made of: their names, and how one is written.

CLASS_ROWS = "class_rows.png"
LABEL_COUNTS = "label_counts.png"
AUGMENTATION = "augmentation.png"
TRAINING_CURVES = "training_curves.png"
PACE = "pace.png"
CONFUSION = "confusion.png"
THRESHOLDS = "thresholds.png"
RELIABILITY = "reliability.png"
COVERAGE = "coverage.png"
COMPARED_ACCURACIES = "compared_accuracies.png"
COMPARED_CURVES = "compared_curves.png"
COMPARED_COSTS = "compared_costs.png"
# What of `result.json` each of them shows.
PREDICTION_GRIDS = {
    "prediction_grid.png": "at_random",
    "mistakes.png": "mistakes",
    "least_certain.png": "least_certain",
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
            f"cannot write {path}: {error.strerror}; free the place or give another run folder"
        ) from error
