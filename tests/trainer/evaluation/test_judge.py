import json

import numpy as np
import pytest

from trainer.evaluation.judge import MOST_LISTED, judge_rows
from trainer.variants.objective import Objective

CLASSES = ["cats", "dogs"]


def row(number, split, label, *logits):
    return {"sha256": f"{number:03d}", "split": split, "label": label, "logits": list(logits)}


def judged(rows, classes=CLASSES):
    found = judge_rows(
        Objective(len(classes)),
        classes,
        rows,
        {each["sha256"]: f"{each['sha256']}.jpg" for each in rows},
        seed=0,
    )
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
    assert found["coverage"]["accuracy"][-1] == pytest.approx(found["test"]["accuracy"])


def test_test_pictures_do_not_change_the_temperature():
    rows = rows_of(400, 400)
    turned = [
        each | {"logits": [-each["logits"][0]]} if each["split"] == "test" else each
        for each in rows
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
