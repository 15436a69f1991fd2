"""What scan finds: facts of files, findings, near-duplicates."""

import hashlib
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.trained_model import draw
from trainer.data.checks import Facts, look, near_duplicates, sum_up, table, thumbnail
from trainer.data.ledger import Found, LeftOut, Unused
from trainer.variants.preprocessing import MAX_PIXELS

JPEG = draw("cats", 1)


def saved(form, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(JPEG)).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def look_at(**contents):
    """Looks at files whose names are given with _ for the dot."""
    files = {f"cats/{name.replace('_', '.')}": content for name, content in contents.items()}
    return look([Found(path, "cats", "train") for path in files], files.__getitem__, MAX_PIXELS)


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
        "cats/text.png": "not a JPEG, PNG, GIF, BMP or WebP picture",
        "cats/empty.gif": "empty file",
        "cats/tiff.jpg": (
            "a TIFF picture; convert it, for example with ImageMagick: magick mogrify -format jpg"
        ),
    }


def test_file_that_may_not_be_read_is_told():
    def read(path):
        raise PermissionError(13, "Permission denied", path)

    assert (
        look([Found("cats/1.jpg", "cats", None)], read, MAX_PIXELS)[1][0].reason
        == "cannot be read: Permission denied"
    )


PICTURE = Facts("", "cats", "train", "", 1000, 300, 200, "JPEG", "RGB", 1, np.zeros(()))


def picture(path, number, **different):
    return replace(
        PICTURE,
        path=path,
        sha256=f"{number:064x}",
        thumbnail=thumbnail(scene(number)),
        **different,
    )


def scene(number, size=(320, 240)):
    """A picture with large shapes, as photographs have them."""
    generator = np.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


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
        (Unused(".heic", 2, "convert them"),),
    )
    assert list(table(found))[-1] == "not used: .heic: 2 (convert them)"
    assert found["mislabelled"] == [{"path": "train/cats/1.png", "reason": "JPEG"}]
    assert found["turned"] == [{"path": "train/cats/2.jpg", "reason": "tag 3"}]
    assert found["tiny"] == [{"path": "train/cats/3.jpg", "reason": "20×200"}]
    assert found["huge"] == [{"path": "train/cats/4.jpg", "reason": "9000×9000"}]
    assert [file["path"] for file in found["stretched"]] == ["train/cats/3.jpg", "train/cats/5.jpg"]
    assert found["unreadable"] == [{"path": "train/cats/6.jpg", "reason": "empty file"}]


def test_counts_and_imbalance_are_by_split_and_class():
    facts = [picture(f"train/cats/{number}.jpg", number) for number in range(1, 4)]
    facts += [picture("validation/dogs/1.jpg", 5, label="dogs", split="validation")]
    found = sum_up(facts, [], (), 0.25)
    assert found["counts"] == {"train": {"cats": 3}, "validation": {"dogs": 1}}
    assert found["imbalance"] == 3.0
    lines = list(table(found))
    assert [line.split() for line in lines[:3]] == [
        ["class", "train", "validation"],
        ["cats", "3", "0"],
        ["dogs", "0", "1"],
    ]
    words = "imbalance 3.00 to 1; always answering the commonest class gets 0.250 of the test split"
    assert lines[3] == words
    assert list(table(found | {"baseline_accuracy": None}))[3] == "imbalance 3.00 to 1"


def test_duplicates_are_told_across_splits_and_classes():
    one = picture("train/cats/1.jpg", 1)
    found = sum_up(
        [
            one,
            replace(one, path="validation/cats/2.jpg", split="validation"),
            replace(one, path="train/dogs/3.jpg", label="dogs", sha256="another"),
        ],
        [],
        (),
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
        "1 groups of pictures that look the same: 1 with identical files; 1 across splits, 1"
        " across classes" in table(found)
    )
    assert (
        "  two labels for one picture: train/cats/1.jpg = train/dogs/3.jpg ="
        " validation/cats/2.jpg" in table(found)
    )


def test_table_of_hundreds_of_classes_shows_the_largest_and_the_smallest():
    sizes = [*range(1, 11), *([11] * 180), *range(12, 22)]
    facts = [
        picture(f"{label:03}/{n}.jpg", 1000 * label + n, label=f"{label:03}")
        for label, size in enumerate(sizes)
        for n in range(size)
    ]
    lines = list(table(sum_up(facts, [], ())))
    shown = [line.split()[0] for line in lines[1:22]]
    assert shown == [
        *(f"{label:03}" for label in range(199, 189, -1)),
        "…",
        *(f"{label:03}" for label in range(9, -1, -1)),
    ]


def test_folder_of_which_nothing_decodes_has_a_table_too():
    unreadable = [LeftOut("cats/a.jpg", "truncated or damaged picture")]
    lines = list(table(sum_up([], unreadable, ())))
    assert "1 unreadable" in lines
    assert not any(line.startswith(("class", "imbalance", "width", ";")) for line in lines)


def encoded_again(picture, quality):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def mirrored(picture):
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def smaller(picture):
    return picture.resize((picture.width // 2, picture.height // 2))


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
    found = near_duplicates([shown(path, picture) for path, picture in pictures.items()])
    assert found == [[name, f"{name}-again"] for name, _ in planted]


def shown(path, image):
    return replace(
        PICTURE,
        path=path,
        sha256=hashlib.sha256(image.tobytes()).hexdigest(),
        thumbnail=thumbnail(image),
    )


def test_plain_pictures_are_the_same_only_as_files():
    white, grey = (Image.new("RGB", (64, 64), (level,) * 3) for level in (255, 254))
    facts = [shown("a", white), shown("b", white), shown("c", grey)]
    assert near_duplicates(facts) == [["a", "b"]]


def test_small_objects_on_one_plain_ground_are_no_duplicates():
    def digit(number):
        image = Image.new("L", (8, 8))
        generator = np.random.default_rng(number)
        image.paste(Image.fromarray(generator.integers(0, 256, (6, 4), np.uint8)), (2, 1))
        return image.resize((80, 80), Image.Resampling.NEAREST)

    assert near_duplicates([shown(f"{number:03}", digit(number)) for number in range(300)]) == []


def test_pictures_that_change_little_by_little_are_no_chain():
    first, last = (np.asarray(scene(number), np.float32) for number in (1, 2))
    facts = [
        shown(f"{step:03}", Image.fromarray((first + (last - first) * step / 60).astype(np.uint8)))
        for step in range(61)
    ]
    thumbnails = {fact.path: fact.thumbnail.astype(np.float32) for fact in facts}
    groups = near_duplicates(facts)
    assert len(groups) > 5
    for group in groups:
        apart = [
            np.sqrt(np.mean((thumbnails[path] - thumbnails[center]) ** 2))
            for center in group
            for path in group
        ]
        assert min(max(apart[i : i + len(group)]) for i in range(0, len(apart), len(group))) <= 6


def test_thousands_of_placeholders_are_one_group():
    placeholder = scene(1)
    facts = [replace(shown("", placeholder), path=f"{number:05}") for number in range(3000)]
    noisy = facts[0].thumbnail.astype(int)
    generator = np.random.default_rng(0)
    facts += [
        replace(
            facts[0],
            path=f"noisy{number:05}",
            sha256=str(number),
            thumbnail=np.clip(noisy + generator.integers(-1, 2, noisy.shape), 0, 255).astype(
                np.uint8
            ),
        )
        for number in range(3000)
    ]
    (group,) = near_duplicates(facts)
    assert len(group) == 6000
