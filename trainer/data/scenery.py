"""Rooms and gardens to put an animal in, and things that stand in front of it."""

import numpy as np
from PIL import Image

from trainer.data.drawing import Colour, Pen, curve, limb, mix, oval


def _colour(generator: np.random.Generator, low: int = 60, high: int = 235) -> Colour:
    red, green, blue = generator.integers(low, high, 3).tolist()
    grey = (red + green + blue) // 3
    return mix((red, green, blue), (grey, grey, grey), 0.45)


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array(
        [complex(left, top), complex(right, top), complex(right, bottom), complex(left, bottom)]
    )


def paint_background(image: Image.Image, generator: np.random.Generator) -> None:
    """Covers the picture with a room or a garden."""
    pen = Pen(image, generator, 0, image.height)
    (_room if generator.random() < 0.5 else _garden)(
        pen, image.width / image.height, generator.uniform(0.5, 0.85)
    )


def _room(pen: Pen, wide: float, floor: float) -> None:
    generator, uniform = pen.generator, pen.generator.uniform
    wall, boards = _colour(generator, 90), _colour(generator, 50, 210)
    pen.fill(_box(0, 0, wide, floor), wall)
    paper = generator.integers(4)
    if paper == 0:
        step = uniform(0.05, 0.14)
        for x in np.arange(0, wide, step):
            pen.fill(_box(x, 0, x + step / 2, floor), mix(wall, (255, 255, 255), 0.2))
    elif paper == 1:
        for x in np.arange(0.05, wide, 0.13):
            for y in np.arange(0.05, floor, 0.13):
                pen.fill(oval(complex(x, y), 0.02, 0.02), mix(wall, (20, 20, 30), 0.25))
    pen.fill(_box(0, floor, wide, 1), boards)
    pen.fill(_box(0, floor - 0.03, wide, floor), mix(wall, (255, 255, 255), 0.5))
    if generator.random() < 0.5:
        for x in np.arange(-1, wide + 1, 0.17):
            pen.line(
                [complex(wide / 2 + (x - wide / 2) * 0.7, floor), x * 1.2 + 1j],
                mix(boards, (20, 16, 12), 0.35),
                0.008,
            )
    else:
        pen.fill(
            oval(
                complex(uniform(0.2, wide), uniform(floor + 0.05, 1)),
                uniform(0.3, 0.7),
                uniform(0.06, 0.15),
            ),
            _colour(generator),
        )
    things = [_window, _picture, _sofa, _plant, _shelf, _lamp]
    for index in generator.permutation(len(things))[: generator.integers(1, 5)]:
        things[index](pen, uniform(0.05, wide - 0.05), floor)


def _window(pen: Pen, x: float, floor: float) -> None:
    high = pen.generator.uniform(0.3, 0.5) * floor / 0.6
    frame = mix(_colour(pen.generator), (255, 255, 255), 0.6)
    pen.fill(_box(x - 0.2, 0.06, x + 0.2, high), frame)
    for left in (x - 0.18, x + 0.01):
        for top, bottom in ((0.08, high / 2), (high / 2 + 0.03, high - 0.02)):
            pen.fill(
                _box(left, top, left + 0.17, bottom),
                mix((150, 196, 230), (20, 24, 60), pen.generator.choice([0.0, 0.1, 0.8])),
            )
    curtain = _colour(pen.generator)
    for side in (-1, 1):
        pen.fill(
            curve(
                [
                    x + side * 0.26 + 0.02j,
                    x + side * 0.1 + 0.02j,
                    x + side * 0.16 + 0.2j,
                    x + side * 0.2 + 1j * high + 0.06j,
                    x + side * 0.3 + 1j * high + 0.06j,
                ]
            ),
            curtain,
        )


def _picture(pen: Pen, x: float, floor: float) -> None:
    y, wide, high = pen.generator.uniform(0.05, floor / 2), *pen.generator.uniform(0.06, 0.14, 2)
    pen.fill(_box(x - wide, y, x + wide, y + 2 * high), _colour(pen.generator, 30, 160))
    pen.fill(
        _box(x - wide + 0.02, y + 0.02, x + wide - 0.02, y + 2 * high - 0.02),
        _colour(pen.generator, 120),
    )
    pen.fill(
        curve(
            [
                x - wide + 0.02 + 1j * (y + 2 * high - 0.02),
                x + 1j * (y + high),
                x + wide - 0.02 + 1j * (y + 2 * high - 0.02),
            ]
        ),
        _colour(pen.generator),
    )


def _sofa(pen: Pen, x: float, floor: float) -> None:
    cloth = _colour(pen.generator)
    pen.fill(
        curve(
            [
                x - 0.4 + 1j * (floor + 0.08),
                x - 0.36 + 1j * (floor - 0.28),
                x + 0.36 + 1j * (floor - 0.28),
                x + 0.4 + 1j * (floor + 0.08),
            ]
        ),
        cloth,
    )
    for left in (x - 0.36, x + 0.02):
        pen.fill(
            curve(_box(left, floor - 0.08, left + 0.34, floor + 0.06)),
            mix(cloth, (255, 255, 255), 0.15),
        )


def _plant(pen: Pen, x: float, floor: float) -> None:
    y = floor + 0.05
    green = mix((52, 120, 60), _colour(pen.generator), 0.3)
    for angle in np.linspace(-1.1, 1.1, 7) + pen.generator.normal(0, 0.12, 7):
        tip = complex(x, y - 0.15) + pen.generator.uniform(0.18, 0.42) * complex(
            np.sin(angle), -np.cos(angle)
        )
        middle = (complex(x, y - 0.15) + tip) / 2 - 0.04j
        pen.fill(
            limb([complex(x, y - 0.12), middle, tip], [0.015, 0.09, 0.01]),
            mix(green, (20, 40, 20), pen.generator.uniform(0, 0.4)),
        )
    pen.fill(
        np.array(
            [
                complex(x - 0.09, y - 0.14),
                complex(x + 0.09, y - 0.14),
                complex(x + 0.06, y + 0.03),
                complex(x - 0.06, y + 0.03),
            ]
        ),
        (176, 98, 66),
    )


def _shelf(pen: Pen, x: float, _: float) -> None:
    wood = _colour(pen.generator, 60, 150)
    for y in (0.16, 0.38):
        left = x - 0.2
        while left < x + 0.16:
            wide, high = pen.generator.uniform(0.02, 0.05), pen.generator.uniform(0.1, 0.16)
            pen.fill(_box(left, y - high, left + wide, y), _colour(pen.generator))
            left += wide + 0.004
        pen.fill(_box(x - 0.24, y, x + 0.24, y + 0.025), wood)


def _lamp(pen: Pen, x: float, floor: float) -> None:
    pen.line([complex(x, 0.25), complex(x, floor + 0.06)], (70, 60, 56), 0.02)
    pen.fill(
        np.array(
            [
                complex(x - 0.07, 0.12),
                complex(x + 0.07, 0.12),
                complex(x + 0.13, 0.3),
                complex(x - 0.13, 0.3),
            ]
        ),
        (246, 224, 164),
    )


def _garden(pen: Pen, wide: float, ground: float) -> None:
    generator, uniform = pen.generator, pen.generator.uniform
    day = mix((120, 176, 226), _colour(generator, 120, 240), uniform(0, 0.9))
    for step in range(10):
        pen.fill(_box(0, step * ground / 10, wide, ground), mix(day, (244, 238, 228), step / 14))
    for _ in range(generator.integers(0, 4)):
        cloud = complex(uniform(0, wide), uniform(0.02, 0.3))
        for shift in (-0.09, 0, 0.08):
            pen.fill(oval(cloud + shift, uniform(0.06, 0.12), uniform(0.03, 0.06)), (250, 250, 250))
    grass = mix((104, 150, 70), _colour(generator, 50, 220), uniform(0, 0.8))
    for layer in range(generator.integers(0, 3)):
        y = ground - 0.14 + 0.06 * layer
        hills = [complex(x, y + uniform(-0.12, 0.05)) for x in np.linspace(-0.2, wide + 0.2, 6)]
        pen.fill(
            np.concatenate([curve(hills, closed=False), [wide + 0.2 + 1j, -0.2 + 1j]]),
            mix(grass, day, 0.55 - 0.15 * layer),
        )
    pen.fill(_box(0, ground, wide, 1), grass)
    things = [_tree, _pine, _house, _fence, _bush]
    for index in generator.permutation(len(things))[: generator.integers(1, 5)]:
        things[index](pen, uniform(0, wide), ground)
    tufts(pen, wide, 40, ground, mix(grass, (24, 44, 16), 0.3))


def tufts(
    pen: Pen, wide: float, count: int, top: float, colour: Colour, long: float = 0.05
) -> None:
    """Blades of grass with their feet between `top` and the lower edge."""
    x, y, lean = (
        pen.generator.uniform(low, high, count) for low, high in ((0, wide), (top, 1.04), (-1, 1))
    )
    for left, foot, bend in zip(x, y, lean, strict=True):
        pen.fill(
            np.array(
                [
                    complex(left, foot),
                    complex(left + bend * long, foot - long * 1.8),
                    complex(left + long / 3, foot),
                ]
            ),
            colour,
        )


def _tree(pen: Pen, x: float, ground: float) -> None:
    pen.fill(_box(x - 0.03, ground - 0.3, x + 0.03, ground + 0.03), (104, 76, 54))
    leaves = mix((62, 124, 58), _colour(pen.generator), 0.4)
    for _ in range(5):
        centre = complex(x, ground - 0.38) + complex(*pen.generator.normal(0, 0.07, 2))
        pen.fill(oval(centre, 0.13, 0.12), mix(leaves, (20, 40, 20), pen.generator.uniform(0, 0.3)))


def _pine(pen: Pen, x: float, ground: float) -> None:
    for level in range(3):
        y, half = ground - 0.12 * level, 0.16 - 0.035 * level
        pen.fill(
            np.array([complex(x - half, y), complex(x, y - 0.24), complex(x + half, y)]),
            (44, 92 + 8 * level, 62),
        )


def _house(pen: Pen, x: float, ground: float) -> None:
    pen.fill(_box(x - 0.2, ground - 0.24, x + 0.2, ground), _colour(pen.generator, 130))
    pen.fill(
        np.array(
            [
                complex(x - 0.24, ground - 0.24),
                complex(x, ground - 0.44),
                complex(x + 0.24, ground - 0.24),
            ]
        ),
        (150, 74, 60),
    )
    pen.fill(_box(x - 0.05, ground - 0.15, x + 0.04, ground), (96, 70, 56))


def _fence(pen: Pen, x: float, ground: float) -> None:
    wood = mix(_colour(pen.generator), (255, 255, 255), 0.3)
    for left in np.arange(x - 1, x + 1, 0.09):
        pen.fill(
            np.array(
                [
                    complex(left, ground + 0.04),
                    complex(left, ground - 0.16),
                    complex(left + 0.025, ground - 0.2),
                    complex(left + 0.05, ground - 0.16),
                    complex(left + 0.05, ground + 0.04),
                ]
            ),
            wood,
        )
    pen.fill(_box(x - 1, ground - 0.1, x + 1, ground - 0.07), mix(wood, (0, 0, 0), 0.1))


def _bush(pen: Pen, x: float, ground: float) -> None:
    leaves = mix((70, 120, 60), _colour(pen.generator), 0.5)
    for shift in (-0.12, 0.1, 0):
        pen.fill(
            oval(complex(x + shift, ground - 0.02), 0.13, 0.11),
            mix(leaves, (255, 255, 255), abs(shift)),
        )


def paint_foreground(image: Image.Image, generator: np.random.Generator) -> None:
    """Puts something in front of the animal that hides a part of it."""
    wide = image.width / image.height
    pen, uniform = Pen(image, generator, 0, image.height), generator.uniform
    kind = generator.integers(5)
    if kind == 0:
        tufts(pen, wide, 60, 0.97, mix((70, 120, 50), _colour(generator), 0.4), uniform(0.07, 0.14))
    elif kind == 1:
        _plant(pen, uniform(0, wide), uniform(0.9, 1.05))
    elif kind == 2:
        pen.fill(
            oval(
                complex(uniform(0, wide), uniform(0.95, 1.1)), uniform(0.2, 0.5), uniform(0.15, 0.3)
            ),
            _colour(generator),
        )
    elif kind == 3:
        x = uniform(0, wide)
        pen.fill(_box(x, 0, x + uniform(0.04, 0.1), 1), _colour(generator))
    else:
        ball, centre = _colour(generator), complex(uniform(0, wide), uniform(0.6, 0.95))
        pen.fill(oval(centre, 0.1, 0.1), ball)
        pen.fill(oval(centre, 0.1, 0.03, 0.5), mix(ball, (255, 255, 255), 0.6))
