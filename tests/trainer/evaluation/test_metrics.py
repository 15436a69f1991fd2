import numpy as np
import pytest

from trainer.evaluation.intervals import wilson_interval
from trainer.evaluation.judge import evaluate
from trainer.variants.objective import Objective


def test_evaluation_counts_every_class():
    logits = np.array([[-2.0], [3.0], [2.0], [-1.0], [4.0]], np.float32)
    labels = np.array([0, 0, 1, 1, 1], np.int32)
    judged = evaluate(Objective(2), ["cats", "dogs"], labels, logits)
    assert (judged["n"], judged["accuracy"]) == (5, 0.6)
    assert judged["interval_95"] == list(wilson_interval(3, 5))
    cats, dogs = judged["per_class"]["cats"], judged["per_class"]["dogs"]
    assert cats.pop("interval_95") == list(wilson_interval(1, 2))
    assert dogs.pop("interval_95") == list(wilson_interval(2, 3))
    assert cats == {"n": 2, "correct": 1, "recall": 0.5, "predicted": 2, "precision": 0.5}
    assert dogs == {"n": 3, "correct": 2, "recall": 2 / 3, "predicted": 3, "precision": 2 / 3}
    signs = np.where(labels == 1, -1, 1) * logits[:, 0]
    assert judged["loss"] == pytest.approx(np.log1p(np.exp(signs)).mean(), rel=1e-5)


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
