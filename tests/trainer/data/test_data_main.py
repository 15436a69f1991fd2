import json
import os
import subprocess
import sys

import pytest

from tests.trained_model import draw, write_pictures
from tests.trainer.data.splitting import freeze
from trainer.data.layout import find
from trainer.data.ledger import Ledger
from trainer.data.splits import read_frozen


def command(*arguments, code=0):
    ended = subprocess.run(
        [sys.executable, "-m", "trainer.data", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    return ended.stdout if code == 0 else ended.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_pictures(tmp_path_factory.mktemp("main") / "pictures", per_class=30)
    (folder / "dogs" / "copy.jpg").write_bytes(draw("dogs", 3))
    (folder / "dogs" / "text.jpg").write_text("a text")
    return folder


def test_folder_is_looked_at_frozen_and_extended_and_no_picture_changes(folder, tmp_path):
    pictures = {path: path.read_bytes() for path in folder.rglob("*.jpg")}
    out = tmp_path / "new" / "scan.json"
    lines = command("scan", folder, f"--out={out}").splitlines()
    assert lines[1].split() == ["cats", "30"]
    assert "  dogs/text.jpg: not a JPEG, PNG, GIF, BMP or WebP picture" in lines
    assert "  dogs/3.jpg = dogs/copy.jpg" in lines
    found = json.loads(out.read_text())
    assert (found["pictures"], found["duplicates"][0]["exact"]) == (61, True)
    listed, hashes = find(folder).found, {each["path"]: each["sha256"] for each in found["files"]}
    of_a_run = freeze(listed, hashes, [], protocol="given").baseline_accuracy()
    assert found["baseline_accuracy"] == of_a_run

    (tmp_path / "list.txt").write_text("dogs/9.jpg\n")
    lines = command("split", folder, f"--exclude={tmp_path / 'list.txt'}")
    assert f"1 pictures excluded by {tmp_path / 'list.txt'}\n" in lines
    assert "2 files left out" in lines
    before = read_frozen(folder)
    assert len(before.pictures) == 60
    assert {
        each.split for each in before.pictures if each.path in ("dogs/3.jpg", "dogs/copy.jpg")
    } in (
        {"train"},
        {"validation"},
        {"test"},
    )
    assert "the split is frozen already; use extend for added pictures" in command(
        "split", folder, code=2
    )

    (folder / "cats" / "new.jpg").write_bytes(draw("cats", 3)[::1] + b"more")
    lines = command("extend", folder).splitlines()
    split = next(each.split for each in before.pictures if each.path == "cats/3.jpg")
    assert lines[:2] == [f"  cats/new.jpg: not used → {split}", "1 added (cats/new.jpg)"]
    assert command("extend", folder).splitlines()[0] == "nothing has changed"
    assert {path: path.read_bytes() for path in pictures} == pictures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to do: expected scan|split|extend"),
        (["look", "x"], "look x: expected scan|split|extend"),
        (
            ["scan", "/nowhere"],
            "/nowhere: there is no such folder; expected one folder of pictures per class",
        ),
        (
            ["extend", "/nowhere"],
            "/nowhere: has no ledger.json to extend; first freeze the split with whisker-data"
            " split",
        ),
    ],
)
def test_wrong_use_is_one_line(arguments, message):
    error = command(*arguments, code=2)
    assert message in error
    assert error.count("\n") == 1


def test_name_that_the_terminal_cannot_show_is_shown_escaped(tmp_path):
    for name in ("cats/1.jpg", "dogs/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(draw(name[:4], 1))
    (tmp_path / "cats" / "bébé.jpg").write_bytes(b"no picture")
    ended = subprocess.run(
        [sys.executable, "-m", "trainer.data", "scan", str(tmp_path)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0
    assert "  cats/b\\xe9b\\xe9.jpg: not a JPEG, PNG, GIF, BMP or WebP picture\n" in ended.stdout


def test_csv_is_frozen_beside_itself_and_converted(tmp_path):
    rows = []
    for label in ("cats", "dogs"):
        for number in range(12):
            file = tmp_path / f"{label}{number}.jpg"
            file.write_bytes(draw(label, number))
            rows.append(f"{file.name},{label}\n")
    (tmp_path / "labels.csv").write_text("".join(rows))
    command("split", tmp_path / "labels.csv")
    frozen = Ledger.read(tmp_path / "labels.ledger.json")
    assert len(frozen.pictures) == 24
    command("convert", tmp_path / "labels.csv", f"--out={tmp_path / 'shards'}")
    assert (tmp_path / "shards" / "shards.json").exists()
