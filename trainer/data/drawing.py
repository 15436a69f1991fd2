"""A pen that draws outlines and fur on a Pillow picture.

Points are complex numbers, x + y·j with y down, so that turning and scaling a shape is one
multiplication.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = NDArray[np.complex128]


@cache
def _round_shadow() -> Image.Image:
    return Image.radial_gradient("L")


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour that lies `share` (0…1) of the way from `first` to `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def curve(knots: ArrayLike, closed: bool = True, steps: int = 7) -> Points:
    """A smooth line through the knots (uniform Catmull-Rom spline), `steps` points from knot to
    knot.
    """
    points = np.asarray(knots, dtype=np.complex128)
    if not closed:
        points = np.concatenate(
            [2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]]
        )
    time = np.linspace(0, 1, steps, endpoint=False)[:, None]
    place = np.arange(len(points))
    before, start, end, after = (points[(place + shift) % len(points)] for shift in (-1, 0, 1, 2))
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


def limb(knots: ArrayLike, widths: ArrayLike) -> Points:
    """The outline of a leg or a tail along the knots, as thick at each as `widths` says, with a
    round end.
    """
    spine = curve(knots, closed=False)
    thickness = np.asarray(widths, dtype=float)
    radius = np.interp(
        np.linspace(0, 1, len(spine)), np.linspace(0, 1, len(thickness)), thickness / 2
    )
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

    def frame(self, origin: complex, turned: float = 0.0, scale: float = 1.0) -> "Pen":
        """A pen on the same picture whose zero is at `origin`, turned (radians) and scaled."""
        unit = self.unit * scale * complex(np.exp(1j * turned))
        return Pen(self.image, self.generator, self.origin + self.unit * origin, unit)

    def pixels(self, points: Points) -> list[tuple[float, float]]:
        """The points in pixels, as Pillow takes them."""
        placed = self.origin + self.unit * points
        return list(zip(placed.real.tolist(), placed.imag.tolist(), strict=True))

    def fill(self, outline: Points, colour: Colour) -> None:
        """Fills an outline with one colour."""
        self._draw.polygon(self.pixels(outline), fill=colour)

    def line(self, points: ArrayLike, colour: Colour, width: float) -> None:
        """Draws a smooth open line, `width` in units."""
        wide = max(1, round(abs(self.unit) * width))
        self._draw.line(
            self.pixels(curve(points, closed=False)), fill=colour, width=wide, joint="curve"
        )

    def fur(
        self, outline: Points, coat: Coat, colour: Colour | None = None, across: bool = False
    ) -> None:
        """Fills an outline with shaded fur: tufts at the edge, the coat's marks inside, light from
        above.

        Args:
            outline: the part's closed outline.
            coat: the fur.
            colour: a plain colour in place of the coat's base and marks.
            across: stripes run from side to side (legs, tails) and not down from the back.
        """
        if coat.fluff:
            outward = np.gradient(outline) * -1j
            lengths = (
                coat.fluff
                * self.generator.uniform(-0.4, 1, len(outline))
                * (np.arange(len(outline)) % 2)
            )
            outline = outline + lengths * outward / (np.abs(outward) + 1e-9)
        placed = self.origin + self.unit * outline
        low = complex(np.floor(placed.real.min()), np.floor(placed.imag.min()))
        wide, high = int(np.ptp(placed.real)) + 2, int(np.ptp(placed.imag)) + 2
        tile = Image.new("RGB", (wide, high), colour or coat.base)
        if colour is None:
            self._marks(ImageDraw.Draw(tile), wide, high, coat, across)
        shadow = _round_shadow().resize((wide, high), box=(50, 70, 220, 240))
        tile.paste(tile.point(lambda value: value * 0.55), mask=shadow)
        mask = Image.new("L", (wide, high))
        inside = Pen(mask, self.generator, 0, 1)
        ImageDraw.Draw(mask).polygon(inside.pixels(placed - low), fill=255)
        self.image.paste(tile, (int(low.real), int(low.imag)), mask)

    def _marks(
        self, draw: ImageDraw.ImageDraw, wide: int, high: int, coat: Coat, across: bool
    ) -> None:
        uniform = self.generator.uniform
        unit = abs(self.unit)
        if coat.pattern == "stripes":
            length, depth = (high, wide) if across else (wide, high)
            for at in np.arange(uniform(0, 0.3) * unit, length, 0.34 * unit):
                reach, half, lean = (
                    depth * (1.0 if across else uniform(0.3, 0.75)),
                    0.08 * unit,
                    uniform(-0.15, 0.15) * unit,
                )
                corners = [
                    (at - half, 0),
                    (at + half, 0),
                    (at + lean + half / 2, reach),
                    (at + lean, reach),
                ]
                draw.polygon([(y, x) for x, y in corners] if across else corners, fill=coat.marks)
        elif coat.pattern in ("spots", "patches"):
            size, count = (
                (0.16, wide * high / unit**2 * 2.2)
                if coat.pattern == "spots"
                else (0.6, wide * high / unit**2 * 0.4)
            )
            for _ in range(round(count)):
                x, y, radius = uniform(0, wide), uniform(0, high), size * unit * uniform(0.5, 1.2)
                draw.ellipse(
                    (x - radius, y - radius * 0.8, x + radius, y + radius * 0.8), fill=coat.marks
                )
