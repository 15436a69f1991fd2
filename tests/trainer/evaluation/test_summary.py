import copy

import pytest

from trainer.evaluation.summary import read_comparison, read_run


@pytest.fixture
def result(trained):
    """A real result, to be changed to what a test is about."""
    return copy.deepcopy(trained.result)


def said(result, about):
    # The narrow no-break space before each % is hard to see in an expectation.
    return next(
        (
            (each["verdict"], each["text"].replace("\N{NARROW NO-BREAK SPACE}", ""))
            for each in read_run(result)
            if each["about"] == about
        ),
        None,
    )


@pytest.mark.parametrize(
    ("baseline", "verdict", "words"),
    [
        (
            0.5,
            "good",
            (
                "Better than guessing: 80.0% of 100 test pictures are right (95 % interval 71.1% to"
                " 86.7%)"
            ),
        ),
        (0.8, "unclear", "Not enough pictures to tell it from guessing: "),
        (0.9, "bad", "Worse than guessing: "),
    ],
)
def test_verdict_against_the_baseline_follows_the_interval(result, baseline, verdict, words):
    result["test"] |= {"n": 100, "accuracy": 0.8, "interval_95": [0.711, 0.867]}
    found = said(result | {"baseline_accuracy": baseline}, "baseline")
    assert found[0] == verdict
    assert found[1].startswith(words)
    assert found[1].endswith(f"always naming the commonest class gets {baseline:.1%}.")


def trained_for(result, training, validation, losses, kept):
    result["validation"] |= {"n": 400, "interval_95": [0.70, 0.78]}
    result["history"] |= {
        "accuracy": training,
        "validation_accuracy": validation,
        "validation_loss": losses,
    }
    return result | {"chosen_epoch": kept}


def test_gap_that_grew_after_the_best_epoch_is_overfitting(result):
    result = trained_for(
        result, [0.70, 0.80, 0.90, 0.99], [0.70, 0.74, 0.74, 0.74], [0.6, 0.5, 0.7, 0.9], 4
    )
    assert said(result, "overfitting") == (
        "bad",
        (
            "It overfits by 25.0 points: in epoch 4, which was kept, training is 99.0% right and"
            " validation 74.0%. The lowest validation loss was in epoch 2; since then it rose from"
            " 0.500 to 0.900, and the gap by 19.0 points: fewer epochs, or --early_stopping,"
            " would do."
        ),
    )


def test_gap_at_the_best_epoch_blames_no_later_one(result):
    result = trained_for(result, [0.70, 0.90], [0.70, 0.74], [0.6, 0.5], 2)
    verdict, text = said(result, "overfitting")
    assert verdict == "bad"
    assert text.endswith("validation 74.0%.")


def test_gap_within_what_the_pictures_leave_open_is_none(result):
    verdict, text = said(
        trained_for(result, [0.70, 0.77], [0.70, 0.74], [0.6, 0.5], 2), "overfitting"
    )
    assert verdict == "good"
    assert text.startswith("No overfitting that 400 validation pictures can show: in epoch 2")


def test_one_epoch_does_not_tell(result):
    result = trained_for(result, [0.9], [0.5], [0.6], 1)
    assert said(result, "overfitting") == (
        "unclear",
        "One epoch does not tell whether training went too far.",
    )
    assert said(result, "stability") is None


@pytest.mark.parametrize(
    ("late", "verdict", "words"),
    [
        (
            0.64,
            "good",
            (
                "Steady: validation accuracy falls by up to 6.0 points over the last 2 epochs,"
                " within the"
            ),
        ),
        (
            0.95,
            "good",
            (
                "Steady: validation accuracy falls by up to 0.0 points over the last 2 epochs,"
                " within the"
            ),
        ),
        (
            0.60,
            "bad",
            (
                "It swings: validation accuracy falls by up to 10.0 points over the last 2 epochs,"
                " more than the"
            ),
        ),
    ],
)
def test_swings_are_held_against_the_interval(result, late, verdict, words):
    found = said(trained_for(result, [0.7] * 4, [0.5, 0.5, 0.7, late], [0.6] * 4, 4), "stability")
    assert found[0] == verdict
    assert found[1].startswith(words)


@pytest.mark.parametrize(("by_chance", "verdict"), [(0.1, "bad"), (0.3, "unclear")])
def test_hardest_class_is_named_as_far_as_pictures_tell(result, by_chance, verdict):
    result["test"] |= {
        "per_class": {
            "cats": {"n": 50, "recall": 0.7},
            "dogs": {"n": 50, "recall": 0.9},
            "none": {"n": 0},
        },
        "recall_spread_by_chance": by_chance,
        "confused": [{"true": "cats", "predicted": "dogs", "n": 1}],
    }
    found = said(result, "classes")
    assert found[0] == verdict
    assert found[1].endswith(
        "cats 70.0% of 50, dogs 90.0%. The commonest mistake, 1 time: cats taken for dogs."
    )


def test_equal_classes_without_a_mistake_are_said_to_be_so(result):
    result["test"] |= {
        "per_class": {"cats": {"n": 5, "recall": 1.0}, "dogs": {"n": 5, "recall": 1.0}},
        "confused": [],
    }
    assert said(result, "classes") == ("good", "Every class is recognised equally often.")


def calibrated(result, error, by_chance, temperature=2.0):
    bins = [{"n": 10, "confidence": 0.9, "accuracy": 0.9 - error}]
    after = {"error": error, "error_by_chance": by_chance, "bins": bins}
    result["test"] |= {"n": 10}
    return result | {
        "calibration": {
            "temperature": temperature,
            "fitted_on": 40,
            "before": {"error": 0.2},
            "after": after,
        }
    }


def test_probabilities_are_held_against_chance(result):
    assert said(calibrated(result, 0.04, 0.05), "probabilities") == (
        "good",
        (
            "As sure as it should be: probabilities are off by 4.0% on average (dividing logits by"
            " 2.00 took this from 20.0%), within 5.0%, what chance alone makes of 10 pictures."
        ),
    )
    verdict, text = said(calibrated(result, 0.06, 0.05, temperature=1), "probabilities")
    assert verdict == "bad"
    assert text.startswith(
        "Too sure: probabilities are off by 6.0% on average (40 validation pictures gave no reason"
    )


@pytest.mark.parametrize(("low", "verdict"), [(0.92, "good"), (0.88, "unclear")])
def test_certainty_helps_where_the_interval_says_so(result, low, verdict):
    result["coverage"] = {
        "coverage": [0.5, 0.9, 1],
        "accuracy": [1, 0.95, 0.9],
        "low": [0.9, low, 0.8],
        "high": [1] * 3,
    }
    result["test"]["accuracy"] = 0.9
    found = said(result, "certainty")
    assert found[0] == verdict
    assert "on the 90.0% that it is surest of, 95.0% are right" in found[1]


def test_perfect_test_set_has_no_certainty_to_speak_of(result):
    result["test"]["accuracy"] = 1.0
    assert said(result, "certainty") is None


def compared(test, seeds=(0, 1)):
    variants = {name: {"seeds": list(seeds)} for name in ("plain", "transfer")}
    return read_comparison(variants, [{"first": "plain", "second": "transfer", "test": test}])


@pytest.mark.parametrize(
    ("runs", "words"), [(1, "alone is right on"), (2, "is right more often on")]
)
def test_second_variant_is_better_where_the_paired_test_says_so(runs, words):
    test = {
        "runs": [1, runs],
        "n": 1000,
        "only_first": 5,
        "only_second": 150,
        "difference": 0.145,
        "p_value": 1e-9,
    }
    assert compared(test) == [
        {
            "about": "transfer against plain",
            "verdict": "good",
            "text": (
                f"14.5 points more are right: transfer {words} 150 of 1,000 test pictures, plain on"
                " 5 (exact paired test over pictures: p < 0.001)."
            ),
        }
    ]


@pytest.mark.parametrize(
    ("difference", "p_value", "verdict", "words"),
    [
        (-0.1, 0.01, "bad", "10.0 points fewer are right: "),
        (-0.01, 0.4, "unclear", "Not enough pictures to tell them apart: "),
        # More pictures favour the first, and by less.
        (0.01, 0.01, "unclear", "Not enough pictures to tell them apart: "),
    ],
)
def test_verdict_needs_the_test_and_the_difference_to_agree(difference, p_value, verdict, words):
    test = {
        "runs": [1, 1],
        "n": 100,
        "only_first": 15,
        "only_second": 5,
        "difference": difference,
        "p_value": p_value,
    }
    (statement,) = compared(test)
    assert statement["verdict"] == verdict
    assert statement["text"].startswith(words)


def test_other_pictures_and_single_seeds_are_said():
    pair, seeds = compared(None, seeds=(0,))
    assert (pair["verdict"], pair["text"]) == (
        "unclear",
        "They were not tested on the same pictures.",
    )
    assert (
        seeds["text"]
        == "A model with one seed says nothing about how much another seed would change it."
    )
