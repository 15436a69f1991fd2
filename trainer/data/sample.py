"""The built-in sample: cats and dogs that the program draws itself, so that everything can be tried
without a download.

Both classes share palette, coats, poses, sizes and surroundings; ears, muzzle, whiskers and tail
tell them apart.
"""

import io
import shutil
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image, ImageFilter

from trainer.data.animals import POSES, Species, invent
from trainer.data.drawing import Pen
from trainer.data.scenery import paint_background, paint_foreground

_SUPERSAMPLING = 2
_SPLITS = ("train", "validation", "test")
# The number of a random stream that no split has.
_UNSEEN = len(_SPLITS)


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
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        first = 0
        counts = (train_per_class, validation_per_class, test_per_class)
        for stream, (split, count) in enumerate(zip(_SPLITS, counts, strict=True)):
            for species in get_args(Species):
                target = staging / split / species
                target.mkdir(parents=True)
                for number in range(count):
                    name = f"{species.removesuffix('s')}.{first + number}.jpg"
                    (target / name).write_bytes(_encoded(species, seed, stream, number))
            first += count
        staging.chmod(0o755)
        try:
            staging.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, and drew the same
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


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
    paint_background(image, generator)
    animal = invent(species, generator)
    pose, (left, top, right, bottom) = POSES[generator.choice(len(POSES), p=(0.4, 0.25, 0.2, 0.15))]
    unit = min(image.width / (right - left), image.height / (bottom - top)) * uniform(0.7, 1.15)
    spare_x, spare_y = image.width - unit * (right - left), image.height - unit * (bottom - top)
    origin = complex(spare_x * uniform(0, 1) - unit * left, spare_y * uniform(0.3, 1) - unit * top)
    pose(
        Pen(image, generator, origin, unit * complex(np.exp(1j * generator.normal(0, 0.06)))),
        animal,
    )
    if generator.random() < 0.5:
        paint_foreground(image, generator)
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
