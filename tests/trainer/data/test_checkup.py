import hashlib
import io

import pytest
from PIL import Image

from tests.trained_model import draw
from trainer.data.checks import look
from trainer.data.ledger import Found

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
