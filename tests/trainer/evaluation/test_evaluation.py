"""Intervals, over seeds too, and the paired test."""

import math

import numpy as np
import pytest

from trainer.evaluation import (
    over_seeds,
    paired_interval,
    paired_test,
    sign_test,
    wilson_interval,
)


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


@pytest.mark.parametrize(
    ("only_first", "only_second", "total", "low", "high"),
    [
        # Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017), chapter
        # 8: Bentur et al. 2009 and Cavo et al. 2012.
        (7, 1, 21, -0.517, -0.026),
        (16, 6, 161, -0.1240, -0.0054),
        # Where nothing differs, z² / (n + z²); where everything does, (n - z²) / (n + z²).
        (0, 0, 50, -0.0713, 0.0713),
        (0, 50, 50, 0.8573, 1.0),
    ],
)
def test_paired_interval_is_the_published_one(only_first, only_second, total, low, high):
    assert paired_interval(only_first, only_second, total, 1.959964) == pytest.approx(
        (low, high), abs=5e-4
    )
    assert paired_interval(only_second, only_first, total, 1.959964) == pytest.approx(
        (-high, -low), abs=5e-4
    )


@pytest.mark.parametrize(
    ("n", "lost", "gained"), [(100, 0.06, 0.04), (1000, 0.03, 0.03), (1000, 0.03, 0.01)]
)
def test_paired_interval_holds_the_difference_95_of_100_times_on_either_side(n, lost, gained):
    draws = np.random.default_rng(0).multinomial(n, [lost, gained, 1 - lost - gained], 2000)
    ends = np.array([paired_interval(int(first), int(second), n) for first, second, _ in draws])
    assert np.mean(ends[:, 0] <= gained - lost) == pytest.approx(0.95, abs=0.02)
    assert np.mean(ends[:, 1] >= gained - lost) == pytest.approx(0.95, abs=0.02)


def test_mean_over_three_seeds_has_students_interval():
    # Mean 0.9, standard deviation 0.01: 4.303 * 0.01 / sqrt(3) either way.
    found = over_seeds([0.89, 0.90, 0.91])
    assert found.pop("interval_95") == pytest.approx([0.87516, 0.92484], abs=1e-5)
    assert found == {"mean": pytest.approx(0.9), "min": 0.89, "max": 0.91}


def test_one_seed_has_no_interval_and_wide_ones_end_at_one():
    assert over_seeds([0.9]) == {"mean": 0.9, "min": 0.9, "max": 0.9, "interval_95": None}
    assert over_seeds([0.9, 1.0])["interval_95"][1] == 1.0


def run(answers, split="test"):
    """A run whose test pictures 0, 1, 2… are right where `answers` has a 1."""
    return [
        {
            "sha256": str(number),
            "split": split,
            "label": "cats",
            "predicted": "cats" if right == "1" else "dogs",
        }
        for number, right in enumerate(answers)
    ]


@pytest.mark.parametrize(("one", "other"), [(0, 0), (0, 5), (9, 3), (4, 4), (40, 60)])
def test_p_value_is_the_binomial_one(one, other):
    throws = one + other
    tail = sum(math.comb(throws, count) for count in range(min(one, other) + 1)) / 2**throws
    assert sign_test(one, other) == sign_test(other, one) == pytest.approx(min(1, 2 * tail))


def test_p_value_of_many_pictures_is_computed():
    assert sign_test(0, 100_000) == 0
    assert sign_test(50_000, 50_000) == 1


def test_pictures_that_both_get_right_tell_nothing():
    assert paired_test([run("1111110000")], [run("1111111110")]) == {
        "runs": [1, 1],
        "n": 10,
        "only_first": 0,
        "only_second": 3,
        "difference": pytest.approx(0.3),
        "p_value": 0.25,
    }


def test_over_seeds_a_picture_favours_the_model_that_is_right_more_often():
    found = paired_test([run("1100"), run("1000"), run("1000")], [run("1110"), run("0110")])
    assert (found["only_first"], found["only_second"]) == (1, 2)
    assert found["difference"] == pytest.approx(5 / 8 - 4 / 12)


@pytest.mark.parametrize("other", [run("1"), run("11", split="validation"), run("111")])
def test_other_pictures_are_not_compared(other):
    assert paired_test([run("10")], [other]) is None
    assert paired_test([run("10"), other], [run("10")]) is None
