import math

import pytest

from trainer.evaluation.intervals import paired_test, sign_test


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
