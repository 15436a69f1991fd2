"""Folders that other tools and phones made go from pictures to report without an edit."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.trained_model import draw
from trainer.config import Config
from trainer.pipeline import run

FORMATS = {"jpg": "JPEG", "jfif": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF"}
KINDS = {"Fruit/Round": "cats", "Packages/Square": "dogs"}


def stored(label, number, suffix):
    """A picture as a phone may store it: turned, with the tag that says so."""
    picture = Image.open(io.BytesIO(draw(label, number)))
    options = {}
    if suffix == "jpg":
        exif = Image.Exif()
        exif[0x0112] = 6
        picture, options = picture.transpose(Image.Transpose.ROTATE_90), {"exif": exif}
    if suffix == "bmp":
        picture = picture.quantize(64)
    buffer = io.BytesIO()
    picture.save(buffer, FORMATS[suffix], **options)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pictures"
    for split, first, count in (("Train", 0, 24), ("VAL", 100, 18)):
        for path, label in KINDS.items():
            (folder / split / path).mkdir(parents=True)
            for number in range(count):
                suffix = list(FORMATS)[number % len(FORMATS)]
                file = folder / split / path / f"{number}.{suffix}"
                file.write_bytes(stored(label, first + number, suffix))
    (folder / "Train" / "Fruit" / "Round" / ".DS_Store").touch()
    (folder / "Train" / "Fruit" / "Round" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "VAL" / "Fruit" / "Round" / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "notes.txt").touch()
    return folder


def settings(tmp_path, **different):
    return Config(
        variant="plain",
        image_size=32,
        epochs=1,
        run_dir=str(tmp_path / "run"),
        cache_dir=str(tmp_path / "cache"),
        **different,
    )


def test_three_levels_with_val_go_to_a_report(folder, tmp_path):
    result = run(settings(tmp_path, data=str(folder), classes="leaves"))
    assert result["classes"] == list(KINDS)
    counts = result["data"]["counts"]
    assert sum(counts["train"].values()) == 48
    assert sum(counts["validation"].values()) + sum(counts["test"].values()) == 36
    assert {entry["what"]: entry["count"] for entry in result["data"]["unused"]} == {
        ".heic files": 1,
        ".txt files": 1,
        "hidden or system items": 1,
    }
    assert [file["path"] for file in result["data"]["left_out"]] == ["VAL/Fruit/Round/phone.jpg"]
    assert (tmp_path / "run" / "report.html").exists()
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["config"]["classes"] == "leaves"


def test_picture_above_max_pixels_is_left_out_by_name(folder, tmp_path):
    large = Image.open(io.BytesIO(draw("cats", 7))).resize((200, 201))
    large.save(folder / "Train" / "Fruit" / "Round" / "large.png")
    result = run(settings(tmp_path, data=str(folder), classes="leaves", max_pixels=40_000))
    assert {file["path"]: file["reason"] for file in result["data"]["left_out"]} == {
        "Train/Fruit/Round/large.png": "more than 40,000 pixels",
        "VAL/Fruit/Round/phone.jpg": (
            "a HEIC picture; convert it, for example with ImageMagick: magick mogrify -format jpg"
        ),
    }


def test_csv_goes_to_a_report(folder, tmp_path):
    rows = [
        f"{file.relative_to(folder)},{file.parent.name}"
        for file in sorted((folder / "Train").rglob("*.*"))
        if file.suffix[1:] in FORMATS
    ]
    (folder / "labels.csv").write_text("image,class\n" + "\n".join(rows) + "\n")
    result = run(settings(tmp_path, data=str(folder / "labels.csv"), split="50,25,25"))
    assert result["classes"] == ["Round", "Square"]
    assert np.isfinite(result["test"]["loss"])
    assert sum(sum(split.values()) for split in result["data"]["counts"].values()) == 48
