"""Scan, split and training agree, file by file, on what is a picture."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.trained_model import draw, load_examples, write_pictures

GOOD = Image.open(io.BytesIO(draw("cats", 1)))


def saved(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


AWKWARD = {
    "whole.jpg": draw("cats", 2),
    "truncated.jpg": draw("cats", 3)[:300],
    "cmyk.jpg": saved(GOOD.convert("CMYK"), "JPEG"),
    "grey.jpg": saved(GOOD.convert("L"), "JPEG"),
    "deep.png": saved(Image.fromarray(np.full((40, 40), 40_000, np.uint16)), "PNG"),
    "palette.png": saved(GOOD.convert("P"), "PNG"),
    "transparent.png": saved(GOOD.convert("RGBA"), "PNG"),
    "cut.png": saved(GOOD, "PNG")[:200],
    "moving.gif": saved(GOOD, "GIF", save_all=True, append_images=[GOOD.rotate(90)]),
    "plain.webp": saved(GOOD, "WEBP"),
    "transparent.webp": saved(GOOD.convert("RGBA"), "WEBP"),
    "moving.webp": saved(GOOD, "WEBP", save_all=True, append_images=[GOOD.rotate(90)]),
    "palette.bmp": saved(GOOD.convert("P"), "BMP"),
    "text.jpg": b"not a picture at all",
    "empty.jpg": b"",
    "tiff.jpg": saved(GOOD, "TIFF"),
}


def trainer_data(*arguments):
    ended = subprocess.run(
        [sys.executable, "-m", "trainer.data", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_pictures(tmp_path_factory.mktemp("verdict") / "pictures", per_class=25)
    for name, content in AWKWARD.items():
        (folder / "cats" / name).write_bytes(content)
    return folder


def test_scan_split_and_training_leave_out_the_same_files_for_the_same_reasons(folder, tmp_path):
    _, trained = load_examples(folder, 32)
    trainer_data("scan", folder, f"--out={tmp_path / 'scan.json'}")
    scanned = json.loads((tmp_path / "scan.json").read_text())
    trainer_data("split", folder)
    frozen = json.loads((folder / "ledger.json").read_text())

    expected = {file.path: file.reason for file in trained.left_out}
    assert "cats/truncated.jpg" in expected
    assert {file["path"]: file["reason"] for file in scanned["unreadable"]} == {
        path: reason for path, reason in expected.items() if "duplicate" not in reason
    }
    for path, reason in ((file["path"], file["reason"]) for file in frozen["left_out"]):
        assert expected.get(path, reason) == reason
    used = {picture.path for picture in trained.pictures}
    _, again = load_examples(folder, 32)
    assert {picture["path"] for picture in frozen["pictures"]} <= used
    assert again.digest == frozen["digest"], "training drops what the frozen split holds"
