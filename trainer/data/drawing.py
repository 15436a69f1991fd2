"""A pen that draws outlines and fur on a Pillow picture.

Points are complex numbers, x + y·j with y down, so that turning and scaling a shape is one
multiplication. Outlines are written as text, as in SVG: one knot after the other.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = NDArray[np.complex128]


def knots(text: str) -> Points:
    """Reads knots, such as ``"0 1-.5j 2+1j"``."""
    return np.array([complex(knot) for knot in text.split()])


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour that lies `share` (0…1) of the way from `first` to `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def curve(points: ArrayLike, closed: bool = True, steps: int = 7) -> Points:
    """A smooth line through the points (uniform Catmull-Rom spline), in `steps` from each on."""
    points = np.asarray(points, dtype=np.complex128)
    if not closed:
        first, last = 2 * points[:1] - points[1:2], 2 * points[-1:] - points[-2:-1]
        points = np.concatenate([first, points, last])
    time = np.linspace(0, 1, steps, endpoint=False)[:, None]
    before, start, end, after = (np.roll(points, shift) for shift in (1, 0, -1, -2))
    path = (
        start
        + time * (end - before) / 2
        + time**2 * (before - 2.5 * start + 2 * end - after / 2)
        + time**3 * (1.5 * (start - end) + (after - before) / 2)
    ).T
    return path.ravel() if closed else np.append(path[1:-2].ravel(), points[-2])


def oval(centre: complex, wide: float, high: float, angle: float = 0.0) -> Points:
    """An ellipse with the given half axes, turned by `angle` (radians)."""
    around = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return centre + (wide * np.cos(around) + 1j * high * np.sin(around)) * np.exp(1j * angle)


def limb(points: ArrayLike, widths: ArrayLike) -> Points:
    """The outline of a leg or a tail along the points, as thick at each as `widths` says, with a
    round end.
    """
    spine = curve(points, closed=False)
    thickness = np.asarray(widths, dtype=float)
    share = np.linspace(0, 1, len(thickness))
    radius = np.interp(np.linspace(0, 1, len(spine)), share, thickness / 2)
    across = np.gradient(spine)
    across = 1j * across / np.abs(across)
    end = spine[-1] + radius[-1] * across[-1] * np.exp(-1j * np.linspace(0, np.pi, 9))
    return np.concatenate([spine + radius * across, end, (spine - radius * across)[::-1]])


def mirrored(points: Points) -> Points:
    """The same outline on the other side of the vertical axis."""
    return -np.conj(points)


@dataclass(frozen=True)
class Coat:
    """What an animal's fur looks like."""

    base: Colour
    marks: Colour
    pale: Colour  # belly, muzzle, paws
    pattern: Literal["plain", "stripes", "spots", "patches"]
    fluff: float  # length of the tufts at the edge, in head radii


@cache
def _round_shadow() -> Image.Image:
    return Image.radial_gradient("L")


class Pen:
    """Draws outlines on a picture, in units of its own frame.

    Args:
        image: what is drawn on (RGB).
        generator: where fur tufts and marks come from.
        origin: the frame's zero in pixels.
        unit: what 1 is in pixels, and by its angle how far the frame is turned.
    """

    def __init__(
        self, image: Image.Image, generator: np.random.Generator, origin: complex, unit: complex
    ) -> None:
        self.image, self.generator, self.origin, self.unit = image, generator, origin, unit
        self._draw = ImageDraw.Draw(image)

    def pixels(self, points: Points) -> list[tuple[float, float]]:
        """The points in pixels, as Pillow takes them."""
        placed = self.origin + self.unit * points
        return list(zip(placed.real.tolist(), placed.imag.tolist(), strict=True))

    def fill(self, outline: ArrayLike, colour: Colour) -> None:
        """Fills an outline with one colour."""
        self._draw.polygon(self.pixels(np.asarray(outline)), fill=colour)

    def line(self, points: ArrayLike, colour: Colour, width: float) -> None:
        """Draws a smooth open line, `width` in units."""
        pixels = self.pixels(curve(points, closed=False))
        wide = max(1, round(abs(self.unit) * width))
        self._draw.line(pixels, fill=colour, width=wide, joint="curve")

    def fur(
        self, outline: Points, coat: Coat, colour: Colour | None = None, across: bool = False
    ) -> None:
        """Fills an outline with shaded fur: tufts at the edge, the coat's marks, light from above.

        Args:
            outline: the part's closed outline.
            coat: the fur.
            colour: a plain colour in place of the coat's base and marks.
            across: stripes run from side to side (legs, tails) and not down from the back.
        """
        outward = np.gradient(outline) * -1j
        tufts = coat.fluff * self.generator.uniform(-0.4, 1, len(outline))
        tufts *= np.arange(len(outline)) % 2
        placed = self.origin + self.unit * (outline + tufts * outward / (np.abs(outward) + 1e-9))
        low = complex(np.floor(placed.real.min()), np.floor(placed.imag.min()))
        size = int(np.ptp(placed.real)) + 2, int(np.ptp(placed.imag)) + 2
        tile = Image.new("RGB", size, colour or coat.base)
        if colour is None:
            self._marks(ImageDraw.Draw(tile), size, coat, across)
        shadow = _round_shadow().resize(size, box=(50, 70, 220, 240))
        tile.paste(tile.point(lambda value: value * 0.55), mask=shadow)
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).polygon(Pen(mask, self.generator, -low, 1).pixels(placed), fill=255)
        self.image.paste(tile, (int(low.real), int(low.imag)), mask)

    def _marks(
        self, draw: ImageDraw.ImageDraw, size: tuple[int, int], coat: Coat, across: bool
    ) -> None:
        uniform, unit = self.generator.uniform, abs(self.unit)
        if coat.pattern == "stripes":
            length, depth = size[::-1] if across else size
            for at in np.arange(uniform(0, 0.3) * unit, length, 0.34 * unit):
                reach = depth * (1.0 if across else uniform(0.3, 0.75))
                half, tip = 0.08 * unit, at + uniform(-0.15, 0.15) * unit
                corners = [(at - half, 0), (at + half, 0), (tip + half / 2, reach), (tip, reach)]
                draw.polygon([(y, x) for x, y in corners] if across else corners, fill=coat.marks)
        elif coat.pattern != "plain":
            radius, share = (0.16, 2.2) if coat.pattern == "spots" else (0.6, 0.4)
            for _ in range(round(size[0] * size[1] / unit**2 * share)):
                x, y = uniform(0, size[0]), uniform(0, size[1])
                reach = radius * unit * uniform(0.5, 1.2)
                box = (x - reach, y - reach * 0.8, x + reach, y + reach * 0.8)
                draw.ellipse(box, fill=coat.marks)
