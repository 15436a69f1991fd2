"""The built-in sample: cats and dogs that the program draws itself, so that everything can be tried
without a download.

Both classes share palette, coats, poses, sizes and surroundings; ears, eyes, muzzle, whiskers and
tail tell them apart. A head has radius 1 and its centre at 0; bodies are drawn around it. Figures
are text, as `drawing` reads it.
"""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageColor, ImageFilter

from trainer.data.drawing import Colour, Pen, Skin, knots, pattern, solid
from trainer.data.ledger import SPLITS
from whisker_ml.terminal import progress

Species = Literal["cats", "dogs"]

_SUPERSAMPLING = 2
# The number of a random stream that no split has.
_UNSEEN = len(SPLITS)

# For both species alike, so that colour does not tell them apart.
_FURS = "peru chocolate sienna saddlebrown burlywood tan linen dimgray darkgray #3c3636"
_EYES = "goldenrod peru sienna skyblue yellowgreen"
_CLOTHS = "firebrick royalblue seagreen goldenrod rebeccapurple"
# Width and height of stripes, spots and patches.
_MARKS = (0.16 + 1.2j, 0.3 + 0.3j, 0.9 + 0.9j)
# The box that an animal fills, from left top to right bottom, the root of its tail, and its body:
# seen to the chest, sitting, standing and lying.
_POSES = (
    (
        "-1.3-1.5j 1.3+1.9j",
        0.3 + 1.6j,
        """coat -.6+.2j .6+.2j 1.1+1.2j 1.5+2.8j -1.5+2.8j -1.1+1.2j;
        pale -.5+.7j .5+.7j .5+1.8j 2.3j -.5+1.8j;""",
    ),
    (
        "-1.5-1.5j 1.9+3.2j",
        0.7 + 2.75j,
        """coat -.5+.4j .5+.4j .9+1.6j 1.4+2.6j .9+3.2j -.9+3.2j -1.4+2.6j -.9+1.6j;
        pale -.45+.7j .45+.7j .45+1.6j 2.1j -.45+1.6j;
        coat both .05+1.4j .7+1.4j .75+2.6j .7+3.1j .2+3.1j .1+2.6j;
        pale both .1+2.85j .9+2.85j .9+3.2j .1+3.2j;""",
    ),
    (
        "-1.3-1.5j 3.4+3.2j",
        2.2 + 0.75j,
        """dark .5+1.4j 1.2+1.4j .8+3j .4+3j; dark 1.3+1.4j 2+1.4j 1.7+3j 1.3+3j;
        coat -.5+.2j .8+.4j 2+.2j 2.6+.8j 2.4+1.7j 1.3+1.5j .3+1.9j -.6+1.4j;
        coat -.5+1.2j .4+1.2j .2+3.1j -.4+3.1j; coat 1.5+1j 2.5+1j 2.4+2.2j 2.5+3.1j 1.9+3.1j;
        pale -.6+2.8j .25+2.8j .25+3.2j -.6+3.2j; pale 1.75+2.8j 2.6+2.8j 2.6+3.2j 1.75+3.2j;""",
    ),
    (
        "-1.7-1.5j 3.5+2j",
        2.7 + 1.5j,
        """coat -.7+.5j .6+.2j 1.9+.05j 3.1+.6j 3.3+1.8j 1.2+1.9j -.9+1.85j;
        coat 1.5+.9j 2.6+.6j 2.9+1.7j 2+2j 1.3+1.9j; pale 1+1.6j 2+1.6j 2+1.95j 1+1.95j;
        coat -1.4+1.4j .7+1.1j .8+1.9j -1.4+1.9j; pale -1.7+1.45j -.9+1.45j -.9+1.9j -1.7+1.9j;""",
    ),
)
_POSE_SHARES = (0.4, 0.25, 0.2, 0.15)
_COLLARS = ("", "cloth -.8+.5j -.3+.95j .3+.95j .8+.5j .75+.85j .3+1.3j -.3+1.3j -.75+.85j;")
_TAILS = {
    "cats": (
        "coat .2j 1+.35j 1.6-.5j 1.2-1.4j 1.7-2.1j 1.4-2.3j .85-1.4j 1.2-.6j .8 -.2j;",
        "coat .2j 1+.4j 1.9+.2j 1.7-1.2j 1-1.6j 1-1.3j 1.4-1j 1.5 .8+.05j -.2j;",
    ),
    "dogs": (
        "coat .25j .8-.1j 1.2-1j .8-1.8j! .6-.9j .4-.45j -.3j;",
        "coat -.25j .8+.05j 1.1+.6j .8+1.2j! .6+.6j .4+.3j .2j;",
    ),
}
_CAT_EYES = """black both .17-.36j .75-.36j .75+.22j .17+.22j;
eye both .21-.32j .71-.32j .71+.18j .21+.18j; black both .37-.3j .55-.3j .55+.16j .37+.16j;
white both .34-.2j .46-.2j .46-.08j .34-.08j;"""
_DOG_EYES = """black both .2-.34j .56-.34j .56+.02j .2+.02j;
eye both .23-.31j .53-.31j .53-.01j .23-.01j; black both .27-.27j .49-.27j .49-.05j .27-.05j;
white both .3-.25j .4-.25j .4-.15j .3-.15j;"""
_ASLEEP = "black both .15-.12j! .4+.12j .7-.12j! .45+.25j;"
# Layers of a head, one upon the other, each with its alternatives.
_HEADS = {
    "cats": (
        ("dark both .1-.6j .3-1.1j .97-1.65j! 1.05-.2j; pink both .4-.7j .86-1.4j! .88-.4j;",),
        ("coat -.5-.9j .5-.9j 1-.6j 1.15+.2j .8+.85j .3+.95j -.3+.95j -.8+.85j -1.15+.2j -1-.6j;",),
        (_CAT_EYES, _CAT_EYES, _CAT_EYES, _ASLEEP),
        (
            """pale both -.08+.2j .5+.2j .5+.65j -.08+.65j; pale -.2+.5j .2+.5j .2+.85j -.2+.85j;
            whisker both .25+.34j! 1.3+.02j! .25+.4j!; whisker both .25+.41j! 1.4+.36j! .25+.47j!;
            whisker both .25+.48j! 1.3+.7j! .25+.54j!; pink -.2+.15j .2+.15j .03+.44j -.03+.44j;
            black both -.02+.3j! .02+.5j .16+.6j .3+.48j! .16+.68j -.02+.55j;""",
        ),
    ),
    "dogs": (
        (
            "dark both .2-.6j .4-1.4j .8-1.75j 1.1-1.1j .95-.2j; pink both .4-.7j .75-1.4j .9-.4j;",
            "dark both .2-.6j .6-1.35j 1.4-1.1j 1.4-.3j! 1.1-.6j .8-.3j;",
            "dark both .3-.8j 1-1.1j 1.4-.2j 1.5+.7j 1+1j .75+.3j;",
        ),
        ("coat -.5-.95j .5-.95j 1-.5j .85+.4j .55+1.1j -.55+1.1j -.85+.4j -1-.5j;",),
        ("", "pale -.12-.9j .12-.9j .2-.2j .5+.4j -.5+.4j -.2-.2j;"),
        (_DOG_EYES, _DOG_EYES, _DOG_EYES, _ASLEEP),
        ("", "crimson -.2+.8j .2+.8j .22+1.35j -.22+1.35j;"),
        (
            """pale -.3+.05j .3+.05j .65+.5j .4+1.05j -.4+1.05j -.65+.5j;
            black both -.03+.4j! .03+.68j .2+.8j .42+.62j! .22+.9j -.03+.75j;
            black -.36+.14j .36+.14j .2+.52j -.2+.52j;""",
        ),
    ),
}
# Colours of the wall or the sky, and the width and height of its marks; the same of the ground; and
# what stands around zero on the ground, in picture heights.
_PLACES = (
    (
        "wheat thistle lightsteelblue tan silver darkseagreen rosybrown khaki",
        0.5 + 20j,
        "sienna tan slategray rosybrown dimgray peru",
        0.4 + 5j,
        (
            """white -.2-.62j! .2-.62j! .2-.2j! -.2-.2j!;
            skyblue both .01-.6j! .18-.6j! .18-.22j! .01-.22j!;""",
            "paint -.12-.5j! .12-.5j! .12-.26j! -.12-.26j!; white -.1-.28j! -.02-.44j! .1-.28j!;",
            "paint -.4+.1j -.4-.32j .4-.32j .4+.1j; pale -.36-.08j .0-.08j .0+.08j -.36+.08j;",
            """green -.04-.1j -.4-.2j -.1-.6j -.06-.5j! .25-.6j .3-.2j .04-.1j;
            sienna -.09-.14j! .09-.14j! .06+.03j! -.06+.03j!;""",
        ),
    ),
    (
        "skyblue lightskyblue lightsteelblue steelblue thistle peachpuff",
        4 + 0.7j,
        "olivedrab yellowgreen darkkhaki forestgreen seagreen lightgray",
        0.12 + 0.4j,
        (
            """saddlebrown -.03-.3j! .03-.3j! .03+.03j! -.03+.03j!;
            green -.2-.26j -.2-.5j .0-.62j .2-.5j .2-.26j;""",
            "darkgreen -.16! -.24j -.12-.2j! -.5j! .12-.2j! -.24j .16!;",
            """paint -.2-.24j! .2-.24j! .2! -.2!; brown -.24-.24j! -.44j! .24-.24j!;
            saddlebrown -.05-.15j! .04-.15j! .04! -.05!;""",
            "green -.28 -.2-.16j -.1-.04j .1-.22j .28;",
        ),
    ),
)
# What may hide a part of the animal: a ball, a cushion, a post.
_FRONT = (
    "paint -.1-.1j .1-.1j .1+.1j -.1+.1j;",
    "paint -.4-.1j .4-.1j .4+.3j -.4+.3j;",
    "saddlebrown -.03-1.2j! .03-1.2j! .03+.5j! -.03+.5j!;",
)


def _pick(generator: np.random.Generator, palette: str) -> Colour:
    return np.array(ImageColor.getrgb(generator.choice(palette.split())))


def _skins(generator: np.random.Generator, size: tuple[int, int], unit: float) -> dict[str, Skin]:
    """What things and an animal of either species are filled with.

    Args:
        generator: decides about colours and marks.
        size: of the picture.
        unit: the radius of the head, in pixels.
    """
    fur, other, eye, cloth, paint = (
        _pick(generator, palette) for palette in (_FURS, _FURS, _EYES, _CLOTHS, _CLOTHS)
    )
    marks = (fur, fur * 0.45, other)[generator.integers(3)]
    paleness = generator.uniform(0.35, 0.95)
    return {
        "coat": pattern(generator, size, fur, marks, unit * generator.choice(_MARKS)),
        "pale": Image.new("RGB", size, solid(fur * (1 - paleness) + 250 * paleness)),
        "dark": Image.new("RGB", size, solid(fur * 0.6 + marks * 0.25)),
        "whisker": solid(np.full(3, 250 if fur.mean() < 140 else 90)),
        "eye": solid(eye),
        "cloth": solid(cloth),
        "paint": Image.new("RGB", size, solid(paint * 0.5 + 80)),
    }


def draw_animal(pen: Pen, species: Species, tail: complex, body: str) -> None:
    """Draws a tail at its root, a body, and a head around the pen's zero."""
    generator = pen.generator
    pen.at(tail).draw(generator.choice(_TAILS[species]))
    pen.draw(body + generator.choice(_COLLARS))
    turn, tilt = generator.uniform(-0.4, 0.4), generator.normal(0, 0.16)
    for layer in _HEADS[species]:
        pen.at(0, np.exp(1j * tilt)).draw(generator.choice(layer), turn)


def draw(species: Species, generator: np.random.Generator) -> Image.Image:
    """Draws one picture, RGB, 140 to 280 pixels a side.

    Args:
        species: ``cats`` or ``dogs``.
        generator: decides everything else.
    """
    uniform, choice = generator.uniform, generator.choice
    width, height = size = (_SUPERSAMPLING * generator.integers(140, 281, 2)).tolist()
    box, tail, body = _POSES[choice(len(_POSES), p=_POSE_SHARES)]
    start, end = knots(box)
    unit = min(width / (end - start).real, height / (end - start).imag) * uniform(0.7, 1.15)
    spare = complex(*size) - unit * (end - start)
    origin = spare.real * uniform(0, 1) + 1j * spare.imag * uniform(0.3, 1) - unit * start

    walls, wall_marks, grounds, ground_marks, things = _PLACES[choice(len(_PLACES))]
    wall, ground, horizon = _pick(generator, walls), _pick(generator, grounds), uniform(0.5, 0.85)
    image = pattern(generator, size, wall, wall * 0.8 + 50, unit * wall_marks)
    floor = pattern(generator, size, ground, ground * 0.85, unit * ground_marks)
    image.paste(floor, (0, round(horizon * height)))
    skins = _skins(generator, size, unit)
    scene = Pen(image, generator, skins, 0, height)

    def put(thing: str, level: float) -> None:
        scene.at(uniform(0, width / height) + level * 1j, uniform(0.8, 1.3)).draw(thing)

    for thing in choice(things, choice([1, 2, 3]), replace=False):
        put(thing, horizon)
    turned = unit * np.exp(1j * generator.normal(0, 0.06))
    pen = Pen(image, generator, skins, origin, turned, tufts=uniform(0.005, 0.04))
    draw_animal(pen, species, tail, body)
    if uniform() < 0.5:
        put(choice(_FRONT), uniform(0.7, 1.1))
    if uniform() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _photograph(image.reduce(_SUPERSAMPLING), generator)


def _photograph(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Blur, exposure, uneven and coloured light, and noise."""
    uniform = generator.uniform
    if uniform() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(uniform(0.3, 1.6)))
    levels = np.linspace(0, 1, 256, dtype=np.float32) ** np.float32(uniform(0.75, 1.4))
    pixels = levels[np.asarray(image)]
    left, right = uniform(0.65, 1.1, (2, 1)) * uniform(0.88, 1.1, (2, 3))
    pixels *= np.linspace(left, right, image.width, dtype=np.float32)
    noise = generator.standard_normal((image.height, image.width, 1), dtype=np.float32)
    pixels += noise * np.float32(uniform(0, 0.07))
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
