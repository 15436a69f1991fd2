import numpy as np
import pytest

from trainer.evaluation.calibration import MOST_POINTS, coverage_curve, threshold_curves


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


def test_coverage_takes_the_surest_first():
    right = np.array([False, True, True, True])
    curve = coverage_curve(right, np.array([0.5, 0.9, 0.8, 0.7]))
    assert curve["coverage"] == [0.25, 0.5, 0.75, 1.0]
    assert curve["accuracy"] == [1.0, 1.0, 1.0, 0.75]
    assert all(
        low < share <= high
        for low, share, high in zip(curve["low"], curve["accuracy"], curve["high"], strict=True)
    )
    assert (
        len(coverage_curve(np.ones(5000, bool), np.linspace(0, 1, 5000))["coverage"]) == MOST_POINTS
    )
    assert coverage_curve(right[:1], np.array([0.5]))["accuracy"] == [0.0]
