import numpy as np
import pytest
import tensorflow as tf

from trainer.evaluation.calibration import LOWEST_TEMPERATURE, fit_temperature, reliability
from trainer.variants.objective import Objective


def drawn(classes, count, seed=0):
    """Logits, and labels that are drawn with exactly the probabilities that they give."""
    generator = np.random.default_rng(seed)
    head = Objective(classes)
    logits = generator.normal(0, 2, (count, head.units)).astype(np.float32)
    probabilities = head.probabilities(tf.constant(logits)).numpy()
    labels = (generator.random((count, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return head, np.minimum(labels, classes - 1).astype(np.int32), logits


@pytest.mark.parametrize("classes", [2, 200])
@pytest.mark.parametrize("too_sure", [3.0, 0.5])
def test_temperature_is_what_the_logits_were_multiplied_by(classes, too_sure):
    head, labels, logits = drawn(classes, 20_000)
    assert fit_temperature(head, labels, logits * np.float32(too_sure)) == pytest.approx(
        too_sure, rel=0.05
    )


def test_calibrated_logits_are_left_alone():
    head, labels, logits = drawn(2, 200)
    assert fit_temperature(head, labels, logits) == 1.0


@pytest.mark.parametrize("count", [1, 20])
def test_few_pictures_that_are_all_right_do_not_make_the_model_surer(count):
    assert (
        fit_temperature(Objective(2), np.ones(count, np.int32), np.full((count, 1), 3, np.float32))
        == 1.0
    )


def test_perfect_separation_stops_at_the_bound():
    labels = np.arange(1000, dtype=np.int32) % 2
    fitted = fit_temperature(Objective(2), labels, (2 * labels[:, None] - 1).astype(np.float32))
    assert fitted == pytest.approx(LOWEST_TEMPERATURE, rel=3e-3)


def test_calibrated_answers_err_no_more_than_chance_and_too_sure_ones_do():
    head, labels, logits = drawn(3, 4000)
    for factor, calibrated in ((1, True), (3, False)):
        probabilities = head.probabilities(tf.constant(logits * factor)).numpy()
        found = reliability(3, probabilities.argmax(axis=1) == labels, probabilities.max(axis=1))
        assert (found["error"] < found["error_by_chance"]) == calibrated
        assert sum(each["n"] for each in found["bins"]) == 4000
        assert all(each["low"] <= each["confidence"] <= each["high"] for each in found["bins"])


def test_error_is_the_gap_weighted_by_pictures():
    # Two bins: three pictures at 0.6 of which one is right, one at 1.0 that is right.
    found = reliability(2, np.array([True, False, False, True]), np.array([0.62, 0.62, 0.62, 1.0]))
    assert found["error"] == pytest.approx(0.75 * abs(0.62 - 1 / 3))
    assert [(each["n"], each["accuracy"]) for each in found["bins"]] == [
        (3, pytest.approx(1 / 3)),
        (1, 1.0),
    ]


def test_one_picture_is_one_bin():
    found = reliability(200, np.array([False]), np.array([1 / 200]))
    assert [each["n"] for each in found["bins"]] == [1]
    assert found["error"] == pytest.approx(1 / 200)
