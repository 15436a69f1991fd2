import pytest

from trainer.evaluation.intervals import over_seeds, wilson_interval


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


def test_mean_over_three_seeds_has_students_interval():
    # Mean 0.9, standard deviation 0.01: 4.303 * 0.01 / sqrt(3) either way.
    found = over_seeds([0.89, 0.90, 0.91])
    assert found.pop("interval_95") == pytest.approx([0.87516, 0.92484], abs=1e-5)
    assert found == {"mean": pytest.approx(0.9), "min": 0.89, "max": 0.91}


def test_one_seed_has_no_interval_and_wide_ones_end_at_one():
    assert over_seeds([0.9]) == {"mean": 0.9, "min": 0.9, "max": 0.9, "interval_95": None}
    assert over_seeds([0.9, 1.0])["interval_95"][1] == 1.0
