import hashlib
import json
import random

import pytest

from trainer.data.ledger import SPLITS, Found, LeftOut, find, freeze
from trainer.errors import DataError


def make(folder, *paths):
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())
    return folder


def found_and_hashes(names, given_split=None):
    found = [
        Found(name, name.split("/")[-2], given_split or (name.split("/")[0] if name.count("/") == 2 else None))
        for name in names
    ]
    return found, {file.path: hashlib.sha256(file.path.encode()).hexdigest() for file in found}


FLAT = [f"{label}/{number}.jpg" for label in ("cats", "dogs") for number in range(200)]
GIVEN = [f"{split}/{name}" for split in ("train", "validation") for name in FLAT]


def split_of(ledger):
    return {picture.path: picture.split for picture in ledger.pictures}


def test_class_folders_are_found_and_other_files_passed_over(tmp_path):
    make(
        tmp_path, "cats/1.jpg", "cats/more/2.PNG", "dogs/3.webp", "dogs/notes.txt", "dogs/.4.jpg", ".git/5.jpg", "6.jpg"
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
        (["cats/1.jpg"], "one class only (cats); expected a folder of pictures for each of two or more classes"),
        (["validation/cats/1.jpg"], "holds validation but no train folder; expected train/<class>/"),
    ],
)
def test_folder_that_cannot_be_trained_on_is_refused(tmp_path, paths, message):
    with pytest.raises(DataError) as error:
        find(make(tmp_path / "data", *paths))
    assert message in str(error.value)


def test_flat_folder_is_split_into_three_fifths_one_fifth_and_one_fifth():
    counts = freeze(*found_and_hashes(FLAT), [], protocol="given").counts()
    sizes = [sum(counts[split].values()) / len(FLAT) for split in SPLITS]
    assert sizes == pytest.approx([0.6, 0.2, 0.2], abs=0.06)


def test_order_of_files_does_not_matter_and_adding_pictures_moves_none():
    before = split_of(freeze(*found_and_hashes(FLAT), [], protocol="given"))
    more = [*FLAT, *(f"cats/new{number}.jpg" for number in range(50))]
    random.Random(1).shuffle(more)
    after = split_of(freeze(*found_and_hashes(more), [], protocol="given"))
    assert {path: after[path] for path in before} == before


def test_given_protocol_takes_a_fifth_of_validation_for_the_test_set():
    splits = split_of(freeze(*found_and_hashes(GIVEN), [], protocol="given"))
    assert {split for path, split in splits.items() if path.startswith("train/")} == {"train"}
    validation = [split for path, split in splits.items() if path.startswith("validation/")]
    assert set(validation) == {"validation", "test"}
    assert validation.count("test") / len(validation) == pytest.approx(0.2, abs=0.06)


def test_hold_out_protocol_tests_on_all_of_validation_and_selects_on_a_fifth_of_train():
    splits = split_of(freeze(*found_and_hashes(GIVEN), [], protocol="hold_out"))
    assert {split for path, split in splits.items() if path.startswith("validation/")} == {"test"}
    train = [split for path, split in splits.items() if path.startswith("train/")]
    assert set(train) == {"train", "validation"}
    assert train.count("validation") / len(train) == pytest.approx(0.2, abs=0.06)


def test_splits_that_are_all_given_stay_as_they_are():
    names = [f"{split}/{name}" for split in SPLITS for name in FLAT]
    splits = split_of(freeze(*found_and_hashes(names), [], protocol="given"))
    assert all(path.startswith(f"{split}/") for path, split in splits.items())


def test_class_too_small_to_split_is_named():
    found, sha256 = found_and_hashes([*FLAT, "llamas/1.jpg"])
    with pytest.raises(DataError, match="class llamas: none of its 1 usable pictures is in the .* split; add pictures"):
        freeze(found, sha256, [], protocol="given")


def test_same_file_in_two_splits_trains_only():
    found, sha256 = found_and_hashes(GIVEN)
    sha256["validation/cats/7.jpg"] = sha256["train/cats/7.jpg"]
    ledger = freeze(found, sha256, [], protocol="given")
    assert "validation/cats/7.jpg" not in split_of(ledger)
    assert ledger.left_out == (
        LeftOut("validation/cats/7.jpg", "the same file as train/cats/7.jpg, which is in train"),
    )


def test_same_file_in_two_classes_is_not_used_at_all():
    found, sha256 = found_and_hashes(FLAT)
    sha256["dogs/7.jpg"] = sha256["cats/7.jpg"]
    ledger = freeze(found, sha256, [], protocol="given")
    assert {"cats/7.jpg", "dogs/7.jpg"}.isdisjoint(split_of(ledger))
    assert [file.path for file in ledger.left_out] == ["cats/7.jpg", "dogs/7.jpg"]
    assert ledger.left_out[0].reason == "the same file as dogs/7.jpg, of another class"


def test_digest_changes_with_a_label_but_not_with_a_path(tmp_path):
    found, sha256 = found_and_hashes(FLAT)
    ledger = freeze(found, sha256, [], protocol="given")
    moved = [Found(f"elsewhere/{file.path}", file.label, None) for file in found]
    moved_hashes = {f"elsewhere/{path}": digest for path, digest in sha256.items()}
    assert freeze(moved, moved_hashes, [], protocol="given").digest == ledger.digest
    relabelled = [Found(file.path, "dogs" if file.path == "cats/0.jpg" else file.label, None) for file in found]
    assert freeze(relabelled, sha256, [], protocol="given").digest != ledger.digest
    ledger.write(tmp_path / "ledger.json")
    assert json.loads((tmp_path / "ledger.json").read_text())["digest"] == ledger.digest


def test_baseline_is_what_the_most_frequent_training_class_gets_on_the_test_set():
    names = [f"train/cats/{n}.jpg" for n in range(9)] + [f"train/dogs/{n}.jpg" for n in range(3)]
    names += [
        f"{split}/{label}/{n}.jpg" for split in ("validation", "test") for label in ("cats", "dogs") for n in range(1)
    ]
    names += [f"test/dogs/extra{n}.jpg" for n in range(2)]
    assert freeze(*found_and_hashes(names), [], protocol="given").baseline_accuracy() == pytest.approx(1 / 4)
