import csv
import io
import json

from serving.client.errors import NotAPicture
from serving.client.predict_client import Prediction
from serving.predict_output import FORMATS

CAT = Prediction("cats", 0.5, {"cats": 0.5, "dogs": 0.125, "hedgehogs": 0.375}, 3)
DOG = Prediction("dogs", 1.0, {"cats": 0.0, "dogs": 1.0, "hedgehogs": 0.0}, 12)
OUTCOMES = [("a.jpg", CAT), ("b, c.jpg", NotAPicture()), ("d.jpg", DOG)]


def written(name, top):
    stream = io.StringIO()
    write = FORMATS[name](stream, top)
    for path, outcome in OUTCOMES:
        write(path, outcome)
    return stream.getvalue()


def test_table_is_aligned_by_class_names_and_leaves_failures_out():
    assert (
        written("table", None) == "label      probability  version  path\n"
        "cats            0.5000        3  a.jpg\n"
        "dogs            1.0000       12  d.jpg\n"
    )


def test_table_with_top_shows_the_most_probable_classes_first():
    assert (
        written("table", 2) == "label      probability  label_2    probability_2  version  path\n"
        "cats            0.5000  hedgehogs         0.3750        3  a.jpg\n"
        "dogs            1.0000  cats              0.0000       12  d.jpg\n"
    )


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
        ["path", "label", "probability", "model_version", "error"],
        ["a.jpg", "cats", "0.5", "3", ""],
        ["b, c.jpg", "", "", "", str(NotAPicture())],
        ["d.jpg", "dogs", "1.0", "12", ""],
    ]


def test_csv_with_more_classes_than_there_are_leaves_cells_empty():
    rows = list(csv.DictReader(io.StringIO(written("csv", 4))))
    assert (rows[0]["label_3"], rows[0]["probability_3"]) == ("dogs", "0.125")
    assert (rows[0]["label_4"], rows[0]["probability_4"], rows[0]["model_version"]) == ("", "", "3")
