"""A pen that draws outlines and fur on a Pillow picture, and the surroundings that it draws.

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

INK, WHITE, _GREEN = (38, 30, 30), (250, 248, 242), (86, 132, 64)


def knots(text: str) -> Points:
    """Reads knots, such as ``"0 1-.5j 2+1j"``."""
    return np.array([complex(knot) for knot in text.split()])


def rgb(code: str) -> Colour:
    """Reads a colour, such as ``"d68a42"``."""
    red, green, blue = bytes.fromhex(code)
    return red, green, blue


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


# What stands about: outlines around a point on the floor, in picture heights, one after the other.
# Each is ``smooth`` or has ``corners``, and a colour (``any``: any).
_ROOM = (
    "corners faf8f2 -.2-.62j .2-.62j .2-.2j -.2-.2j;"  # a window
    "corners 96c4e6 -.18-.6j -.01-.6j -.01-.22j -.18-.22j;"
    "corners 96c4e6 .01-.6j .18-.6j .18-.22j .01-.22j",
    "corners any -.12-.5j .12-.5j .12-.26j -.12-.26j;"  # a picture
    "smooth any -.09-.28j -.02-.44j .09-.28j",
    "smooth any -.4+.08j -.36-.28j .36-.28j .4+.08j;"  # a sofa
    "smooth faf8f2 -.36-.08j -.02-.08j -.02+.06j -.36+.06j",
    "smooth 568440 -.05-.12j -.3-.3j -.42j .3-.28j .05-.12j -.5j;"  # a plant
    "corners b06242 -.09-.14j .09-.14j .06+.03j -.06+.03j",
)
_GARDEN = (
    "corners 684c36 -.03-.3j .03-.3j .03+.03j -.03+.03j;"  # a tree
    "smooth 568440 -.17-.36j -.1-.52j .12-.54j .18-.34j -.26j",
    "corners 2c603e -.16 -.24j -.1-.2j -.46j .1-.2j -.24j .16",  # a fir
    "corners any -.2-.24j .2-.24j .2 -.2;"  # a house
    "corners 964a3c -.24-.24j -.44j .24-.24j;"
    "corners 604638 -.05-.15j .04-.15j .04 -.05",
    "smooth 568440 -.25 -.16-.13j -.07j .12-.16j .25",  # a bush
)


def _colour(generator: np.random.Generator, low: int = 60, high: int = 235) -> Colour:
    red, green, blue = generator.integers(low, high, 3).tolist()
    grey = (red + green + blue) // 3
    return mix((red, green, blue), (grey, grey, grey), 0.45)


def paint_background(pen: Pen) -> None:
    """Covers the picture, whose height is the pen's unit, with a room or a garden."""
    generator, uniform, wide = (
        pen.generator,
        pen.generator.uniform,
        pen.image.width / pen.image.height,
    )
    floor, indoors = uniform(0.5, 0.85), generator.random() < 0.5

    def box(left: float, top: float, right: float, bottom: float) -> Points:
        corners = left + top * 1j, right + top * 1j, right + bottom * 1j, left + bottom * 1j
        return np.array(corners)

    far = _colour(generator, 90) if indoors else mix((120, 176, 226), _colour(generator), 0.4)
    near = _colour(generator, 50, 210) if indoors else mix(_GREEN, _colour(generator), 0.5)
    bands = generator.integers(1, 12)
    for band in range(bands):  # wallpaper, or a sky that is paler towards the ground
        share = 0.15 * (band % 2) if indoors else band / 14
        side = box(band * wide / bands, 0, wide, floor)
        sky = box(0, band * floor / bands, wide, floor)
        pen.fill(side if indoors else sky, mix(far, WHITE, share))
    pen.fill(box(0, floor, wide, 1), near)
    for x in np.arange(-1, wide + 1, uniform(0.1, 0.3)):  # boards, or blades of grass
        shade = mix(near, INK, 0.3)
        if indoors:
            pen.line([x * 0.7 + 0.3 * wide / 2 + floor * 1j, x * 1.2 + 1j], shade, 0.008)
        else:
            blade = np.array([0, uniform(-1, 1) - 1.8j, 0.4])
            pen.fill(x + uniform(floor, 1.04) * 1j + 0.05 * blade, shade)
    for index in generator.permutation(4)[: generator.integers(1, 4)]:
        place, scale = uniform(0.05, wide - 0.05) + floor * 1j, uniform(0.8, 1.3)
        for thing in (_ROOM if indoors else _GARDEN)[index].split(";"):
            form, colour, outline = thing.split(maxsplit=2)
            points = place + scale * knots(outline)
            shade = _colour(generator)
            if colour != "any":
                shade = mix(rgb(colour), shade, 0.25)
            pen.fill(curve(points) if form == "smooth" else points, shade)


def paint_foreground(pen: Pen) -> None:
    """Puts something in front of the animal that hides a part of it: a ball, a cushion, a post."""
    generator, uniform = pen.generator, pen.generator.uniform
    x = uniform(0, pen.image.width / pen.image.height)
    outlines = (
        oval(x + uniform(0.6, 0.95) * 1j, 0.1, 0.1),
        oval(x + uniform(0.95, 1.1) * 1j, uniform(0.2, 0.5), uniform(0.15, 0.3)),
        x + knots("0 .06 .06+1j 1j"),
    )
    pen.fill(outlines[generator.integers(3)], _colour(generator))
