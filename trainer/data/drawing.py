"""A pen that draws figures, written as text, on a Pillow picture.

Points are complex numbers, x + y·j with y down, so that turning and scaling a shape is one
multiplication. A figure has parts, one after the other, that end with a semicolon: the name of a
skin, the word ``both`` where the part's mirror image belongs to it, and the part's outline.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour = NDArray[np.float64]
Points = NDArray[np.complex128]
# A picture as large as the one that is drawn on, for what is furry and round; or a flat colour.
Skin = Image.Image | tuple[int, ...] | str

# How much of a curve's point is the knot before, at and after it, on the way past a knot.
_WAY = np.linspace(0, 1, 7, endpoint=False)
_SHARES = np.array([(1 - _WAY) ** 2 / 2, 0.5 + _WAY - _WAY**2, _WAY**2 / 2])
# Towards the edge of what is round, and more so below.
_SHADOW = Image.radial_gradient("L").crop((50, 70, 220, 240)).point(lambda level: level * 0.45)


def knots(text: str) -> Points:
    """Reads an outline, such as ``"0 1-.5j! 2+1j"``.

    It is smooth and touches the lines from one knot to the next. A knot with ``!`` stands twice,
    which makes it a corner.
    """
    return np.array(
        [complex(knot.strip("!")) for knot in text.split() for _ in range(1 + knot.count("!"))]
    )


def smooth(points: Points) -> Points:
    """The closed curve (uniform quadratic B-spline) around these knots."""
    around = np.stack([np.roll(points, 1), points, np.roll(points, -1)], axis=1)
    return (around @ _SHARES).ravel()


def solid(colour: Colour) -> tuple[int, ...]:
    """A skin of one flat colour."""
    return tuple(colour.astype(int).tolist())


def pattern(
    generator: np.random.Generator,
    size: tuple[int, int],
    base: Colour,
    marks: Colour,
    cell: complex,
) -> Image.Image:
    """A skin with stripes, spots or patches.

    Args:
        generator: decides where they are.
        size: of the skin.
        base: its colour.
        marks: the colour of the marks.
        cell: about how wide and high they are, in pixels.
    """
    columns, rows = round(size[0] / cell.real), round(size[1] / cell.imag)
    levels = generator.integers(256, size=(rows + 2, columns + 2), dtype=np.uint8)
    where = Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)
    where.putpalette(solid(base) * 151 + solid(marks) * 105)
    return where.convert("RGB")


@dataclass(frozen=True)
class Pen:
    """Draws figures on a picture, in units of its own frame.

    Attributes:
        image: what is drawn on (RGB).
        generator: what irregular outlines come from.
        skins: what parts are filled with, where a name is not a colour's.
        origin: the frame's zero in pixels.
        unit: what 1 is in pixels, and by its angle how far the frame is turned.
        tufts: how ragged the edges of fur are, in units.
    """

    image: Image.Image
    generator: np.random.Generator
    skins: Mapping[str, Skin]
    origin: complex
    unit: complex
    tufts: float = 0.0

    def at(self, place: complex, scale: complex = 1) -> "Pen":
        """The same pen with its zero at a place of this one's frame."""
        return replace(self, origin=self.origin + self.unit * place, unit=self.unit * scale)

    def draw(self, figure: str, turn: float = 0.0) -> None:
        """Draws a figure, lit from above.

        Args:
            figure: its parts.
            turn: how far what lies on the ball of radius 1 around zero is moved to the right.
        """
        for part in figure.split(";")[:-1]:
            name, outline = part.split(maxsplit=1)
            points = knots(outline.removeprefix("both"))
            for side in (points, -points.conj())[: 1 + outline.startswith("both")]:
                front = np.sqrt(np.maximum(0, 1 - np.abs(side) ** 2))
                edge = smooth(self._shaken(side + turn * front, 0.04 * side.std()))
                self._fill(edge, self.skins.get(name, name))

    def _shaken(self, points: Points, by: float) -> Points:
        return points + self.generator.normal(0, by, (len(points), 2)) @ [1, 1j]

    def _fill(self, outline: Points, skin: Skin) -> None:
        if not isinstance(skin, Image.Image):
            ImageDraw.Draw(self.image).polygon(self._pixels(outline).ravel().tolist(), fill=skin)
            return
        pixels = self._pixels(self._shaken(outline, self.tufts))
        start, end = np.floor(pixels.min(0)), np.ceil(pixels.max(0)) + 1
        (left, top), (right, bottom) = start.astype(int).tolist(), end.astype(int).tolist()
        tile = skin.crop((left, top, right, bottom))
        tile.paste("black", mask=_SHADOW.resize(tile.size, Image.Resampling.NEAREST))
        mask = Image.new("L", tile.size)
        ImageDraw.Draw(mask).polygon((pixels - start).ravel().tolist(), fill=255)
        self.image.paste(tile, (left, top), mask)

    def _pixels(self, points: Points) -> NDArray[np.float64]:
        return (self.origin + self.unit * points).view(float).reshape(-1, 2)
