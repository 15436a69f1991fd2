import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def predict(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "serving.predict", *arguments], check=False, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"cats 0.5")
    (folder / "b.jpg").write_bytes(b"rubbish")
    (folder / "more" / "c.png").write_bytes(b"dogs 0.75")
    return folder


def test_table_of_a_folder_lists_failures_last_and_exits_with_4(stand_in, pictures, tmp_path):
    ended = predict(f"--server={stand_in.address}", str(pictures), str(tmp_path / "missing.jpg"))
    assert ended.returncode == 4
    heading, *rows = ended.stdout.splitlines()
    assert heading.split() == ["label", "probability", "version", "path"]
    assert [row.split() for row in rows] == [
        ["cats", "0.5000", "3", f"{pictures}/a.jpg"],
        ["dogs", "0.7500", "3", f"{pictures}/more/c.png"],
    ]
    title, *failures = ended.stderr.splitlines()
    assert title == "2 of 4 failed:"
    assert failures[0].startswith(f"{pictures}/b.jpg: not a picture that the server can decode")
    assert failures[1] == f"{tmp_path}/missing.jpg: the file cannot be read: No such file or directory"


def test_json_lines_come_in_order_of_the_paths(stand_in, pictures, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    ended = predict(f"--server={stand_in.address}", "--format=json", str(empty), str(pictures))
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["path"] for line in lines] == [
        str(empty),
        *(f"{pictures}/{n}" for n in ("a.jpg", "b.jpg", "more/c.png")),
    ]
    assert [set(line) for line in lines] == [
        {"path", "error"},
        {"path", "label", "probability", "probabilities", "model_version"},
        {"path", "error"},
        {"path", "label", "probability", "probabilities", "model_version"},
    ]
    assert ended.returncode == 4


def test_all_answered_exits_with_0_and_says_nothing_else(stand_in, pictures):
    ended = predict(f"--server={stand_in.address}", "--format=csv", "--top=2", str(pictures / "a.jpg"))
    (row,) = csv.DictReader(ended.stdout.splitlines())
    assert (row["label"], row["label_2"], row["probability_2"]) == ("cats", "dogs", "0.5")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_flags_reach_the_request(stand_in, pictures):
    predict(f"--server={stand_in.address}", "--label=stable", "--signature=other", str(pictures / "a.jpg"))
    (request,) = stand_in.requests
    assert (request.model_spec.version_label, request.model_spec.signature_name) == ("stable", "other")


def test_file_name_that_is_no_utf8_is_written_as_it_is(stand_in, tmp_path):
    path = bytes(tmp_path) + b"/\xff.jpg"
    Path(os.fsdecode(path)).write_bytes(b"cats 0.5")
    command = [sys.executable, "-m", "serving.predict", f"--server={stand_in.address}", path, path + b"x"]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    ended = subprocess.run(command, check=False, capture_output=True, timeout=60, env=strict)
    assert ended.stdout.endswith(path + b"\n")
    assert ended.returncode == 4


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "no pictures named"),
        (["--server=127.0.0.1:1", "a.jpg"], "check that the server runs"),
        (["--server=127.0.0.1:1", "--model_dir=models", "a.jpg"], "expected one of them"),
        (["--model_dir=nowhere", "a.jpg"], "nowhere/models.config is not there"),
        (["--version=1", "--label=stable", "a.jpg"], "one of them, not both"),
        (["--top=0", "a.jpg"], "flag --top=0"),
        (["--format=xml", "a.jpg"], "flag --format=xml"),
    ],
    ids=["no_paths", "no_server", "two_servers", "no_store", "version_and_label", "top", "format"],
)
def test_wrong_use_is_one_line_and_exits_with_2(arguments, text):
    ended = predict(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert text in line


def test_unknown_model_fails_once_and_not_for_every_picture(stand_in, pictures):
    ended = predict(f"--server={stand_in.address}", "--model_name=lions", str(pictures))
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert "any versions of model lions" in ended.stderr
    assert stand_in.requests == []
