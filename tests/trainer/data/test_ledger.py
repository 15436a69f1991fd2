import json
import os
from pathlib import Path

import pytest

from tests.trainer.data.splitting import FLAT, found_and_hashes
from trainer.data.ledger import Found, Ledger, find
from trainer.data.splits import freeze
from trainer.errors import DataError


def make(folder, *paths):
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())
    return folder


def test_class_folders_are_found_and_other_files_passed_over(tmp_path):
    make(
        tmp_path,
        "cats/1.jpg",
        "cats/more/2.PNG",
        "dogs/3.webp",
        "dogs/notes.txt",
        "dogs/.4.jpg",
        ".git/5.jpg",
        "6.jpg",
    )
    assert find(tmp_path) == [
        Found("cats/1.jpg", "cats", None),
        Found("cats/more/2.PNG", "cats", None),
        Found("dogs/3.webp", "dogs", None),
    ]


def test_given_splits_are_kept_apart_from_class_names(tmp_path):
    make(tmp_path, "train/cats/1.jpg", "train/dogs/2.jpg", "validation/cats/3.jpg")
    assert [(file.label, file.given_split) for file in find(tmp_path)] == [
        ("cats", "train"),
        ("dogs", "train"),
        ("cats", "validation"),
    ]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "there is no such folder; expected one folder of pictures per class"),
        (["notes.txt"], "no pictures found; expected <class>/*.jpg or train/<class>/*.jpg"),
        (
            ["cats/1.jpg"],
            "one class only (cats); expected a folder of pictures for each of two or more classes",
        ),
        (
            ["validation/cats/1.jpg"],
            "holds validation but no train folder; expected train/<class>/",
        ),
    ],
)
def test_folder_that_cannot_be_trained_on_is_refused(tmp_path, paths, message):
    with pytest.raises(DataError) as error:
        find(make(tmp_path / "data", *paths))
    assert message in str(error.value)


def test_digest_changes_with_a_label_but_not_with_a_path(tmp_path):
    found, sha256 = found_and_hashes(FLAT)
    ledger = freeze(found, sha256, [], protocol="given")
    moved = [Found(f"elsewhere/{file.path}", file.label, None) for file in found]
    moved_hashes = {f"elsewhere/{path}": digest for path, digest in sha256.items()}
    assert freeze(moved, moved_hashes, [], protocol="given").digest == ledger.digest
    relabelled = [
        Found(file.path, "dogs" if file.path == "cats/0.jpg" else file.label, None)
        for file in found
    ]
    assert freeze(relabelled, sha256, [], protocol="given").digest != ledger.digest
    ledger.write(tmp_path / "ledger.json")
    assert json.loads((tmp_path / "ledger.json").read_text())["digest"] == ledger.digest


def test_baseline_is_what_the_most_frequent_training_class_gets_on_the_test_set():
    names = [f"train/cats/{n}.jpg" for n in range(9)] + [f"train/dogs/{n}.jpg" for n in range(3)]
    names += [
        f"{split}/{label}/{n}.jpg"
        for split in ("validation", "test")
        for label in ("cats", "dogs")
        for n in range(1)
    ]
    names += [f"test/dogs/extra{n}.jpg" for n in range(2)]
    assert freeze(
        *found_and_hashes(names), [], protocol="given"
    ).baseline_accuracy() == pytest.approx(1 / 4)


def test_link_that_leads_back_is_named(tmp_path):
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    (tmp_path / "cats" / "more").mkdir()
    (tmp_path / "cats" / "more" / "back").symlink_to(tmp_path / "cats")
    with pytest.raises(
        DataError,
        match=r"cats/more/back: a link that leads back to a folder that it lies in; remove it",
    ):
        find(tmp_path)


def test_link_to_another_folder_is_followed_and_a_broken_one_is_listed(tmp_path):
    make(tmp_path / "data", "cats/1.jpg", "dogs/2.jpg")
    make(tmp_path / "elsewhere", "3.jpg")
    (tmp_path / "data" / "cats" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "dogs" / "gone.jpg").symlink_to("nowhere")
    assert [file.path for file in find(tmp_path / "data")] == [
        "cats/1.jpg",
        "cats/linked/3.jpg",
        "dogs/2.jpg",
        "dogs/gone.jpg",
    ]


def test_link_to_itself_is_named(tmp_path):
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    (tmp_path / "cats" / "itself").symlink_to("itself")
    with pytest.raises(
        DataError, match=r"cats/itself cannot be listed \(Too many levels of symbolic links\)"
    ):
        find(tmp_path)


def test_folder_that_may_not_be_listed_is_named_rather_than_passed_over(tmp_path, monkeypatch):
    make(tmp_path, "cats/1.jpg", "cats/more/2.jpg", "dogs/3.jpg")
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("more"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    # The superuser, who may run the tests, may list everything.
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        DataError, match=r"cats/more cannot be listed \(Permission denied\); fix it"
    ):
        find(tmp_path)


@pytest.mark.parametrize("name", [b"cats/\xff.jpg", b"\xff/1.jpg"])
def test_name_that_is_not_utf8_is_told_in_ascii(tmp_path, name):
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    file.parent.mkdir(exist_ok=True)
    file.touch()
    with pytest.raises(DataError, match=r"is not UTF-8; rename it") as error:
        find(tmp_path)
    assert str(error.value).isascii()


def test_ledger_reads_what_it_has_written_and_refuses_what_it_has_not(tmp_path):
    ledger = freeze(*found_and_hashes(FLAT), [], protocol="given")
    file = tmp_path / "ledger.json"
    ledger.write(file)
    assert Ledger.read(file) == ledger
    assert [each.name for each in tmp_path.iterdir()] == ["ledger.json"]
    whole = json.loads(file.read_text())
    damaged = {
        file.read_text()[:100]: r"cannot be read \(no JSON: .*\)",
        "[" * 100_000: r"cannot be read \(nested too deeply\)",
        "[]": r"cannot be read \(no JSON object\)",
        "{}": r"cannot be read as a ledger \(KeyError: .*\)",
        json.dumps(whole | {"pictures": 3}): r"cannot be read as a ledger \(TypeError: .*\)",
        json.dumps(whole | {"pictures": ["a"]}): r"cannot be read as a ledger \(TypeError: .*\)",
    }
    for content, reason in damaged.items():
        file.write_text(content)
        with pytest.raises(DataError, match=rf"ledger.json: {reason}; put the file back") as error:
            Ledger.read(file)
        assert "\n" not in str(error.value)
