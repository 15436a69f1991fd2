"""Cats and dogs: what one may look like, its head, and its body in one of four poses.

A head has radius 1 and its centre at 0; bodies are drawn around it in the same unit. Both species
share palette, patterns and poses, so that only the shape tells them apart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainer.data.drawing import Coat, Colour, Pen, curve, limb, mirrored, mix, oval

Species = Literal["cats", "dogs"]

INK: Colour = (38, 30, 30)
PINK: Colour = (226, 140, 146)
# One palette for both species, so that colour does not tell them apart.
FURS: tuple[Colour, ...] = (
    (214, 138, 66), (60, 54, 54), (136, 134, 138), (128, 88, 58), (226, 200, 158),
    (236, 232, 226), (180, 148, 112),
    (98, 74, 60), (196, 112, 60), (166, 160, 152),
)  # fmt: skip
CLOTHS: tuple[Colour, ...] = (
    (196, 44, 52),
    (40, 92, 176),
    (52, 140, 84),
    (230, 178, 48),
    (128, 64, 150),
    (44, 44, 52),
)


EYES: dict[str, tuple[Colour, ...]] = {
    "cats": ((196, 200, 84), (122, 176, 92), (226, 176, 70), (128, 176, 210), (150, 100, 50)),
    "dogs": ((98, 62, 38), (66, 44, 34), (150, 100, 50), (128, 176, 210)),
}
PATTERNS = {
    "cats": (0.25, 0.45, 0.1, 0.2),
    "dogs": (0.35, 0.1, 0.25, 0.3),
}  # plain, stripes, spots, patches


@dataclass(frozen=True)
class Animal:
    """One cat or dog, apart from its pose."""

    species: Species
    coat: Coat
    turn: float  # where it looks: -1 left … 1 right
    tilt: float  # of the head, radians
    eyes: Colour
    asleep: bool
    ears: Literal["up", "folded", "hanging"]
    girth: float  # 1: a sturdy dog
    collar: Colour | None
    tongue: bool


def head(pen: Pen, animal: Animal) -> None:
    """Draws the head around the pen's zero."""
    pen = pen.frame(0, animal.tilt)
    (_cat_head if animal.species == "cats" else _dog_head)(pen, animal)


def _eyes(pen: Pen, animal: Animal, apart: float, level: float, wide: float, high: float) -> None:
    for side in (-1, 1):
        centre = side * apart * (1 - 0.12 * abs(animal.turn)) + 0.28 * animal.turn + level * 1j
        if animal.asleep:
            pen.line(centre + np.array([-wide, 0.6j * high, wide]), INK, 0.07)
            continue
        pen.fill(oval(centre, wide * 1.15, high * 1.15, side * -0.15), INK)
        pen.fill(oval(centre, wide, high, side * -0.15), animal.eyes)
        pupil = centre + 0.05 * animal.turn
        slit = animal.species == "cats" and animal.eyes[1] > 150
        pen.fill(
            oval(pupil, wide * (0.28 if slit else 0.62), high * (0.9 if slit else 0.68)),
            (12, 10, 12),
        )
        pen.fill(oval(pupil + complex(-0.05, -0.07), 0.055, 0.055), (255, 255, 255))


def _cat_head(pen: Pen, animal: Animal) -> None:
    coat, turn = animal.coat, animal.turn
    for side in (-1, 1):
        ear = np.array([0.16 - 0.72j, 0.5 - 1.12j, 0.86 - 1.5j, 0.97 - 1.0j, 0.96 - 0.2j])
        inner = np.array([0.4 - 0.75j, 0.6 - 1.0j, 0.8 - 1.3j, 0.86 - 0.9j, 0.84 - 0.45j])
        for knots, colour in ((ear, None), (inner, mix(PINK, coat.base, 0.25))):
            right = curve(knots, closed=False)
            outline = (right if side > 0 else mirrored(right)) - 0.1 * turn
            if colour:
                pen.fill(outline, colour)
            else:
                pen.fur(
                    outline,
                    coat,
                    mix(coat.base, coat.marks, 0.5) if coat.pattern == "stripes" else None,
                )
    face = [-0.86j, 0.62 - 0.74j, 1.0 - 0.12j, 1.06 + 0.3j, 0.62 + 0.72j, 0.86j]
    face += [-0.62 + 0.72j, -1.06 + 0.3j, -1.0 - 0.12j, -0.62 - 0.74j]
    pen.fur(curve(face), coat)
    if coat.pattern == "stripes":
        for x in (-0.26, 0.0, 0.26):
            pen.fill(
                limb([x * 1.6 + 0.1 * turn - 0.85j, x + 0.2 * turn - 0.42j], [0.14, 0.05]),
                coat.marks,
            )
    muzzle = 0.34 * turn + 0.4j
    for side in (-1, 1):
        pen.fill(oval(muzzle + 0.2 * side, 0.27, 0.24), coat.pale)
    pen.fill(oval(muzzle + 0.22j, 0.16, 0.14), coat.pale)
    for side in (-1, 1):
        pen.line(
            muzzle + np.array([-0.08j, 0.08j, side * 0.12 + 0.15j, side * 0.26 + 0.08j]), INK, 0.04
        )
        for slope in (-0.16, 0.0, 0.14):
            start = muzzle + side * 0.28 + slope * 0.4j
            whisker = np.array(
                [
                    start,
                    start + side * 0.5 + slope * 0.9j - 0.05j,
                    start + side * 1.05 + slope * 2.2j,
                ]
            )
            pen.line(whisker, (250, 248, 240) if sum(coat.base) < 420 else (90, 84, 80), 0.03)
    pen.fill(curve(muzzle + np.array([-0.15 - 0.22j, 0.15 - 0.22j, -0.04j])), PINK)
    _eyes(pen, animal, 0.45, -0.06, 0.24, 0.24)


def _dog_head(pen: Pen, animal: Animal) -> None:
    coat, turn = animal.coat, animal.turn
    ear_colour = mix(coat.base, coat.marks, 0.7)
    outlines = {
        "up": [0.3 - 0.7j, 0.5 - 1.25j, 0.72 - 1.5j, 0.95 - 1.15j, 0.86 - 0.3j],
        "folded": [0.3 - 0.75j, 0.7 - 1.12j, 1.16 - 1.0j, 1.28 - 0.5j, 1.0 - 0.62j, 0.8 - 0.3j],
        "hanging": [
            0.42 - 0.78j,
            0.9 - 0.84j,
            1.18 - 0.3j,
            1.26 + 0.42j,
            1.02 + 0.74j,
            0.8 + 0.3j,
            0.72 - 0.3j,
        ],
    }
    ears = [
        curve(outlines[animal.ears]) - 0.1 * turn,
        mirrored(curve(outlines[animal.ears])) - 0.1 * turn,
    ]
    if animal.ears == "up":
        for ear in ears:
            pen.fur(ear, coat, ear_colour)
            pen.fill((ear - ear.mean()) * 0.55 + ear.mean(), mix(PINK, ear_colour, 0.5))
    skull = [-0.88j, 0.58 - 0.76j, 0.86 - 0.2j, 0.74 + 0.4j, 0.5 + 0.84j, 0.98j]
    pen.fur(curve(skull + [-np.conj(knot) for knot in skull[-2:0:-1]]), coat)
    if coat.pattern == "patches":
        pen.fill(oval(0.28 * turn + 0.36 - 0.14j, 0.3, 0.34, 0.3), coat.marks)
    blaze = np.array([0.15 * turn - 0.8j, 0.35 * turn - 0.2j, 0.5 * turn + 0.3j])
    if coat.pattern != "plain":
        pen.fill(limb(blaze, [0.12, 0.2, 0.5]), coat.pale)
    _eyes(pen, animal, 0.38, -0.16, 0.15, 0.16)
    muzzle = 0.62 * turn + 0.5j
    if animal.tongue:
        pen.fill(
            curve(
                muzzle + np.array([-0.16 + 0.3j, 0.16 + 0.3j, 0.17 + 0.66j, 0.82j, -0.17 + 0.66j])
            ),
            (224, 96, 112),
        )
        pen.line(muzzle + np.array([0.35j, 0.66j]), (180, 66, 84), 0.03)
    pen.fur(
        curve(
            muzzle
            + np.array(
                [
                    -0.42j,
                    0.34 - 0.3j,
                    0.52 + 0.08j,
                    0.34 + 0.42j,
                    0.46j,
                    -0.34 + 0.42j,
                    -0.52 + 0.08j,
                    -0.34 - 0.3j,
                ]
            )
        ),
        coat,
        coat.pale,
    )
    nose = muzzle + 0.1 * turn - 0.16j
    for side in (-1, 1):
        pen.line(nose + np.array([0, 0.26j, side * 0.2 + 0.42j, side * 0.42 + 0.3j]), INK, 0.05)
    pen.fill(
        curve(
            nose + np.array([-0.26 - 0.1j, -0.19j, 0.26 - 0.1j, 0.18 + 0.1j, 0.18j, -0.18 + 0.1j])
        ),
        INK,
    )
    pen.fill(oval(nose + complex(-0.08, -0.09), 0.07, 0.035), (170, 165, 165))
    if animal.ears != "up":
        for ear in ears:
            pen.fur(ear, coat, ear_colour)


def _neck(pen: Pen, animal: Animal) -> None:
    """A collar with a tag, where the head meets the body."""
    if animal.collar:
        wide = 0.62 * animal.girth
        pen.line(
            [-wide + 0.72j, -0.3 * wide + 0.98j, 0.3 * wide + 0.98j, wide + 0.72j],
            animal.collar,
            0.2,
        )
        pen.fill(oval(1.1j, 0.13, 0.13), (236, 204, 92))


def _tail(pen: Pen, animal: Animal, root: complex) -> None:
    bend = pen.generator.uniform(-0.25, 0.25)
    if animal.species == "cats":  # long, thin, with a hook at the end
        knots = root + np.array(
            [0, 0.9 + 0.1j + bend, 1.35 - 0.6j, 1.0 - 1.4j + bend, 1.45 - 2.0j - bend]
        )
        pen.fur(limb(knots, [0.26, 0.28, 0.28, 0.26, 0.22]), animal.coat, across=True)
    else:  # shorter and tapering, carried up or hanging
        up = 1 if pen.generator.random() < 0.7 else -0.55
        knots = root + np.array(
            [0, 0.5 - 0.35j * up, 0.85 - (0.95 + bend) * 1j * up, 0.8 - 1.5j * up]
        )
        pen.fur(limb(knots, [0.4, 0.36, 0.26, 0.1]), animal.coat, across=True)


def _leg(pen: Pen, animal: Animal, hip: complex, foot: complex, far: bool = False) -> None:
    coat, thick = animal.coat, 0.55 * animal.girth
    colour = mix(coat.base, INK, 0.35) if far else None
    pen.fur(
        limb([hip, (hip + foot) / 2 + 0.06, foot - 0.1j], [thick * 1.3, thick * 0.9, thick * 0.75]),
        coat,
        colour,
        True,
    )
    paw = colour or (coat.pale if coat.pattern != "plain" else coat.base)
    pen.fur(oval(foot - 0.12, 0.55 * thick + 0.08, 0.2), coat, paw)


def _portrait(pen: Pen, animal: Animal) -> None:
    wide = 1.25 * animal.girth
    shoulders = [
        -0.5 * wide + 0.3j,
        0.5 * wide + 0.3j,
        0.85 * wide + 1.2j,
        1.1 * wide + 2.6j,
        -1.1 * wide + 2.6j,
        -0.85 * wide + 1.2j,
    ]
    pen.fur(curve(shoulders), animal.coat)
    pen.fur(
        curve([-0.35 + 0.8j, 0.35 + 0.8j, 0.45 + 1.6j, 2.2j, -0.45 + 1.6j]),
        animal.coat,
        animal.coat.pale,
    )
    _neck(pen, animal)
    head(pen, animal)


def _sitting(pen: Pen, animal: Animal) -> None:
    wide, coat = animal.girth, animal.coat
    _tail(pen, animal, 0.7 * wide + 2.75j)
    body = [
        -0.5 * wide + 0.4j,
        0.5 * wide + 0.4j,
        0.8 * wide + 1.5j,
        1.08 * wide + 2.6j,
        0.6 * wide + 3.0j,
    ]
    pen.fur(curve(body + [-np.conj(knot) for knot in body[:1:-1]]), coat)
    for side in (-1, 1):
        pen.fur(oval(side * 0.82 * wide + 2.55j, 0.42 * wide, 0.55, side * -0.2), coat)
        pen.fur(oval(side * 0.9 * wide + 3.02j, 0.42, 0.17), coat, coat.pale)
    pen.fur(curve([-0.32 + 0.8j, 0.32 + 0.8j, 0.4 + 1.4j, 2.0j, -0.4 + 1.4j]), coat, coat.pale)
    for side in (-1, 1):
        _leg(pen, animal, side * 0.33 * wide + 1.6j, side * 0.36 * wide + 0.12 + 3.05j)
    _neck(pen, animal)
    head(pen, animal)


def _standing(pen: Pen, animal: Animal) -> None:
    deep, stride = animal.girth, pen.generator.uniform(-0.3, 0.3)
    _tail(pen, animal, 2.2 + 0.75j)
    for hip, foot in ((0.25 + 1.4j, 0.2 - stride + 2.85j), (1.75 + 1.4j, 1.7 + stride + 2.85j)):
        _leg(pen, animal, hip, foot, far=True)
    body = [-0.35 + 0.3j, 0.8 + 0.42j, 1.9 + 0.35j, 2.4 + 0.85j, 2.2 + 1.55j]
    body += [1.3 + (1.1 + 0.45 * deep) * 1j, 0.3 + (1.1 + 0.65 * deep) * 1j, -0.45 + 1.3j]
    pen.fur(curve(body), animal.coat)
    for hip, foot in ((0.0 + 1.5j, -0.05 + stride + 3.0j), (2.0 + 1.4j, 2.1 - stride + 3.0j)):
        _leg(pen, animal, hip, foot)
    _neck(pen, animal)
    head(pen, animal)


def _lying(pen: Pen, animal: Animal) -> None:
    coat, wide = animal.coat, animal.girth
    _tail(pen, animal, 2.7 + 1.5j)
    body = [
        -0.6 + 0.6j,
        0.6 + 0.25j,
        1.8 + (0.55 - 0.4 * wide) * 1j,
        2.9 + 0.7j,
        3.0 + 1.6j,
        1.2 + 1.8j,
        -0.7 + 1.75j,
    ]
    pen.fur(curve(body), coat)
    pen.fur(oval(2.2 + 1.2j, 0.75, 0.62), coat)
    pen.fur(oval(1.7 + 1.75j, 0.6, 0.18), coat, coat.pale if coat.pattern != "plain" else coat.base)
    for lift in (0.0, 0.14):
        pen.fur(
            limb(
                [0.3 + 1.5j, -0.7 + (1.6 + lift) * 1j, -1.4 - lift + (1.66 + lift) * 1j],
                [0.6 * wide, 0.42, 0.36],
            ),
            coat,
            None,
            True,
        )
    _neck(pen, animal)
    head(pen, animal)


# Each pose with the box that it fills: left, top, right, bottom.
POSES: tuple[tuple[Callable[[Pen, Animal], None], tuple[float, float, float, float]], ...] = (
    (_portrait, (-1.3, -1.5, 1.3, 1.9)),
    (_sitting, (-1.5, -1.5, 1.9, 3.2)),
    (_standing, (-1.3, -1.5, 3.4, 3.2)),
    (_lying, (-1.7, -1.5, 3.5, 2.0)),
)


def invent(species: Species, generator: np.random.Generator) -> Animal:
    """Makes up an animal; everything that does not belong to the species is drawn alike for
    both.
    """
    chance = generator.random

    def pick(choices: tuple[Colour, ...]) -> Colour:
        return choices[generator.integers(len(choices))]

    base = pick(FURS)
    marks = pick(FURS)
    coat = Coat(
        base=base,
        marks=(
            mix(base, INK, 0.5)
            if chance() < 0.5 or sum(map(abs, np.subtract(base, marks))) < 120
            else marks
        ),
        pale=mix(base, (250, 246, 240), generator.uniform(0.35, 0.95)),
        pattern=generator.choice(["plain", "stripes", "spots", "patches"], p=PATTERNS[species]),
        fluff=generator.uniform(0.02, 0.14),
    )
    return Animal(
        species=species,
        coat=coat,
        turn=generator.uniform(-0.8, 0.8),
        tilt=generator.normal(0, 0.16),
        eyes=pick(EYES[species]),
        asleep=chance() < 0.1,
        ears=(
            "up" if species == "cats" or chance() < 0.2 else generator.choice(["folded", "hanging"])
        ),
        girth=generator.normal(0.82 if species == "cats" else 1.05, 0.07),
        collar=pick(CLOTHS) if chance() < 0.4 else None,
        tongue=species == "dogs" and chance() < 0.4,
    )
