"""Temperature, reliability, what the model trades as its threshold moves, and when an answer is not
sure.
"""

import numpy as np
import pytest
import tensorflow as tf

from trainer.evaluation.calibration import (
    LOWEST_TEMPERATURE,
    MOST_POINTS,
    TARGET,
    Doubt,
    fit_temperature,
    judge_unsure,
    learn_familiarity,
    reliability,
    threshold_curves,
)
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


def scored(classes, count, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    # Rounded, so that some scores are equal.
    scores = np.round(generator.random((count, classes)) + 0.7 * np.eye(classes)[labels], 1)
    return labels, scores


def pairs_in_order(positive, scores):
    """Share of (positive, negative) pairs that the scores put in order, ties half: what the area
    under ROC is.
    """
    difference = scores[positive][:, None] - scores[~positive][None]
    return ((difference > 0) + 0.5 * (difference == 0)).mean()


def test_areas_of_two_classes_are_those_of_their_definitions():
    labels, scores = scored(2, 300)
    curves = threshold_curves(["cats", "dogs"], labels, scores)
    positive, of = labels == 1, scores[:, 1]
    assert curves["of"] == "dogs"
    assert curves["roc"]["area"] == pytest.approx(pairs_in_order(positive, of))
    thresholds = np.unique(of)[::-1]
    recall = [(of[positive] >= threshold).mean() for threshold in thresholds]
    precision = [positive[of >= threshold].mean() for threshold in thresholds]
    average = sum(np.diff([0, *recall]) * precision)
    assert curves["precision_recall"]["area"] == pytest.approx(average)
    assert curves["precision_recall"]["recall"] == pytest.approx([0, *recall])


def test_many_classes_get_the_mean_of_each_against_the_rest():
    labels, scores = scored(200, 2000)
    curves = threshold_curves([str(number) for number in range(200)], labels, scores)
    areas = [pairs_in_order(labels == number, scores[:, number]) for number in range(200)]
    assert curves["roc"]["area"] == pytest.approx(np.mean(areas))
    assert curves["of"] == "mean of 200 classes, each against the rest"
    for curve in (curves["roc"], curves["precision_recall"]):
        points = [values for name, values in curve.items() if name != "area"]
        assert {len(values) for values in points} == {MOST_POINTS}
        assert 0 <= min(map(min, points)) <= max(map(max, points)) <= 1


def test_class_without_pictures_is_left_out_of_the_mean():
    labels, scores = scored(2, 100)
    curves = threshold_curves(["a", "b", "c"], labels, np.c_[scores, scores[:, 0]])
    assert curves["of"] == "mean of 2 classes, each against the rest"
    assert curves["roc"]["area"] == pytest.approx(
        np.mean([pairs_in_order(labels == number, scores[:, number]) for number in (0, 1)])
    )


@pytest.mark.parametrize("count", [1, 5])
def test_one_class_alone_has_no_curve(count):
    curves = threshold_curves(["cats", "dogs"], np.ones(count, int), np.full((count, 2), 0.5))
    assert (curves["roc"], curves["precision_recall"]) == (None, None)


def test_perfect_order_has_area_one_and_long_curves_are_thinned_to_their_ends():
    labels = np.arange(10_000) // 5000
    curves = threshold_curves(
        ["cats", "dogs"], labels, np.linspace(0, 1, 10_000)[:, None].repeat(2, axis=1)
    )
    roc = curves["roc"]
    assert (roc["area"], curves["precision_recall"]["area"]) == (pytest.approx(1), pytest.approx(1))
    assert len(roc["false_positive_rate"]) == MOST_POINTS
    assert (roc["false_positive_rate"][0], roc["true_positive_rate"][-1]) == (0, 1)


def features(generator, n, directions):
    return (generator.normal(size=(n, len(directions))) @ directions + 3).astype(np.float32)


@pytest.fixture(scope="module")
def world():
    generator = np.random.default_rng(0)
    own, others = np.linalg.qr(generator.normal(size=(200, 40)))[0].T.reshape(2, 20, 200)
    return generator, own, others


def test_strangers_are_less_familiar_than_pictures_like_those_that_were_learnt(world):
    generator, own, others = world
    familiarity = learn_familiarity(features(generator, 300, own))
    known = familiarity.of(features(generator, 100, own)).numpy()
    strange = familiarity.of(features(generator, 100, others)).numpy()
    assert strange.max() < known.min() <= known.max() <= 1 + 1e-5
    assert strange.min() >= 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_training_pictures_have_a_familiarity_too(world, n):
    generator, own, _ = world
    few = features(generator, n, own)
    found = learn_familiarity(few).of(few).numpy()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("known", [False, True])
def test_at_most_the_target_of_pictures_alike_is_not_sure(known):
    generator = np.random.default_rng(1)
    shares = []
    for _ in range(200):
        scores = generator.uniform(0.5, 1, (4, 300)).astype(np.float32)
        kinds = 2 if known else 1
        found = judge_unsure(scores[:kinds], scores[2 : 2 + kinds], np.ones(300, bool))
        assert found["sure"] + found["unsure"] == 300
        shares.append(found["unsure"] / 300)
    assert 0.8 * TARGET < np.mean(shares) <= 1.02 * TARGET


@pytest.mark.parametrize(("known", "needed"), [(False, 19), (True, 39)])
def test_with_too_few_validation_pictures_everything_is_sure(known, needed):
    kinds = 2 if known else 1
    for n in (needed - 1, needed):
        scores = [np.linspace(0.5, 1, n, dtype=np.float32)] * kinds
        found = judge_unsure(scores, [np.zeros(3, np.float32)] * kinds, np.zeros(3, bool))
        assert found["pictures_needed"] == needed
        assert (found["lowest_probability"] > 0) == (n == needed)
        assert found["unsure"] == (3 if n == needed else 0)


def test_counts_are_of_what_is_right():
    scores = np.linspace(0.5, 1, 19, dtype=np.float32)
    test = np.array([0.1, 0.2, 0.9, 0.95], np.float32)
    found = judge_unsure([scores], [test], np.array([True, False, True, True]))
    counts = [found[name] for name in ("sure", "sure_correct", "unsure", "unsure_correct")]
    assert counts == [2, 2, 2, 1]
    assert found["lowest_familiarity"] is None


def test_array_and_graph_decide_alike():
    doubt = Doubt(0.6, 0.3)
    probability = np.array([0.5, 0.6, 0.9, 0.9], np.float32)
    familiarity = np.array([0.9, 0.9, 0.2, 0.3], np.float32)
    expected = [True, False, True, False]
    assert doubt.unsure(probability, familiarity).tolist() == expected
    in_graph = tf.function(doubt.unsure)(tf.constant(probability), tf.constant(familiarity))
    assert in_graph.numpy().tolist() == expected
    assert doubt.unsure(probability).tolist() == [True, False, False, False]
    assert doubt.unsure(probability, familiarity, slack=0.11).tolist() == [False] * 4
