"""Numbers about predictions, from their rows; and which parts of a picture an answer rests on."""

import json

import numpy as np
import pytest

from trainer.data.ledger import Picture
from trainer.evaluation import wilson_interval
from trainer.evaluation.judge import (
    MOST_LISTED,
    PARTS,
    Predicted,
    covered,
    evaluate,
    importance,
    judge_predictions,
    log_odds,
)
from trainer.variants.objective import Objective

CLASSES = ["cats", "dogs"]


def row(number, split, label, *logits):
    return Picture(f"{number:03d}.jpg", label, split, f"{number:03d}"), logits


def predicted(rows, split, classes):
    """What a model says of the pictures of a split: rows of a picture and its logits."""
    pictures, logits = zip(*(row for row in rows if row[0].split == split), strict=True)
    labels = np.array([classes.index(picture.label) for picture in pictures], np.int32)
    return Predicted(pictures, labels, np.array(logits, np.float32))


def judged(rows, classes=CLASSES):
    splits = [predicted(rows, split, classes) for split in ("validation", "test")]
    found = judge_predictions(Objective(len(classes)), classes, *splits, seed=0)
    json.dumps(found, allow_nan=False)
    return found


def rows_of(validation, test):
    generator = np.random.default_rng(0)
    return [
        row(
            number, split, label, (1 if label == "dogs" else -1) * 2 + float(generator.normal(0, 4))
        )
        for split, count in (("validation", validation), ("test", test))
        for number, label in enumerate(CLASSES * (count // 2))
    ]


def test_mistakes_are_listed_the_surest_first_and_the_least_certain_by_their_probability():
    rows = [
        row(0, "validation", "cats", -1.0),
        row(1, "validation", "dogs", 1.0),
        row(2, "test", "cats", -8.0),
        row(3, "test", "cats", 0.1),
        row(4, "test", "dogs", -3.0),
        row(5, "test", "dogs", 0.2),
    ]
    found = judged(rows)
    assert found["calibration"]["temperature"] == 1
    worst = found["mistakes"][0]
    assert worst.pop("probability") == pytest.approx(1 / (1 + np.exp(-3)))
    assert worst == {"sha256": "004", "path": "004.jpg", "label": "dogs", "predicted": "cats"}
    assert [each["sha256"] for each in found["mistakes"]] == ["004", "003"]
    assert [each["sha256"] for each in found["least_certain"]] == ["003", "005", "004", "002"]
    assert (found["validation"]["n"], found["test"]["n"], found["test"]["accuracy"]) == (2, 4, 0.5)


def test_temperature_comes_from_validation_and_mends_the_test():
    found = judged(rows_of(2000, 2000))
    calibration = found["calibration"]
    assert calibration["temperature"] == pytest.approx(4, rel=0.15)
    assert calibration["fitted_on"] == 2000
    assert (
        calibration["after"]["loss"]
        < calibration["before"]["loss"]
        == pytest.approx(found["test"]["loss"])
    )
    assert calibration["after"]["error"] < calibration["before"]["error"]
    assert len(found["mistakes"]) == len(found["least_certain"]) == MOST_LISTED
    assert all(each["label"] != each["predicted"] for each in found["mistakes"])


def test_test_pictures_do_not_change_the_temperature():
    rows = rows_of(400, 400)
    turned = [
        (picture, [-logits[0]] if picture.split == "test" else logits) for picture, logits in rows
    ]
    assert (
        judged(rows)["calibration"]["temperature"]
        == judged(turned)["calibration"]["temperature"]
        != 1
    )


def test_one_picture_in_each_split_of_two_hundred_classes_is_judged():
    classes = [f"class {number}" for number in range(200)]
    logits = np.eye(200)[7].tolist()
    rows = [row(0, "validation", "class 7", *logits), row(1, "test", "class 8", *logits)]
    found = judged(rows, classes)
    assert (found["test"]["accuracy"], found["mistakes"][0]["predicted"]) == (0, "class 7")
    assert found["curves"]["roc"] is None


def test_evaluation_counts_every_class():
    logits = np.array([[-2.0], [3.0], [2.0], [-1.0], [4.0]], np.float32)
    labels = np.array([0, 0, 1, 1, 1], np.int32)
    judged = evaluate(Objective(2), ["cats", "dogs"], labels, logits)
    assert (judged["n"], judged["accuracy"]) == (5, 0.6)
    assert judged["interval_95"] == list(wilson_interval(3, 5))
    cats, dogs = judged["per_class"]["cats"], judged["per_class"]["dogs"]
    assert cats.pop("interval_95") == list(wilson_interval(1, 2))
    assert dogs.pop("interval_95") == list(wilson_interval(2, 3))
    assert cats == {
        "n": 2,
        "correct": 1,
        "recall": 0.5,
        "predicted": 2,
        "precision": 0.5,
        "f1": 0.5,
    }
    third = 2 / 3
    assert dogs == {
        "n": 3,
        "correct": 2,
        "recall": third,
        "predicted": 3,
        "precision": third,
        "f1": third,
    }
    assert judged["balanced_accuracy"] == judged["macro_f1"] == pytest.approx(7 / 12)
    assert judged["top_5_accuracy"] is None
    signs = np.where(labels == 1, -1, 1) * logits[:, 0]
    assert judged["loss"] == pytest.approx(np.log1p(np.exp(signs)).mean(), rel=1e-5)


def test_usual_numbers_are_those_of_scikit_learn():
    # scikit-learn 1.9.1: f1_score(average="macro"), balanced_accuracy_score, and
    # top_k_accuracy_score(k=5), of these answers.
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 7, 60).astype(np.int32)
    logits = generator.normal(0, 1, (60, 7)).astype(np.float32)
    logits[np.arange(60), labels] += 1
    judged = evaluate(Objective(7), list("abcdefg"), labels, logits)
    assert judged["macro_f1"] == pytest.approx(0.4879245733381071)
    assert judged["balanced_accuracy"] == pytest.approx(0.501077097505669)
    assert judged["top_5_accuracy"] == pytest.approx(0.9)


def test_a_tie_of_logits_ranks_the_first_class_first():
    labels = np.array([4, 5], np.int32)
    judged = evaluate(Objective(6), list("abcdef"), labels, np.zeros((2, 6), np.float32))
    assert judged["top_5_accuracy"] == 0.5


def test_class_that_is_absent_and_never_named_has_no_recall_and_no_precision():
    labels = np.array([0, 1, 1, 1], np.int32)
    judged = evaluate(
        Objective(3), ["a", "b", "c"], labels, np.eye(3, dtype=np.float32)[[1, 1, 0, 0]]
    )
    nothing = {
        "n": 0,
        "correct": 0,
        "recall": None,
        "interval_95": None,
        "predicted": 0,
        "precision": None,
        "f1": None,
    }
    assert judged["per_class"]["c"] == nothing
    assert judged["confused"] == [
        {"true": "b", "predicted": "a", "n": 2},
        {"true": "a", "predicted": "b", "n": 1},
    ]


def test_spread_of_recalls_that_chance_makes_shrinks_with_pictures_and_grows_with_classes():
    def spread(classes, each):
        labels = np.repeat(np.arange(classes, dtype=np.int32), each)
        logits = np.eye(classes, dtype=np.float32)[
            np.where(np.arange(len(labels)) % 5, labels, (labels + 1) % classes)
        ]
        return evaluate(
            Objective(classes), [str(number) for number in range(classes)], labels, logits
        )

    assert (
        spread(3, 1000)["recall_spread_by_chance"] < 0.06 < spread(3, 50)["recall_spread_by_chance"]
    )
    assert spread(3, 50)["recall_spread_by_chance"] < spread(200, 50)["recall_spread_by_chance"]


SIZE = 40


def white_at(row, column):
    """Logits of a model that counts white in one part of 25."""
    part = SIZE // PARTS

    def classify(pixels):
        seen = pixels[:, row * part : (row + 1) * part, column * part : (column + 1) * part]
        return seen.mean((1, 2, 3))[:, np.newaxis].astype(np.float32) / 255 - 0.1

    return classify


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3), (4, 4)])
def test_part_that_the_answer_rests_on_is_the_most_important(row, column):
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    part = SIZE // PARTS
    inside = (
        slice(row * part + 2, (row + 1) * part - 2),
        slice(column * part + 2, (column + 1) * part - 2),
    )
    picture[inside] = 255
    found = importance(white_at(row, column), Objective(2), picture)
    assert found.shape == (PARTS, PARTS)
    assert np.unravel_index(found.argmax(), found.shape) == (row, column)
    assert found.max() > 0


def test_evidence_against_the_answer_has_a_negative_importance():
    picture = np.full((SIZE, SIZE, 3), 255, np.uint8)
    picture[::2] = 0
    black = importance(lambda pixels: -white_at(1, 1)(pixels) + 1.0, Objective(2), picture)
    white = importance(white_at(1, 1), Objective(2), picture)
    assert np.allclose(black, -white, atol=1e-5)


def test_covering_nothing_changes_nothing_and_covering_all_blurs_all():
    picture = np.random.default_rng(0).uniform(0, 255, (SIZE, SIZE, 3)).astype(np.float32)
    none, every = covered(picture, np.stack([np.zeros((PARTS, PARTS)), np.ones((PARTS, PARTS))]))
    assert np.array_equal(none, picture)
    assert np.abs(np.diff(every, axis=0)).mean() < 0.2 * np.abs(np.diff(picture, axis=0)).mean()


def test_log_odds_are_those_of_the_probabilities():
    for classes in (2, 5):
        objective = Objective(classes)
        logits = np.random.default_rng(0).normal(size=(7, objective.units)).astype(np.float32)
        probability = objective.probabilities(logits).numpy()[:, 1]
        expected = np.log(probability / (1 - probability))
        assert np.allclose(log_odds(objective, logits, 1), expected, atol=1e-5)
