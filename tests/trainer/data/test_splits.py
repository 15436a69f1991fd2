"""Which picture is in which split, and how a split is frozen."""

import hashlib
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tests.trained_model import draw, load_examples, logged, write_pictures
from tests.trainer.data.splitting import FLAT, GIVEN, extend, found_and_hashes, freeze, split_of
from trainer.data.dataset import open_pictures
from trainer.data.ledger import SPLITS, LeftOut, hashed
from trainer.data.splits import (
    assign,
    changes_since,
    count_test_set_evaluation,
    describe,
    ledger_file,
    read_frozen,
    require_every_split,
)
from trainer.errors import ConfigError, DataError


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


def test_copy_goes_with_what_looks_like_its_twin():
    found, sha256 = found_and_hashes(FLAT)
    for twin, other in ((1, 3), (3, 1)):
        copied = {**sha256, "cats/2.jpg": sha256[f"cats/{twin}.jpg"]}
        alike = [["cats/1.jpg", "cats/3.jpg"]]
        splits = split_of(freeze(found, copied, [], protocol="given", alike=alike))
        assert len(splits) == len(FLAT)
        assert splits["cats/2.jpg"] == splits[f"cats/{twin}.jpg"] == splits[f"cats/{other}.jpg"]


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
    with pytest.raises((ConfigError, DataError)) as error:
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


LEDGER = freeze(*found_and_hashes(FLAT), [], protocol="given")


def frozen_again(names, *, alike=(), protocol="given", **renamed):
    """Freezes some names and extends them by others; `renamed` gives a path another's content."""
    found, sha256 = found_and_hashes([*names, *renamed.get("added", [])])
    before = freeze(*found_and_hashes(names), [], protocol=protocol)
    return before, extend(before, found, sha256, [], alike)


def test_changes_are_named():
    found, sha256 = found_and_hashes([*FLAT[1:], "cats/new.jpg"])
    sha256["dogs/7.jpg"] = "another"
    changed = changes_since(LEDGER, hashed(found, sha256))
    assert str(changed) == "1 added (cats/new.jpg), 1 removed (cats/0.jpg), 1 altered (dogs/7.jpg)"


@pytest.mark.parametrize(
    ("names", "protocol"), [(FLAT, "given"), (FLAT, "70,15,15"), (GIVEN, "hold_out")]
)
def test_extending_assigns_what_is_new_and_moves_nothing(names, protocol):
    prefix = "train/" if names is GIVEN else ""
    added = [f"{prefix}cats/new{number}.jpg" for number in range(60)]
    # One of them looks like a picture of each split.
    alike = [[added[0], names[0]], [added[1], names[1]], [added[2], *names[3:8]]]
    before, after = frozen_again(names, added=added, alike=alike, protocol=protocol)
    assert {path: split_of(after)[path] for path in split_of(before)} == split_of(before)
    assert len(after.pictures) + len(after.left_out) == len(names) + len(added)
    assert {split_of(after)[path] for path in added if path in split_of(after)} >= {
        "train",
        "validation",
    }
    assert after.protocol == protocol


def test_new_picture_that_looks_like_an_old_one_goes_where_that_is():
    for old in FLAT[:40]:
        before, after = frozen_again(FLAT, added=["dogs/new.jpg"], alike=[["dogs/new.jpg", old]])
        assert split_of(after)["dogs/new.jpg"] == split_of(before)[old]


def test_excluded_picture_stays_excluded_when_the_split_is_extended():
    found, sha256 = found_and_hashes(FLAT)
    out = LeftOut(FLAT[0], "excluded by list.txt")
    before = freeze(found, {path: sha256[path] for path in FLAT[1:]}, [out], protocol="given")
    after = extend(before, found, sha256, [], [])
    assert (after.digest, after.left_out) == (before.digest, (out,))


def test_class_that_is_excluded_whole_is_refused_with_what_to_do():
    out = tuple(LeftOut(each.path, "excluded by F") for each in LEDGER.pictures)
    some = tuple(each for each in LEDGER.pictures if each.label != "dogs")
    with pytest.raises(DataError, match="class dogs: none of its 0 .* or exclude fewer$"):
        require_every_split(replace(LEDGER, pictures=some, left_out=out))


def test_picture_under_another_name_keeps_its_split():
    found, sha256 = found_and_hashes([*FLAT[:-1], "dogs/renamed.jpg"])
    sha256["dogs/renamed.jpg"] = next(
        each.sha256 for each in LEDGER.pictures if each.path == FLAT[-1]
    )
    assert (
        split_of(extend(LEDGER, found, sha256, [], []))["dogs/renamed.jpg"]
        == split_of(LEDGER)[FLAT[-1]]
    )


def rewrite(folder, change):
    content = json.loads(ledger_file(folder).read_text())
    change(content["pictures"])
    ledger_file(folder).write_text(json.dumps(content))


def test_ledger_whose_test_set_overlaps_its_training_set_is_refused(tmp_path):
    LEDGER.write(ledger_file(tmp_path))

    def copy(rows):
        trains = next(row for row in rows if row["split"] == "train")
        rows.append({**trains, "path": "cats/copy.jpg", "split": "test"})

    rewrite(tmp_path, copy)
    with pytest.raises(
        DataError, match=r"ledger.json: was changed after it was frozen; put it back"
    ):
        read_frozen(tmp_path)


def test_ledger_that_was_changed_by_hand_is_refused(tmp_path):
    LEDGER.write(ledger_file(tmp_path))
    rewrite(
        tmp_path,
        lambda rows: rows[0].update(split="test" if rows[0]["split"] == "train" else "train"),
    )
    with pytest.raises(
        DataError, match=r"ledger.json: was changed after it was frozen; put it back"
    ):
        read_frozen(tmp_path)


def test_looks_are_counted_where_the_folder_can_be_written(tmp_path):
    assert [
        count_test_set_evaluation(tmp_path, LEDGER, f"runs/{number}") for number in range(3)
    ] == [1, 2, 3]
    assert count_test_set_evaluation(tmp_path / "missing", LEDGER, "runs/4") is None
    # A run that was killed and resumes has looked once.
    assert [count_test_set_evaluation(tmp_path, LEDGER, "gs://b/5", "5a") for _ in range(2)] == [
        4,
        4,
    ]


@pytest.fixture
def folder(tmp_path):
    folder = write_pictures(tmp_path / "pictures", per_class=25)
    (folder / "dogs" / "cut.jpg").write_bytes(draw("dogs", 99)[:300])
    load_examples(folder, 32)[1].write(ledger_file(folder))
    return folder


def assigned(folder, *, protocol="given", undecodable=()):
    """What training makes of a folder, and what it says."""
    pictures = open_pictures(folder)
    sha256 = {
        file.path: hashlib.sha256(pictures.read(file.path)).hexdigest()
        for file in pictures.found
        if file.path not in ("dogs/cut.jpg", *undecodable)
    }
    left_out = tuple(LeftOut(path, "damaged") for path in ("dogs/cut.jpg", *undecodable))
    pictures = replace(pictures, found=hashed(pictures.found, sha256), left_out=left_out)
    with logged() as lines:
        return assign(pictures, protocol), lines


def test_training_goes_by_the_frozen_ledger(folder):
    ledger, lines = assigned(folder)
    assert ledger == read_frozen(folder)
    assert lines == [f"split frozen in {folder}/ledger.json (given)"]


def test_training_says_what_was_added_and_does_not_use_it(folder):
    (folder / "cats" / "new.jpg").write_bytes(draw("cats", 100))
    ledger, lines = assigned(folder)
    assert ledger == read_frozen(folder)
    assert lines[1].startswith("1 added (cats/new.jpg) since then: not used; whisker-data extend")


def test_training_on_altered_or_removed_pictures_is_refused(folder):
    (folder / "cats" / "1.jpg").write_bytes(draw("cats", 100))
    (folder / "dogs" / "2.jpg").unlink()
    with pytest.raises(
        DataError,
        match=r"have changed: 1 removed \(dogs/2.jpg\), 1 altered \(cats/1.jpg\); put them",
    ):
        assigned(folder)


def test_frozen_picture_that_was_cut_short_is_altered(folder):
    (folder / "cats" / "1.jpg").write_bytes(draw("cats", 1)[:200])
    with pytest.raises(DataError, match=r"1 altered \(cats/1.jpg\)"):
        assigned(folder, undecodable=["cats/1.jpg"])


def test_frozen_picture_that_tensorflow_does_not_decode_is_left_out(folder):
    ledger, _ = assigned(folder, undecodable=["cats/1.jpg"])
    assert "cats/1.jpg" not in split_of(ledger)
    assert [file.path for file in ledger.left_out] == ["dogs/cut.jpg", "cats/1.jpg"]


def test_protocol_that_was_not_frozen_is_refused(folder):
    with pytest.raises(
        DataError,
        match=r"--split=hold_out: .*ledger.json was frozen with given; leave out --split",
    ):
        assigned(folder, protocol="hold_out")


def test_notebooks_way_shows_test_pictures_in_validation_and_ours_shows_none(tmp_path):
    """The test set is taken with take and skip from a data set that shuffles anew at every pass, as
    in the notebook.
    """
    batches = (
        tf.data.Dataset.range(1000).shuffle(1000, seed=1, reshuffle_each_iteration=True).batch(32)
    )
    count = int(batches.cardinality()) // 5
    test, validation = batches.take(count), batches.skip(count)
    in_test = set(np.concatenate(list(test.as_numpy_iterator())).tolist())
    seen = {
        number
        for _ in range(5)
        for batch in validation.as_numpy_iterator()
        for number in batch.tolist()
    }
    assert len(in_test & seen) / len(in_test) > 0.9

    examples, ledger = load_examples(write_pictures(tmp_path / "pictures", per_class=30), 32)

    def shown(batches):
        return {pixels.tobytes() for batch in batches for pixels in batch[0].numpy()}

    in_test = shown(examples.evaluation_batches("test", 7))
    seen = set()
    for epoch in range(5):
        seen |= shown(examples.training_batches(7, seed=0, epoch=epoch, full=False))
        seen |= shown(examples.evaluation_batches("validation", 7))
    assert not in_test & seen
    assert (
        len(in_test) + len(seen)
        == len(ledger.pictures)
        == sum(len(examples.indices(split)) for split in SPLITS)
    )


@pytest.mark.parametrize(
    ("names", "protocol", "how"),
    [
        (FLAT, "given", "by content hash: 60 % train, 20 % validation, 20 % test"),
        (FLAT, "70,15,15", "by content hash, in these percentages"),
        (GIVEN, "given", "as the folders say, a fifth of validation for testing"),
        (
            GIVEN,
            "hold_out",
            "as the folders say, all of validation for testing, a fifth of train for validation",
        ),
    ],
)
def test_how_a_folder_is_split_is_said_in_one_line(names, protocol, how):
    found, sha256 = found_and_hashes(names)
    ledger = freeze(found, sha256, [], protocol=protocol)
    expected = f"split {how} (--split={protocol}); new pictures do not move old ones"
    assert describe(ledger, found) == expected
