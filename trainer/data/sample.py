"""The built-in sample: cats and dogs that the program draws itself, so that everything can be tried
without a download.

Both classes share palette, coats, poses, sizes and surroundings; ears, muzzle, whiskers and tail
tell them apart. A head has radius 1 and its centre at 0; bodies are drawn around it.
"""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image, ImageFilter

from trainer.data.drawing import (
    INK,
    WHITE,
    Coat,
    Colour,
    Pen,
    Points,
    curve,
    knots,
    limb,
    mirrored,
    mix,
    oval,
    paint_background,
    paint_foreground,
    rgb,
)
from trainer.data.ledger import SPLITS
from whisker_ml.terminal import progress

Species = Literal["cats", "dogs"]

_SUPERSAMPLING = 2
# The number of a random stream that no split has.
_UNSEEN = len(SPLITS)

_PINK = (226, 140, 146)
# One palette for both species, so that colour does not tell them apart.
_FURS = "d68a42 3c3636 88868a 80583a e2c89e ece8e2 b49470 624a3c c4703c a6a098"
_CLOTHS = "c42c34 285cb0 348c54 e6b230 804096"
_EYES = {
    "cats": "c4c854 7ab05c e2b046 80b0d2 966432",
    "dogs": "623e26 422c22 966432 80b0d2",
}
_PATTERNS = ("plain", "stripes", "spots", "patches")
_PATTERN_SHARES = {"cats": (0.25, 0.45, 0.1, 0.2), "dogs": (0.35, 0.1, 0.25, 0.3)}

# The right ear, and in a cat's its inside.
_EARS = {
    "cats": ".16-.72j .5-1.12j .86-1.5j .97-1j .96-.2j",
    "inside": ".4-.75j .6-1j .8-1.3j .86-.9j .84-.45j",
    "up": ".3-.7j .5-1.25j .72-1.5j .95-1.15j .86-.3j",
    "folded": ".3-.75j .7-1.12j 1.16-1j 1.28-.5j 1-.62j .8-.3j",
    "hanging": ".42-.78j .9-.84j 1.18-.3j 1.26+.42j 1.02+.74j .8+.3j .72-.3j",
}
# The right half of a face, from top to chin.
_FACES = {
    "cats": "-.86j .62-.74j 1-.12j 1.06+.3j .62+.72j .86j",
    "dogs": "-.88j .58-.76j .86-.2j .74+.4j .5+.84j .98j",
}
_MUZZLE = "-.42j .34-.3j .52+.08j .34+.42j .46j -.34+.42j -.52+.08j -.34-.3j"
_NOSES = {
    "cats": "-.15-.22j .15-.22j -.04j",
    "dogs": "-.26-.26j -.35j .26-.26j .18-.06j .02j -.18-.06j",
}
_TONGUE = "-.16+.3j .16+.3j .17+.66j .82j -.17+.66j"


@dataclass(frozen=True)
class Animal:
    """One cat or dog, apart from its pose."""

    species: Species
    coat: Coat
    turn: float  # where it looks: -1 left … 1 right
    tilt: float  # of the head, radians
    eyes: Colour
    asleep: bool
    ears: str  # a name in _EARS
    girth: float  # 1: a sturdy dog
    collar: Colour | None
    tongue: bool


def invent(species: Species, generator: np.random.Generator) -> Animal:
    """Makes up an animal; what does not belong to the species is drawn alike for both."""
    chance = generator.random

    def pick(palette: str) -> Colour:
        return rgb(generator.choice(palette.split()))

    base, marks = pick(_FURS), pick(_FURS)
    if chance() < 0.5 or sum(map(abs, np.subtract(base, marks))) < 120:
        marks = mix(base, INK, 0.5)
    pale = mix(base, WHITE, generator.uniform(0.35, 0.95))
    pattern = generator.choice(_PATTERNS, p=_PATTERN_SHARES[species])
    cat = species == "cats"
    dog_ears = "up" if chance() < 0.2 else generator.choice(["folded", "hanging"])
    return Animal(
        species=species,
        coat=Coat(base, marks, pale, pattern, fluff=generator.uniform(0.02, 0.14)),
        turn=generator.uniform(-0.8, 0.8),
        tilt=generator.normal(0, 0.16),
        eyes=pick(_EYES[species]),
        asleep=chance() < 0.1,
        ears="cats" if cat else dog_ears,
        girth=generator.normal(0.82 if cat else 1.05, 0.07),
        collar=pick(_CLOTHS) if chance() < 0.4 else None,
        tongue=not cat and chance() < 0.4,
    )


def _both(half: str) -> Points:
    """A symmetric outline from its right half."""
    right = knots(half)
    return curve(np.concatenate([right, mirrored(right[-2:0:-1])]))


def _head(pen: Pen, animal: Animal) -> None:
    coat, turn, cat = animal.coat, animal.turn, animal.species == "cats"
    pen = Pen(pen.image, pen.generator, pen.origin, pen.unit * np.exp(1j * animal.tilt))
    muzzle = (0.34 * turn + 0.4j) if cat else (0.62 * turn + 0.5j)
    ear_colour = mix(coat.base, coat.marks, 0.4 if cat else 0.7)

    def ears() -> None:
        for outline, colour in ((animal.ears, ear_colour), ("inside", mix(_PINK, coat.base, 0.25))):
            right = curve(knots(_EARS[outline]))
            for ear in (right - 0.1 * turn, mirrored(right) - 0.1 * turn):
                if outline != "inside":
                    pen.fur(ear, coat, colour)
                elif animal.ears in ("cats", "up"):
                    pen.fill(ear, colour)

    if animal.ears in ("cats", "up"):
        ears()
    pen.fur(_both(_FACES[animal.species]), coat)
    if not cat and coat.pattern != "plain":  # a blaze
        blaze = np.array([0.15 * turn - 0.8j, 0.35 * turn - 0.2j, 0.5 * turn + 0.3j])
        pen.fill(limb(blaze, [0.12, 0.2, 0.5]), coat.pale)
    if animal.tongue:
        pen.fill(curve(muzzle + knots(_TONGUE)), (224, 96, 112))
    if cat:
        for side in (-0.2, 0.2):
            pen.fill(oval(muzzle + side, 0.27, 0.24), coat.pale)
        pen.fill(oval(muzzle + 0.22j, 0.16, 0.14), coat.pale)
        whiskers = WHITE if sum(coat.base) < 420 else (90, 84, 80)
        for side in (-1, 1):
            for slope in (-0.16, 0.0, 0.14):
                start = muzzle + side * 0.28 + slope * 0.4j
                middle, end = side * 0.5 + slope * 0.9j - 0.05j, side * 1.05 + slope * 2.2j
                pen.line(start + np.array([0, middle, end]), whiskers, 0.03)
    else:
        pen.fur(curve(muzzle + knots(_MUZZLE)), coat, coat.pale)
    for side in (-1, 1):
        mouth = np.array([-0.08j, 0.1j, side * 0.14 + 0.17j, side * 0.3 + 0.1j])
        pen.line(muzzle + mouth * (1 if cat else 1.4), INK, 0.045)
    pen.fill(curve(muzzle + knots(_NOSES[animal.species])), _PINK if cat else INK)
    _eyes(pen, animal, *((0.45, -0.06, 0.24) if cat else (0.38, -0.16, 0.15)))
    if animal.ears not in ("cats", "up"):
        ears()


def _eyes(pen: Pen, animal: Animal, apart: float, level: float, size: float) -> None:
    for side in (-1, 1):
        centre = side * apart * (1 - 0.12 * abs(animal.turn)) + 0.28 * animal.turn + level * 1j
        if animal.asleep:
            pen.line(centre + np.array([-size, 0.6j * size, size]), INK, 0.07)
            continue
        pen.fill(oval(centre, size * 1.15, size * 1.15), INK)
        pen.fill(oval(centre, size, size), animal.eyes)
        slit = animal.species == "cats" and animal.eyes[1] > 150
        pupil = centre + 0.05 * animal.turn
        pen.fill(oval(pupil, size * (0.28 if slit else 0.62), size * (0.9 if slit else 0.68)), INK)
        pen.fill(oval(pupil - 0.05 - 0.07j, 0.055, 0.055), WHITE)


def _tail(pen: Pen, animal: Animal, root: complex) -> None:
    bend = pen.generator.uniform(-0.25, 0.25)
    if animal.species == "cats":  # long, thin, with a hook at the end
        spine = [0, 0.9 + 0.1j + bend, 1.35 - 0.6j, 1.0 - 1.4j + bend, 1.45 - 2.0j - bend]
        widths = [0.26, 0.28, 0.28, 0.26, 0.22]
    else:  # shorter and tapering, carried up or hanging
        up = 1 if pen.generator.random() < 0.7 else -0.55
        spine = [0, 0.5 - 0.35j * up, 0.85 - (0.95 + bend) * 1j * up, 0.8 - 1.5j * up]
        widths = [0.4, 0.36, 0.26, 0.1]
    pen.fur(limb(root + np.array(spine), widths), animal.coat, across=True)


class Pose(NamedTuple):
    """How an animal sits, stands or lies; all of it in knots.

    Attributes:
        box: that it fills, from left and top to right and bottom.
        tail: its root, if it is seen.
        body: its outline for a girth of 1.
        chest: the same.
        legs: of each hip and foot.
    """

    box: str
    tail: str
    body: str
    chest: str
    legs: str


_POSES = (
    Pose(
        "-1.3-1.5j 1.3+1.9j",
        "",
        "-.6+.3j .6+.3j 1.05+1.2j 1.4+2.6j -1.4+2.6j -1.05+1.2j",
        "-.35+.8j .35+.8j .45+1.6j 2.2j -.45+1.6j",
        "",
    ),
    Pose(
        "-1.5-1.5j 1.9+3.2j",
        ".7+2.75j",
        "-.5+.4j .5+.4j .8+1.5j 1.2+2.6j .8+3.05j -.8+3.05j -1.2+2.6j -.8+1.5j",
        "-.32+.8j .32+.8j .4+1.4j 2j -.4+1.4j",
        "-.33+1.6j -.4+3.05j .33+1.6j .45+3.05j",
    ),
    Pose(
        "-1.3-1.5j 3.4+3.2j",
        "2.2+.75j",
        "-.35+.3j .8+.42j 1.9+.35j 2.4+.85j 2.2+1.55j 1.3+1.5j .3+1.75j -.45+1.3j",
        "",
        ".25+1.4j .35+2.9j 1.75+1.4j 1.6+2.9j 1.5j -.2+3j 2+1.4j 2.2+3j",
    ),
    Pose(
        "-1.7-1.5j 3.5+2j",
        "2.7+1.5j",
        "-.6+.6j .6+.25j 1.8+.15j 2.9+.7j 3+1.6j 1.2+1.8j -.7+1.75j",
        "",
        ".3+1.5j -1.3+1.66j 2.2+1.4j 1.4+1.75j",
    ),
)
_POSE_SHARES = (0.4, 0.25, 0.2, 0.15)


def draw_pose(pen: Pen, animal: Animal, pose: int) -> None:
    """Draws an animal in one of the poses, its head around the pen's zero."""
    _, tail, body, chest, legs = _POSES[pose]
    coat, girth = animal.coat, animal.girth

    def broad(outline: str) -> Points:
        points = knots(outline)
        return points.real * (girth if pose < 2 else 1) + 1j * points.imag

    for root in knots(tail):
        _tail(pen, animal, root)
    pen.fur(curve(broad(body)), coat)
    if chest:
        pen.fur(curve(broad(chest)), coat, coat.pale)
    joints = broad(legs)
    for hip, foot in zip(joints[::2], joints[1::2], strict=True):
        paw, thick = foot + pen.generator.uniform(-0.15, 0.15), 0.55 * girth
        pen.fur(limb([hip, (hip + paw) / 2, paw], [thick * 1.3, thick, thick * 0.8]), coat)
        pen.fur(oval(paw - 0.1, 0.6 * thick, 0.2), coat, coat.pale)
    if animal.collar:
        wide = 0.62 * girth
        band = [-wide + 0.72j, -0.3 * wide + 0.98j, 0.3 * wide + 0.98j, wide + 0.72j]
        pen.line(band, animal.collar, 0.2)
    _head(pen, animal)


def draw(species: Species, generator: np.random.Generator) -> Image.Image:
    """Draws one picture, RGB, 120 to 300 pixels a side.

    Args:
        species: ``cats`` or ``dogs``.
        generator: decides everything else.
    """
    uniform = generator.uniform
    long, aspect = uniform(160, 300), np.exp(generator.normal(0, 0.28))
    width, height = (max(120, round(long * min(1.0, share))) for share in (aspect, 1 / aspect))
    image = Image.new("RGB", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    pen = Pen(image, generator, 0, image.height)
    paint_background(pen)
    animal, pose = invent(species, generator), generator.choice(len(_POSES), p=_POSE_SHARES)
    start, end = knots(_POSES[pose].box)
    size = end - start
    unit = min(image.width / size.real, image.height / size.imag) * uniform(0.7, 1.15)
    spare = complex(*image.size) - unit * size
    origin = complex(spare.real * uniform(0, 1), spare.imag * uniform(0.3, 1)) - unit * start
    turned = unit * complex(np.exp(1j * generator.normal(0, 0.06)))
    draw_pose(Pen(image, generator, origin, turned), animal, pose)
    if generator.random() < 0.5:
        paint_foreground(pen)
    if generator.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _photograph(image.resize((width, height), Image.Resampling.BOX), generator)


def _photograph(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Blur, exposure, uneven and coloured light, and noise."""
    uniform = generator.uniform
    if generator.random() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(uniform(0.3, 1.6)))
    levels = np.linspace(0, 1, 256, dtype=np.float32) ** np.float32(uniform(0.75, 1.4))
    pixels = levels[np.asarray(image)]
    height, width, _ = pixels.shape
    across = np.linspace(uniform(0.65, 1.1), uniform(0.65, 1.1), width, dtype=np.float32)
    down = np.linspace(uniform(0.75, 1.1), uniform(0.75, 1.1), height, dtype=np.float32)
    pixels *= (down[:, None] * across)[..., None] * uniform(0.88, 1.1, 3).astype(np.float32)
    pixels += generator.standard_normal((height, width, 1), dtype=np.float32) * np.float32(
        uniform(0.0, 0.07)
    )
    return Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))


def _encoded(species: Species, seed: int, stream: int, number: int) -> bytes:
    generator = np.random.default_rng([seed, stream, get_args(Species).index(species), number])
    image = draw(species, generator)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(generator.integers(55, 96)))
    return buffer.getvalue()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Makes a folder appear when the block ends without an error, with all that was put into the
    one that is given; else nothing is left of it. Of two processes, the first one counts.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as staging:
        whole = Path(staging, folder.name)
        whole.mkdir()
        yield whole
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


def write_sample(
    folder: Path,
    *,
    seed: int = 0,
    train_per_class: int = 300,
    validation_per_class: int = 100,
    test_per_class: int = 100,
) -> None:
    """Draws ``<folder>/{train,validation,test}/{cats,dogs}/*.jpg``, all of it or nothing.

    Args:
        folder: where to; left alone where it exists.
        seed: of everything that varies.
        train_per_class: pictures of each class to train on.
        validation_per_class: pictures of each class to select on.
        test_per_class: pictures of each class to judge on.
    """
    if folder.is_dir():
        return
    first = 0
    counts = (train_per_class, validation_per_class, test_per_class)
    with whole_folder(folder) as whole:
        for stream, (split, count) in enumerate(zip(SPLITS, counts, strict=True)):
            for species in get_args(Species):
                target = whole / split / species
                target.mkdir(parents=True)
                for number in progress(
                    range(count), desc=f"drawing {split} {species}", unit=" pictures"
                ):
                    name = f"{species.removesuffix('s')}.{first + number}.jpg"
                    (target / name).write_bytes(_encoded(species, seed, stream, number))
            first += count


def unseen_pictures(seed: int, count_per_class: int) -> list[tuple[str, bytes]]:
    """Draws pictures that no sample holds.

    Args:
        seed: of everything that varies.
        count_per_class: how many of each class.

    Returns:
        Class and JPEG of each.
    """
    return [
        (species, _encoded(species, seed, _UNSEEN, number))
        for species in get_args(Species)
        for number in range(count_per_class)
    ]
