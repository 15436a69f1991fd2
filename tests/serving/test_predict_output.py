"""What serving.predict writes: lines, a file that is resumed, a sheet."""

import csv
import io
import json
import os
import re
import sys
from dataclasses import replace

import pytest
from PIL import Image

from serving.client.errors import NotAPicture
from serving.client.protocol import Prediction
from serving.predict_output import (
    FORMATS,
    SHOWN,
    NoSheet,
    Sheet,
    UnusableResults,
    _thumbnail,
    open_results,
)
from whisker_ml.errors import DiskError

CAT = Prediction("cats", 0.5, {"cats": 0.5, "dogs": 0.125, "hedgehogs": 0.375}, 3)
DOG = Prediction("dogs", 1.0, {"cats": 0.0, "dogs": 1.0, "hedgehogs": 0.0}, 12, unsure=False)
OUTCOMES = [("a.jpg", CAT), ("b, c.jpg", NotAPicture()), ("d.jpg", DOG)]


def written(name, top):
    stream = io.StringIO()
    write = FORMATS[name](stream, top)
    for path, outcome in OUTCOMES:
        write(path, outcome)
    return stream.getvalue()


def test_table_is_aligned_by_class_names_and_leaves_failures_out():
    assert (
        written("table", None) == "label      probability  unsure  version  path\n"
        "cats            0.5000  –             3  a.jpg\n"
        "dogs            1.0000               12  d.jpg\n"
    )


def test_table_with_top_shows_the_most_probable_classes_first():
    assert (
        written("table", 2)
        == "label      probability  label_2    probability_2  unsure  version  path\n"
        "cats            0.5000  hedgehogs         0.3750  –             3  a.jpg\n"
        "dogs            1.0000  cats              0.0000               12  d.jpg\n"
    )


def test_table_marks_what_is_not_sure():
    stream = io.StringIO()
    write = FORMATS["table"](stream, None)
    write("a.jpg", replace(DOG, unsure=True))
    assert stream.getvalue().endswith("1.0000  unsure       12  a.jpg\n")


def test_table_names_the_second_class_where_it_is_close():
    stream = io.StringIO()
    write = FORMATS["table"](stream, None)
    write("a.jpg", replace(CAT, probabilities={"cats": 0.5, "dogs": 0.09, "hedgehogs": 0.41}))
    assert stream.getvalue().endswith("  0.5000  or hedgehogs        3  a.jpg\n")


def test_table_with_more_classes_than_there_are_shows_all():
    assert "label_3" in written("table", 9)
    assert "label_4" not in written("table", 9)


def test_json_is_one_object_a_line_with_every_class_in_order():
    lines = [json.loads(line) for line in written("json", None).splitlines()]
    assert lines[0] == {
        "path": "a.jpg",
        "label": "cats",
        "probability": 0.5,
        "probabilities": {"cats": 0.5, "dogs": 0.125, "hedgehogs": 0.375},
        "unsure": None,
        "model_version": 3,
    }
    assert list(lines[0]["probabilities"]) == ["cats", "dogs", "hedgehogs"]
    assert lines[1] == {"path": "b, c.jpg", "error": str(NotAPicture())}


def test_json_with_top_keeps_the_most_probable_classes():
    first = json.loads(written("json", 2).splitlines()[0])
    assert list(first["probabilities"].items()) == [("cats", 0.5), ("hedgehogs", 0.375)]


def test_csv_has_one_row_a_picture_and_an_error_column():
    rows = list(csv.reader(io.StringIO(written("csv", None))))
    assert rows == [
        ["path", "label", "probability", "unsure", "model_version", "error"],
        ["a.jpg", "cats", "0.5", "", "3", ""],
        ["b, c.jpg", "", "", "", "", str(NotAPicture())],
        ["d.jpg", "dogs", "1.0", "False", "12", ""],
    ]


def test_csv_with_more_classes_than_there_are_leaves_cells_empty():
    rows = list(csv.DictReader(io.StringIO(written("csv", 4))))
    assert (rows[0]["label_3"], rows[0]["probability_3"]) == ("dogs", "0.125")
    assert (rows[0]["label_4"], rows[0]["probability_4"], rows[0]["model_version"]) == ("", "", "3")


CATS = Prediction("cats", 0.75, {"cats": 0.75, "dogs": 0.25}, 3)
AWKWARD = 'a "b", c\nd.jpg'
NO_TEXT = os.fsdecode(b"\xff.jpg")


def paths(file):
    text = file.read_bytes().decode("utf-8", "surrogateescape")
    if file.suffix == ".csv":
        return [row[0] for row in csv.reader(text.splitlines(keepends=True))][1:]
    return [json.loads(line)["path"] for line in text.splitlines()]


@pytest.fixture(params=["results.csv", "results.json", "results.JSONL"])
def file(request, tmp_path):
    return tmp_path / request.param.replace("JSONL", "jsonl")


def test_row_is_in_the_file_as_soon_as_it_is_written(file):
    with open_results(file, None) as results:
        for number, path in enumerate(("a.jpg", AWKWARD, NO_TEXT), 1):
            results.write(path, CATS)
            assert len(paths(file)) == number
    assert paths(file) == ["a.jpg", AWKWARD, NO_TEXT]


def test_answers_stay_and_failures_are_to_be_asked_again(file):
    with open_results(file, None) as results:
        assert results.kept == 0
        for path, outcome in (
            ("a.jpg", CATS),
            (AWKWARD, CATS),
            ("b.jpg", NotAPicture()),
            (NO_TEXT, CATS),
        ):
            results.write(path, outcome)
    with open_results(file, None) as results:
        assert results.kept == 3
        assert [path in results for path in ("a.jpg", AWKWARD, "b.jpg", NO_TEXT)] == [
            True,
            True,
            False,
            True,
        ]
        results.write("b.jpg", CATS)
    assert paths(file) == ["a.jpg", AWKWARD, NO_TEXT, "b.jpg"]
    assert list(file.parent.iterdir()) == [file]


def test_row_torn_at_any_byte_is_asked_again_and_no_other(file):
    with open_results(file, None) as results:
        results.write("a.jpg", CATS)
        first = file.stat().st_size
        results.write(AWKWARD, CATS)
    whole = file.read_bytes()
    for length in range(first, len(whole)):
        file.write_bytes(whole[:length])
        with open_results(file, None) as results:
            assert ("a.jpg" in results, results.kept) == (True, 1), whole[:length]
        assert paths(file) == ["a.jpg"]


def test_file_without_a_byte_is_a_new_one(file):
    file.touch()
    with open_results(file, None) as results:
        results.write("a.jpg", CATS)
    assert paths(file) == ["a.jpg"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "r.csv",
            "name,age\nx,1\n",
            "has the columns name,age, and this command writes path,label,probability,label_2",
        ),
        (
            "r.json",
            '{"path": "a", "label": "b"}\n[]\n',
            "line 2 is not one that this command writes",
        ),
        ("r.jsonl", "shopping list\n", "line 1 is not one that this command writes"),
    ],
)
def test_file_of_another_is_refused_and_left_as_it_is(tmp_path, name, text, said):
    file = tmp_path / name
    file.write_text(text)
    with (
        pytest.raises(UnusableResults, match=f"^{re.escape(str(file))}: {said}"),
        open_results(file, 2),
    ):
        pass
    assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


def test_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "r.csv.new").mkdir()
    with (
        pytest.raises(DiskError, match=r"r.csv.new: Is a directory: choose another folder$"),
        open_results(tmp_path / "r.csv", None),
    ):
        pass


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


WRONG, UNSURE, SURE = (205, 30, 40), (240, 160, 0), (205, 210, 205)


def test_wrong_come_first_then_the_least_sure_each_in_a_frame_of_its_colour(tmp_path):
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
        (UNSURE, (255, 255, 0)),
        (SURE, (0, 128, 0)),
        (SURE, (0, 0, 0)),
    ]


def test_what_the_model_is_not_sure_of_stands_out_whatever_its_probability(tmp_path):
    sheet = Sheet(tmp_path / "sheet.png")
    sheet.add("dogs/sure.png", picture("green"), replace(answer("dogs", 0.6), unsure=False))
    sheet.add("dogs/stranger.png", picture("yellow"), replace(answer("dogs", 0.99), unsure=True))
    sheet.draw()
    assert colours(tmp_path / "sheet.png") == [(UNSURE, (255, 255, 0)), (SURE, (0, 128, 0))]


def test_of_many_the_worst_are_shown_and_the_rest_is_counted(tmp_path):
    file = tmp_path / "dogs.png"
    file.write_bytes(picture("green"))
    sheet = Sheet(tmp_path / "sheet.png")
    for number in range(5 * SHOWN):
        sheet.add("dogs/a.png", str(file), answer("cats" if number == 17 else "dogs", 0.9))
    assert sheet.draw().endswith(
        f": {SHOWN} pictures, the wrong and the least sure; 400 others are left out"
    )
    assert [frame for frame, _ in colours(tmp_path / "sheet.png")] == [WRONG] + [SURE] * (SHOWN - 1)


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


def test_letters_of_other_languages_are_drawn_not_boxes(tmp_path):
    drawn = []
    for number, name in enumerate(("Mütze", "Кепка", "äääää", "еееее")):
        sheet = Sheet(tmp_path / f"{number}.png")
        sheet.add("a.png", picture("green"), Prediction(name, 0.9, {name: 0.9, "b": 0.1}, 1))
        sheet.draw()
        drawn.append(Image.open(tmp_path / f"{number}.png").tobytes())
    # A font without these letters would draw the same box five times in each.
    assert len(set(drawn)) == 4


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


def test_picture_is_upright_on_the_sheet():
    picture = Image.new("RGB", (160, 80), "white")
    picture.paste("black", (0, 0, 80, 80))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = io.BytesIO()
    picture.transpose(Image.Transpose.ROTATE_90).save(stored, "PNG", exif=exif)
    shown = _thumbnail(stored.getvalue())
    assert (shown.width, shown.height) == (160, 80)
    assert (shown.getpixel((20, 40)), shown.getpixel((140, 40))) == ((0, 0, 0), (255, 255, 255))
