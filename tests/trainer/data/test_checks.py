"""What scan finds: facts of files, findings, near-duplicates."""

import hashlib
import io
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.trained_model import draw
from trainer.data.checks import Facts, difference_hashes, groups, look, near_pairs, sum_up, table
from trainer.data.ledger import Found, LeftOut

JPEG = draw("cats", 1)


def saved(form, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(JPEG)).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def look_at(**contents):
    """Looks at files whose names are given with _ for the dot."""
    files = {f"cats/{name.replace('_', '.')}": content for name, content in contents.items()}
    return look([Found(path, "cats", "train") for path in files], files.__getitem__)


def test_facts_of_a_picture_are_what_is_in_the_file():
    (facts,), problems = look_at(one_jpg=JPEG)
    width, height = Image.open(io.BytesIO(JPEG)).size
    assert (facts.width, facts.height, facts.mode, facts.kind) == (width, height, "RGB", "JPEG")
    assert (facts.sha256, facts.bytes) == (hashlib.sha256(JPEG).hexdigest(), len(JPEG))
    assert (facts.split, facts.orientation, facts.mislabelled, problems) == ("train", 1, False, [])


@pytest.mark.parametrize(
    ("form", "mode", "name"),
    [
        ("PNG", "RGBA", "a_png"),
        ("GIF", "P", "a_gif"),
        ("BMP", "L", "a_bmp"),
        ("WEBP", "RGB", "a_webp"),
    ],
)
def test_kind_is_told_by_the_first_bytes(form, mode, name):
    facts, problems = look_at(**{name: saved(form, mode), "a_jpg": saved(form, mode)})
    assert [each.kind for each in facts] == [form, form]
    assert [each.mislabelled for each in facts] == [False, True]
    assert problems == []


def test_orientation_tag_is_told():
    tags = Image.Exif()
    tags[0x0112] = 6
    (facts,), _ = look_at(turned_jpg=saved("JPEG", exif=tags))
    assert facts.orientation == 6


def test_file_that_does_not_decode_is_told_with_the_reason():
    facts, problems = look_at(
        cut_jpg=JPEG[: len(JPEG) // 2], text_png=b"a text", empty_gif=b"", tiff_jpg=saved("TIFF")
    )
    assert facts == []
    assert {file.path: file.reason for file in problems} == {
        "cats/cut.jpg": (
            "truncated or damaged picture, or one of a format that TensorFlow does not decode"
        ),
        "cats/text.png": "no JPEG, PNG, GIF, BMP or WebP picture",
        "cats/empty.gif": "empty file",
        "cats/tiff.jpg": "no JPEG, PNG, GIF, BMP or WebP picture",
    }


def test_file_that_may_not_be_read_is_told():
    def read(path):
        raise PermissionError(13, "Permission denied", path)

    assert (
        look([Found("cats/1.jpg", "cats", None)], read)[1][0].reason
        == "cannot be read: Permission denied"
    )


PICTURE = Facts("", "cats", "train", "", 1000, 300, 200, "JPEG", "RGB", 1, "", "")


def picture(path, number, **different):
    # Hashes that are far from one another.
    digits = f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"
    return replace(
        PICTURE,
        path=path,
        sha256=digits,
        hash=digits,
        mirrored_hash=f"{number * 0xC2B2AE3D27D4EB4F % 2**64:016x}",
        **different,
    )


def test_each_problem_is_listed_with_its_reason():
    found = sum_up(
        [
            picture("train/cats/1.png", 1),
            picture("train/cats/2.jpg", 2, orientation=3),
            picture("train/cats/3.jpg", 3, width=20),
            picture("train/cats/4.jpg", 4, width=9000, height=9000),
            picture("train/cats/5.jpg", 5, width=1000, height=100),
        ],
        [LeftOut("train/cats/6.jpg", "empty file")],
    )
    assert found["mislabelled"] == [{"path": "train/cats/1.png", "reason": "JPEG"}]
    assert found["turned"] == [{"path": "train/cats/2.jpg", "reason": "tag 3"}]
    assert found["tiny"] == [{"path": "train/cats/3.jpg", "reason": "20×200"}]
    assert found["huge"] == [{"path": "train/cats/4.jpg", "reason": "9000×9000"}]
    assert [file["path"] for file in found["stretched"]] == ["train/cats/3.jpg", "train/cats/5.jpg"]
    assert found["unreadable"] == [{"path": "train/cats/6.jpg", "reason": "empty file"}]


def test_counts_baseline_and_imbalance_are_by_split_and_class():
    facts = [picture(f"train/cats/{number}.jpg", number) for number in range(1, 4)]
    facts += [picture("validation/dogs/1.jpg", 5, label="dogs", split="validation")]
    found = sum_up(facts, [])
    assert found["counts"] == {"train": {"cats": 3}, "validation": {"dogs": 1}}
    assert found["baseline_accuracy"] == {"train": 1.0, "validation": 1.0}
    assert found["imbalance"] == 3.0
    lines = list(table(found))
    assert [line.split() for line in lines[:3]] == [
        ["class", "train", "validation"],
        ["cats", "3", "0"],
        ["dogs", "0", "1"],
    ]


def test_duplicates_are_told_across_splits_and_classes():
    one = picture("train/cats/1.jpg", 1)
    found = sum_up(
        [
            one,
            replace(one, path="validation/cats/2.jpg", split="validation"),
            replace(one, path="train/dogs/3.jpg", label="dogs", sha256="another"),
        ],
        [],
    )
    assert found["duplicates"] == [
        {
            "paths": ["train/cats/1.jpg", "train/dogs/3.jpg", "validation/cats/2.jpg"],
            "exact": True,
            "splits": ["train", "validation"],
            "classes": ["cats", "dogs"],
        }
    ]
    assert (
        "1 groups of pictures that look the same: 1 with the very same file; 1 across splits, 1"
        " across classes" in table(found)
    )


def test_table_of_hundreds_of_classes_shows_the_largest_and_the_smallest():
    facts = [
        picture(f"{label:03}/{n}.jpg", 1000 * label + n, label=f"{label:03}")
        for label in range(200)
        for n in range(1 + label)
    ]
    lines = list(table(sum_up(facts, [])))
    shown = [line.split()[0] for line in lines[1:22]]
    assert shown == [
        *(f"{label:03}" for label in range(199, 189, -1)),
        "…",
        *(f"{label:03}" for label in range(9, -1, -1)),
    ]


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
