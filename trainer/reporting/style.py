"""What the pictures share: colours, type, labels that fit, a bound on bytes, and a grid of
photographs.
"""

import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import FancyBboxPatch, Patch
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
_TAG_IN = 0.34
_ROUNDING_IN = 0.05
_FONT = "DejaVu Sans"  # Comes with Matplotlib: every machine draws the same.

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
    "axes.labelsize": 9.5,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
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


def name_ticks(axis: Axis, names: Sequence[str], width: int, lines: int, rotation: int = 0) -> None:
    """Writes class names, as `labels` fits them, along an axis of a chart."""
    fitted = labels(names, width, lines).values()
    axis.set_ticks(range(len(names)), list(fitted), rotation=rotation, color=INK)


def footnote(axes: Axes, words: str) -> None:
    """Writes words below a chart."""
    axes.figure.supxlabel(words, x=0.01, ha="left", fontsize=9, color=GREY)


class Caption(NamedTuple):
    """What stands in white on a strip of `color` below two pictures: a line, what ends it, and
    another.
    """

    first: str
    beside: str
    second: str
    color: str


class Photographs:
    """A sheet of photographs in square tiles with round corners, filled from the top.

    Args:
        columns: tiles in a row.
    """

    def __init__(self, columns: int) -> None:
        # One for all tiles, in inches from the top left: axes of their own take six times as long.
        self._figure = Figure()
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set_axis_off()
        self._columns = columns
        self._step_in = (WIDTH_IN + _GAP_IN) / columns
        self._top_in = 0.0

    def tag(self, words: str) -> None:
        """Writes words on a dark label."""
        paper = {"boxstyle": "round,pad=0.35,rounding_size=0.3", "color": INK}
        self._write(0.05, self._top_in + 0.16, words, va="center", fontsize=9.5, bbox=paper)
        self._top_in += _TAG_IN

    def pictures(self, pictures: Sequence[np.ndarray], captions: Sequence[Caption] = ()) -> None:
        """Draws pictures, uint8 [H, W, 3] each, in as many rows as they need, with a caption below
        every two.
        """
        tile = self._step_in - _GAP_IN
        for start in range(0, len(pictures), self._columns):
            stop = start + self._columns
            for column, pixels in enumerate(pictures[start:stop]):
                left, top = column * self._step_in, self._top_in
                image = self._axes.imshow(pixels, extent=(left, left + tile, top + tile, top))
                image.set_clip_path(self._strip(left, tile, tile, "none"))
            self._top_in += self._step_in
            if captions:
                self._captions(captions[start // 2 : stop // 2])

    def _captions(self, captions: Sequence[Caption]) -> None:
        lines = max(caption[line].count("\n") for caption in captions for line in (0, 2))
        width, height = 2 * self._step_in - _GAP_IN, 0.41 + 0.3 * lines
        self._top_in += 0.03 - _GAP_IN
        for place, caption in enumerate(captions):
            left, top = 2 * place * self._step_in, self._top_in
            self._strip(left, width, height, caption.color)
            inner = left + 0.05 * width
            self._write(inner, top + 0.05, caption.first, va="top", fontweight="bold")
            self._write(left + 0.95 * width, top + 0.05, caption.beside, va="top", ha="right")
            self._write(inner, top + height - 0.05, caption.second, va="bottom")
        self._top_in += height + _GAP_IN

    def _strip(self, left: float, width: float, height: float, color: str) -> Patch:
        corners = f"round,pad=0,rounding_size={_ROUNDING_IN}"
        strip = FancyBboxPatch((left, self._top_in), width, height, corners, lw=0, color=color)
        return self._axes.add_patch(strip)

    def _write(self, left: float, top: float, words: str, **look: Any) -> None:
        look = {"fontsize": 9} | look
        self._axes.text(left, top, words, color="white", family=_FONT, parse_math=False, **look)

    def save(self, path: Path) -> None:
        """Writes the sheet as a JPEG file."""
        self._figure.set_size_inches(WIDTH_IN, self._top_in)
        self._axes.set(xlim=(0, WIDTH_IN), ylim=(self._top_in, 0), aspect="auto")
        save(self._figure, path)


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
