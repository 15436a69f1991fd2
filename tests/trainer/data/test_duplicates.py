import io
import random

import numpy as np
import pytest
from PIL import Image

from trainer.data.checks import difference_hashes, groups, near_pairs


def scene(number, size=(320, 240)):
    """A picture with large shapes, as photographs have them."""
    generator = np.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def encoded_again(picture, quality):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def mirrored(picture):
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def smaller(picture):
    return picture.resize((picture.width // 2, picture.height // 3))


CHANGES = {
    "copied": lambda picture: picture,
    "re-encoded": lambda picture: encoded_again(picture, 70),
    "resized": smaller,
    "mirrored": mirrored,
    "mirrored, resized and re-encoded": lambda picture: encoded_again(
        smaller(mirrored(picture)), 80
    ),
}


def test_twenty_planted_duplicates_are_found_and_nothing_else():
    pictures = {f"{number:03}": scene(number) for number in range(300)}
    planted = [
        (f"{number:03}", list(CHANGES.values())[number % len(CHANGES)]) for number in range(20)
    ]
    pictures |= {f"{name}-again": change(pictures[name]) for name, change in planted}
    found = groups(
        near_pairs({path: difference_hashes(picture) for path, picture in pictures.items()})
    )
    assert found == [[name, f"{name}-again"] for name, _ in planted]


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize(("bits", "expected"), [(2, True), (3, False)])
def test_hashes_up_to_two_bits_apart_are_a_pair_wherever_the_bits_are(mirror, bits, expected):
    generator = random.Random(0)
    for _ in range(200):
        own, other = generator.getrandbits(64), generator.getrandbits(64)
        near = (other if mirror else own) ^ sum(
            1 << bit for bit in generator.sample(range(64), bits)
        )
        pairs = near_pairs({"one": (own, other), "two": (near, generator.getrandbits(64))})
        assert groups(pairs) == ([["one", "two"]] if expected else [])


def test_many_pictures_with_one_hash_are_one_group_without_a_pair_for_each_two():
    hashes = {str(number): (7, 9) for number in range(1000)}
    pairs = list(near_pairs(hashes))
    assert len(pairs) == 999
    assert [len(group) for group in groups(iter(pairs))] == [1000]
