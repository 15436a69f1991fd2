import csv
import json
import os
import re

import pytest

from serving.client.errors import NotAPicture
from serving.client.protocol import Prediction
from serving.predict_output import UnusableResults, open_results

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
    with (
        pytest.raises(
            UnusableResults,
            match="nowhere/r.csv: cannot be read and written: No such file or directory$",
        ),
        open_results(tmp_path / "nowhere" / "r.csv", None),
    ):
        pass
