"""Strangers' folders and CSV files: which class and split a file is of, and what is not used."""

import os
import unicodedata
from pathlib import Path

import pytest

from trainer.data.layout import find
from trainer.data.ledger import Found, not_used
from trainer.errors import DataError


def unused(listing):
    return {entry.what: entry.count for entry in listing.unused}


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
    assert list(find(tmp_path).found) == [
        Found("cats/1.jpg", "cats", None),
        Found("cats/more/2.PNG", "cats", None),
        Found("dogs/3.webp", "dogs", None),
    ]


def test_given_splits_are_kept_apart_from_class_names(tmp_path):
    make(tmp_path, "train/cats/1.jpg", "train/dogs/2.jpg")
    make(tmp_path, "validation/cats/3.jpg", "validation/dogs/4.jpg")
    assert [(file.label, file.given_split) for file in find(tmp_path).found] == [
        ("cats", "train"),
        ("dogs", "train"),
        ("cats", "validation"),
        ("dogs", "validation"),
    ]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "there is no such folder; expected one folder of pictures per class"),
        (["notes.txt"], "no pictures found; expected <class>/*.jpg or train/<class>/*.jpg"),
        (
            ["1.jpg", "2.png", "notes.txt"],
            "its 2 pictures are in no class folder; expected one folder of pictures per class",
        ),
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


def test_link_that_leads_back_is_named(tmp_path):
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    (tmp_path / "cats" / "more").mkdir()
    (tmp_path / "cats" / "more" / "back").symlink_to(tmp_path / "cats")
    with pytest.raises(
        DataError,
        match=r"cats/more/back: a link to a folder that contains it; remove the link",
    ):
        find(tmp_path)


def test_link_to_another_folder_is_followed_and_a_broken_one_is_listed(tmp_path):
    make(tmp_path / "data", "cats/1.jpg", "dogs/2.jpg")
    make(tmp_path / "elsewhere", "3.jpg")
    (tmp_path / "data" / "cats" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "dogs" / "gone.jpg").symlink_to("nowhere")
    listing = find(tmp_path / "data")
    assert [file.path for file in listing.found] == [
        "cats/1.jpg",
        "cats/linked/3.jpg",
        "dogs/2.jpg",
    ]
    assert [file.path for file in listing.left_out] == ["dogs/gone.jpg"]


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


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "val"), ("train", "validation")),
        (("train", "valid", "test"), ("train", "validation", "test")),
        (("Train", "Validation", "Test"), ("train", "validation", "test")),
        (("training", "testing"), ("train", "test")),
        (("TRAIN", "dev", "Eval"), ("train", "validation", "test")),
    ],
)
def test_split_folders_are_known_by_the_names_that_people_use(tmp_path, names, splits):
    make(tmp_path, *(f"{name}/{label}/1.jpg" for name in names for label in ("cats", "dogs")))
    found = find(tmp_path).found
    assert {file.path.split("/")[0]: file.given_split for file in found} == dict(
        zip(names, splits, strict=True)
    )
    assert {file.label for file in found} == {"cats", "dogs"}


def test_two_folders_for_one_split_are_named(tmp_path):
    make(tmp_path, "train/cats/1.jpg", "val/cats/2.jpg", "valid/cats/3.jpg")
    with pytest.raises(DataError, match=r"val and valid both name the validation split"):
        find(tmp_path)


def test_class_that_is_called_like_a_split_is_a_class(tmp_path):
    make(tmp_path, "train/1.jpg", "bus/2.jpg", "car/3.jpg")
    assert {file.label for file in find(tmp_path).found} == {"train", "bus", "car"}


def test_what_stands_beside_split_folders_is_counted(tmp_path):
    make(
        tmp_path,
        "train/cats/1.jpg",
        "train/dogs/2.jpg",
        "extra/cats/3.jpg",
        "extra/4.jpg",
        "train/5.jpg",
        "6.jpg",
    )
    listing = find(tmp_path)
    assert [file.path for file in listing.found] == ["train/cats/1.jpg", "train/dogs/2.jpg"]
    assert unused(listing) == {
        "pictures in extra": 2,
        "pictures in train": 1,
        "pictures in no folder": 1,
    }
    assert not_used(listing.unused).startswith(
        "not used: pictures in extra: 2 (not the folder of a split); pictures in no folder: 1"
        " (without a class); pictures in train: 1 (without a class)"
    )


@pytest.mark.parametrize(
    ("paths", "groups", "deeper"),
    [
        (
            [*(f"Dataset/{n}/{i}.jpg" for n in range(3) for i in range(9)), "Examples/1.jpg"],
            "Dataset holds",
            "/Dataset",
        ),
        (
            ["train/Fruit/Apple/1.jpg", "train/Fruit/Pear/2.jpg", "train/Packages/Milk/3.jpg"],
            "Fruit, Packages hold",
            "/train/Fruit",
        ),
        (
            ["archive/train/cats/1.jpg", "archive/train/dogs/2.jpg", "archive/val/cats/3.jpg"],
            "archive holds",
            "/archive",
        ),
    ],
)
def test_folders_of_class_folders_are_told_with_what_to_give_instead(
    tmp_path, paths, groups, deeper
):
    make(tmp_path, *paths)
    with pytest.raises(DataError) as error:
        find(tmp_path)
    text = str(error.value)
    assert f"{groups} only folders" in text
    assert f"whisker-train --data={tmp_path} --classes=leaves" in text
    assert text.endswith(f"--data={tmp_path}{deeper}")
    assert "\n" not in text


def test_command_that_is_told_can_be_pasted(tmp_path):
    folder = tmp_path / "my pictures"
    make(folder, "all/cats/1.jpg", "all/dogs/2.jpg")
    with pytest.raises(DataError) as error:
        find(folder)
    assert f"--data='{folder}' --classes=leaves" in str(error.value)
    assert str(error.value).endswith(f"--data='{folder}/all'")


def test_endings_that_are_numbers_are_one_entry(tmp_path):
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg", *(f"dogs/img.{n} (1)" for n in range(50)))
    make(tmp_path, *(f"dogs/img.2024100{n}" for n in range(5)))
    assert unused(find(tmp_path)) == {"files of other formats": 55}


def test_thousands_of_folders_take_no_longer_than_their_number(tmp_path):
    make(tmp_path, *(f"{number:04}/1.jpg" for number in range(3000)))
    for number in range(3000):
        (tmp_path / f"empty{number}").mkdir()
    listing = find(tmp_path)
    assert len(listing.found) == 3000
    assert [entry.count for entry in listing.unused] == [3000]
    assert "empty0, empty1, empty10 and 2,997 more" in not_used(listing.unused)


def test_lowest_folders_are_classes_by_their_path(tmp_path):
    make(
        tmp_path,
        "train/Fruit/Apple/Golden/1.jpg",
        "train/Packages/Milk/2.jpg",
        "val/Fruit/Apple/Golden/3.jpg",
        "val/Packages/Milk/4.jpg",
    )
    assert {(file.label, file.given_split) for file in find(tmp_path, "leaves").found} == {
        ("Fruit/Apple/Golden", "train"),
        ("Packages/Milk", "train"),
        ("Fruit/Apple/Golden", "validation"),
        ("Packages/Milk", "validation"),
    }


def test_pictures_below_a_class_folder_are_its_own_where_others_hold_pictures(tmp_path):
    make(tmp_path, "cats/1.jpg", "cats/2.jpg", "dogs/2024/3.jpg")
    assert [file.label for file in find(tmp_path).found] == ["cats", "cats", "dogs"]


def test_other_endings_are_counted_with_what_to_do(tmp_path):
    make(tmp_path, "cats/1.jfif", "cats/2.jpe", "dogs/3.jpg", "dogs/4.HEIC", "dogs/5.avif")
    make(tmp_path, "dogs/6.tif", "dogs/notes.txt", "dogs/README", "birds/7.tiff")
    make(tmp_path, "ledger.json", "looks.jsonl")
    (tmp_path / "fish").mkdir()
    listing = find(tmp_path)
    assert [file.path for file in listing.found] == ["cats/1.jfif", "cats/2.jpe", "dogs/3.jpg"]
    assert unused(listing) == {
        "files of other formats": 1,
        ".avif files": 1,
        ".heic files": 1,
        ".tif files": 1,
        ".tiff files": 1,
        ".txt files": 1,
        "folders without a usable picture (birds, fish)": 2,
    }
    assert ".heic files: 1 (convert them: magick mogrify -format jpg *.heic)" in not_used(
        listing.unused
    )


def test_hidden_and_system_folders_are_passed_over_at_any_depth(tmp_path):
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg", "cats/.ipynb_checkpoints/1.jpg")
    make(tmp_path, "dogs/.thumbnails/2.jpg", "dogs/@eaDir/3.jpg", "cats/a/__MACOSX/4.jpg")
    make(tmp_path, "__MACOSX/cats/5.jpg", "dogs/Thumbs.db")
    listing = find(tmp_path)
    assert [file.path for file in listing.found] == ["cats/1.jpg", "dogs/2.jpg"]
    assert unused(listing) == {"hidden or system items": 6}


def test_runs_and_models_are_no_classes(tmp_path):
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    make(tmp_path, *(f"runs/a/{name}" for name in ("config.json", "state.json", "pictures/3.png")))
    make(
        tmp_path,
        "runs/compare/compare.json",
        "runs/compare/pictures/5.png",
        "runs/compare/a/pictures/4.png",
    )
    make(tmp_path, "models/models.config", "models/whisker/1/saved_model.pb")
    listing = find(tmp_path)
    assert {file.label for file in listing.found} == {"cats", "dogs"}
    assert unused(listing)["folders of runs or models"] == 3


def test_special_files_are_never_opened(tmp_path):
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    os.mkfifo(tmp_path / "dogs" / "cam.jpg")
    (tmp_path / "dogs" / "zero.jpg").symlink_to("/dev/zero")
    listing = find(tmp_path)
    assert len(listing.found) == 2
    assert [(file.path, file.reason) for file in listing.left_out] == [
        ("dogs/cam.jpg", "not a regular file, or a broken link"),
        ("dogs/zero.jpg", "not a regular file, or a broken link"),
    ]


def test_unicode_forms_of_a_name_are_one_class_and_cases_are_told(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    make(tmp_path / "a", f"train/{composed}/1.jpg", "train/bar/2.jpg")
    make(tmp_path / "a", f"val/{apart}/3.jpg", "val/bar/4.jpg")
    assert {file.label for file in find(tmp_path / "a").found} == {composed, "bar"}
    make(tmp_path / "b", "Cats/1.jpg", "cats/2.jpg", "dogs/3.jpg")
    with pytest.raises(DataError, match=r"Cats and cats differ only in upper and lower case"):
        find(tmp_path / "b")


@pytest.mark.parametrize(
    ("extra", "has", "missing"),
    [
        ("val/birds/5.jpg", "val/birds", "train/birds"),
        ("train/fish/5.jpg", "train/fish", "val/fish"),
    ],
)
def test_class_of_one_split_names_the_folder_that_is_missing(tmp_path, extra, has, missing):
    make(
        tmp_path, "train/cats/1.jpg", "train/dogs/2.jpg", "val/cats/3.jpg", "val/dogs/4.jpg", extra
    )
    with pytest.raises(DataError, match=f"has pictures in {has} and none in {missing}; add"):
        find(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na/1.jpg,cat\na/2.jpg,dog\n",
        "a/1.jpg,cat\na/2.jpg,dog\n",
        "label;image_path\ncat;a/1.jpg\ndog;./a/2.jpg\n",
        "\ufefffilename\tclass\r\na/1.jpg\tcat\r\n\r\na/2.jpg\tdog\r\n",
        "a\\1.jpg,cat\n.\\a\\2.jpg,dog\n",
        'id,note,path,label\n1,"two\nlines",a/1.jpg,cat\n2,,a/2.jpg,dog\n',
    ],
)
def test_csv_names_pictures_and_their_labels(tmp_path, text):
    make(tmp_path, "a/1.jpg", "a/2.jpg", "a/3.jpg")
    file = tmp_path / "labels.csv"
    file.write_text(text, encoding="utf-8")
    assert list(find(file).found) == [Found("a/1.jpg", "cat", None), Found("a/2.jpg", "dog", None)]


def test_csv_may_give_splits(tmp_path):
    make(tmp_path, "1.jpg", "2.jpg")
    file = tmp_path / "labels.csv"
    file.write_text("1.jpg,cat,Train\n2.jpg,dog,val\ngone.jpg,dog,test\n")
    listing = find(file)
    assert [file.given_split for file in listing.found] == ["train", "validation"]
    assert [(left.path, left.reason) for left in listing.left_out] == [
        ("gone.jpg", "line 3: no such file")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.jpg\n", r"line 1 is '1.jpg'; expected a path, a label"),
        ("1.jpg,cat\n2.jpg,\n", r"line 2 is '2.jpg,'; expected a path, a label"),
        ("1.jpg,cat,left\n", r"line 1 has the split 'left'; expected train, validation or test"),
        ("1.jpg,cat\n1.jpg,dog\n", r"lines 1 and 2 disagree about 1.jpg"),
        ("1.jpg,cat,train\n2.jpg,dog\n", r"line 2 has no split and others have one"),
        ("8.jpg,cat\n9.jpg,dog\n", r"none of the 2 files that it names exists"),
        ("1.jpg,cat\n2.jpg,Cat\n", r"cat and Cat differ only in upper and lower case"),
        ("1.jpg,cat\n2.jpg,cat\n", r"one class only \(cat\)"),
    ],
)
def test_csv_that_is_wrong_names_the_line(tmp_path, text, message):
    make(tmp_path, "1.jpg", "2.jpg")
    file = tmp_path / "labels.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        find(file)
    assert "\n" not in str(error.value)
