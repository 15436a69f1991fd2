import random

import pytest

from tests.trainer.data.splitting import FLAT, GIVEN, found_and_hashes, split_of
from trainer.data.ledger import SPLITS, LeftOut
from trainer.data.splits import freeze, uneven
from trainer.errors import DataError


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
    with pytest.raises(
        DataError,
        match="class llamas: none of its 1 usable pictures is in the .* split; add pictures",
    ):
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


def test_pictures_that_look_the_same_go_together():
    alike = [[f"cats/{n}.jpg", f"cats/{n + 1}.jpg", f"dogs/{n}.jpg"] for n in range(0, 60, 3)]
    alone = split_of(freeze(*found_and_hashes(FLAT), [], protocol="given"))
    together = split_of(freeze(*found_and_hashes(FLAT), [], protocol="given", alike=alike))
    assert any(len({alone[path] for path in group}) > 1 for group in alike)
    for group in alike:
        lowest = min(group, key=found_and_hashes(FLAT)[1].__getitem__)
        assert {together[path] for path in group} == {alone[lowest]}
    rest = alone.keys() - {path for group in alike for path in group}
    assert {path: together[path] for path in rest} == {path: alone[path] for path in rest}


def test_picture_that_looks_like_one_in_another_given_split_is_left_out():
    alike = [["train/cats/1.jpg", "validation/cats/2.jpg"]]
    ledger = freeze(*found_and_hashes(GIVEN), [], protocol="given", alike=alike)
    assert ledger.left_out == (
        LeftOut("validation/cats/2.jpg", "looks the same as train/cats/1.jpg, which is in train"),
    )


def test_ratios_split_a_flat_folder():
    counts = freeze(*found_and_hashes(FLAT), [], protocol="80,5,15").counts()
    assert [sum(counts[split].values()) / len(FLAT) for split in SPLITS] == pytest.approx(
        [0.8, 0.05, 0.15], abs=0.05
    )


@pytest.mark.parametrize(
    ("ratios", "names", "message"),
    [
        (
            "80,20",
            FLAT,
            (
                "--split=80,20: expected given, hold_out, or percentages of train, validation and"
                " test above 0"
            ),
        ),
        ("80,20,0", FLAT, "that add up to 100, such as 70,15,15"),
        ("80,20,10", FLAT, "that add up to 100, such as 70,15,15"),
        ("70,15,15", GIVEN, "the folder has split folders of its own; use given or hold_out"),
    ],
)
def test_ratios_that_cannot_be_kept_are_refused(ratios, names, message):
    with pytest.raises(DataError) as error:
        freeze(*found_and_hashes(names), [], protocol=ratios)
    assert message in str(error.value)


def test_hundreds_of_small_classes_have_pictures_in_every_split():
    names = [f"{label:03}/{number}.jpg" for label in range(300) for number in range(3 + label % 20)]
    ledger = freeze(*found_and_hashes(names), [], protocol="given")
    assert len(ledger.classes) == 300
    assert len(ledger.pictures) == len(names)
    assert all(count for by_class in ledger.counts().values() for count in by_class.values())
    shuffled = random.Random(0).sample(names, len(names))
    assert split_of(freeze(*found_and_hashes(shuffled), [], protocol="given")) == split_of(ledger)


def test_class_whose_share_is_not_by_chance_is_told():
    names = [f"train/{label}/{n}.jpg" for label in ("cats", "dogs") for n in range(300)]
    names += [
        f"validation/{label}/{n}.jpg"
        for label, count in (("cats", 20), ("dogs", 200))
        for n in range(count)
    ]
    names += [f"test/{label}/{n}.jpg" for label in ("cats", "dogs") for n in range(100)]
    lines = list(uneven(freeze(*found_and_hashes(names), [], protocol="given")))
    assert "class cats: 5% of its 420 pictures are in validation, of all pictures 22%" in lines
    assert list(uneven(freeze(*found_and_hashes(FLAT), [], protocol="given"))) == []
