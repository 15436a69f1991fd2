import io
import os
import sys

import pytest
from PIL import Image

from serving.client.errors import NotAPicture
from serving.client.protocol import Prediction
from serving.predict_output import SHOWN, NoSheet, Sheet


def answer(label, probability):
    other = {"cats": "dogs", "dogs": "cats"}[label]
    return Prediction(label, probability, {label: probability, other: 1 - probability}, 1)


def picture(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), colour).save(buffer, "PNG")
    return buffer.getvalue()


def colours(path):
    """Of the frames, left to right and top to bottom, and of the middles of what is in them."""
    sheet = Image.open(path)
    found = []
    for y in range(0, sheet.height - 172, 1):
        for x in (10 + 182 * column for column in range(sheet.width // 182)):
            pixel = sheet.getpixel((x, y))
            # A frame begins here: as wide as it must be, and nothing above it.
            whole = all(sheet.getpixel((x + step, y)) == pixel for step in (50, 171))
            if whole and pixel != (255, 255, 255) == sheet.getpixel((x, y - 1)):
                found.append((pixel, sheet.getpixel((x + 86, y + 86))))
    return found


WRONG, UNCERTAIN, CERTAIN = (205, 30, 40), (240, 160, 0), (205, 210, 205)


def test_wrong_come_first_then_the_least_certain_each_in_a_frame_of_its_colour(tmp_path):
    sheet = Sheet(tmp_path / "sheet.png")
    sheet.add("dogs/sure.png", picture("green"), answer("dogs", 0.95))
    sheet.add("dogs/hardly.png", picture("yellow"), answer("dogs", 0.6))
    sheet.add("cats/wrong.png", picture("blue"), answer("dogs", 0.7))
    sheet.add("cats/worst.png", picture("purple"), answer("dogs", 0.99))
    sheet.add("other/unknown.png", picture("black"), answer("cats", 0.97))
    sheet.add("dogs/broken.png", b"rubbish", NotAPicture())
    assert sheet.draw() == f"{tmp_path}/sheet.png: 5 pictures"
    assert colours(tmp_path / "sheet.png") == [
        (WRONG, (128, 0, 128)),
        (WRONG, (0, 0, 255)),
        (UNCERTAIN, (255, 255, 0)),
        (CERTAIN, (0, 128, 0)),
        (CERTAIN, (0, 0, 0)),
    ]


def test_of_many_the_worst_are_shown_and_the_rest_is_counted(tmp_path):
    file = tmp_path / "dogs.png"
    file.write_bytes(picture("green"))
    sheet = Sheet(tmp_path / "sheet.png")
    for number in range(5 * SHOWN):
        sheet.add("dogs/a.png", str(file), answer("cats" if number == 17 else "dogs", 0.9))
    assert sheet.draw().endswith(
        f": {SHOWN} pictures, the wrong and the least certain; 400 others are left out"
    )
    assert [frame for frame, _ in colours(tmp_path / "sheet.png")] == [WRONG] + [CERTAIN] * (
        SHOWN - 1
    )


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (os.fsdecode(b"\xff\n.png"), picture("green")),
        ("x" * 300, picture("green")),
        ("gone.png", "gone.png"),
    ],
    ids=["no_text", "long", "gone"],
)
def test_name_or_file_that_cannot_be_shown_costs_no_sheet(tmp_path, path, data):
    sheet = Sheet(tmp_path / "sheet.png")
    sheet.add(path, data, answer("cats", 0.9))
    assert sheet.draw().endswith("sheet.png: 1 pictures")


def test_nothing_answered_draws_nothing_and_says_so(tmp_path):
    sheet = Sheet(tmp_path / "sheet.png")
    sheet.add("a.png", NotAPicture(), NotAPicture())
    assert sheet.draw().endswith("not drawn, as no picture was answered")
    assert not (tmp_path / "sheet.png").exists()


def test_without_pillow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(
        NoSheet, match="needs Pillow, which is not installed: run pip install pillow$"
    ):
        Sheet(tmp_path / "sheet.png")


def test_folder_that_is_not_there_is_refused_before_anything_is_asked(tmp_path):
    with pytest.raises(NoSheet, match="there is no folder .*nowhere$"):
        Sheet(tmp_path / "nowhere" / "sheet.png")
