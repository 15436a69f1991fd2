import numpy as np
import pytest

from trainer.evaluation.metrics import evaluate, wilson_interval
from trainer.variants.head import Head


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # Published of this interval: 189 of 192 and 190 of 192 overlap almost wholly.
        (189, 192, 0.955, 0.995),
        (190, 192, 0.963, 0.997),
        (0, 10, 0.0, 0.278),
        (10, 10, 0.722, 1.0),
    ],
)
def test_wilson_interval_is_the_published_one(correct, total, low, high):
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=6e-4)


def test_evaluation_counts_every_class():
    logits = np.array([[-2.0], [3.0], [2.0], [-1.0], [4.0]], np.float32)
    labels = np.array([0, 0, 1, 1, 1], np.int32)
    judged = evaluate(Head(2), ["cats", "dogs"], labels, logits)
    assert (judged["n"], judged["accuracy"]) == (5, 0.6)
    assert judged["interval_95"] == list(wilson_interval(3, 5))
    assert judged["per_class"] == {
        "cats": {"n": 2, "correct": 1, "recall": 0.5},
        "dogs": {"n": 3, "correct": 2, "recall": pytest.approx(2 / 3)},
    }
    signs = np.where(labels == 1, -1, 1) * logits[:, 0]
    assert judged["loss"] == pytest.approx(np.log1p(np.exp(signs)).mean(), rel=1e-5)
