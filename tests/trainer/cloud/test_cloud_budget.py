import pytest

from trainer.cloud import submission
from trainer.errors import ConfigError

ASKED = {"max_hours": 24.0, "price_per_hour": 0.0, "max_cost": 0.0, "workers": 1}


def test_without_a_price_the_hours_count():
    made = submission.make_budget(**ASKED)
    assert (made.timeout_s, made.reason, made.cost(3600)) == (86400, "24 h, by --max_hours", 0.0)


def test_cost_limit_counts_every_worker_and_says_so():
    made = submission.make_budget(
        **(ASKED | {"price_per_hour": 2.5, "max_cost": 20.0, "workers": 4})
    )
    assert made.timeout_s == 7200
    assert made.reason == "2.00 h, by --max_cost: 20 / (4 workers × 2.5 an hour)"
    assert made.cost(7200) == 20.0


def test_smaller_of_the_two_limits_counts():
    made = submission.make_budget(
        **(ASKED | {"max_hours": 1.5, "price_per_hour": 2.0, "max_cost": 20.0})
    )
    assert (made.timeout_s, made.reason) == (
        5400,
        "1.5 h, by --max_hours, 3.00 at most for 1 worker",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_cost": 5.0}, "--max_cost=5 without --price_per_hour: give what one worker costs"),
        ({"max_hours": -1.0}, "--max_hours=-1: expected a number of at least 0"),
        ({"price_per_hour": float("nan")}, "--price_per_hour=nan: expected"),
        ({"max_hours": float("inf")}, "--max_hours=inf: expected"),
        ({"workers": 0}, "--workers=0: expected at least 1"),
        ({"max_hours": 0.0}, "would be ended after 0 s"),
        ({"max_cost": 0.01, "price_per_hour": 9.0}, "would be ended after 4 s"),
    ],
)
def test_limit_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        submission.make_budget(**(ASKED | changes))
