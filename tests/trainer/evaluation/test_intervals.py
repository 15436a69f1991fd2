import numpy as np
import pytest

from trainer.evaluation.intervals import over_seeds, paired_interval, wilson_interval


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
