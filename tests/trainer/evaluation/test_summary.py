import copy

import pytest

from trainer.evaluation import wilson_interval
from trainer.evaluation.summary import against_baseline, read_comparison, read_run


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


def judged(result, commonest, others):
    """A result by the right answers and the pictures of the commonest class, and of the others."""
    counted = {"cats": commonest} | {f"other {place}": each for place, each in enumerate(others)}
    n = sum(total for _, total in counted.values())
    correct = sum(right for right, _ in counted.values())
    result["data"]["counts"]["train"] = dict.fromkeys(counted, 1) | {"cats": 2}
    result["test"] |= {
        "n": n,
        "accuracy": correct / n,
        "interval_95": list(wilson_interval(correct, n)),
        "per_class": {
            name: {"n": total, "correct": right, "recall": right / total if total else None}
            for name, (right, total) in counted.items()
        },
    }
    return result | {"baseline_accuracy": commonest[1] / n}


# Right answers and pictures: of the commonest class, of each other class; the verdict.
AGAINST_BASELINE = {
    "3 against 2 of 369": ((0, 2), [(1, 1)] * 3 + [(0, 1)] * 295 + [(0, 69)], "unclear"),
    # The interval around 3 of 369 ends above 1 of 369.
    "3 against 1 of 369": ((0, 1), [(1, 1)] * 3 + [(0, 1)] * 295 + [(0, 70)], "unclear"),
    "7 against 1 of 300": ((0, 1), [(1, 1)] * 7 + [(0, 1)] * 292, "unclear"),
    "9 against 1 of 300": ((0, 1), [(1, 1)] * 9 + [(0, 1)] * 290, "good"),
    "none right, few pictures": ((0, 5), [(0, 5)], "unclear"),
    "none right": ((0, 6), [(0, 6)], "bad"),
    "all right, few pictures": ((5, 5), [(5, 5)], "unclear"),
    "all right": ((6, 6), [(6, 6)], "good"),
    "always the commonest class": ((50, 50), [(0, 50)], "unclear"),
    "one class only": ((50, 50), [], "unclear"),
    "one picture": ((0, 0), [(1, 1)], "unclear"),
}


@pytest.mark.parametrize(
    ("commonest", "others", "verdict"), AGAINST_BASELINE.values(), ids=AGAINST_BASELINE
)
def test_verdict_against_the_baseline_is_that_of_an_exact_test(result, commonest, others, verdict):
    assert against_baseline(judged(result, commonest, others))[0] == verdict


@pytest.mark.parametrize(
    ("commonest", "others", "text"),
    [
        (
            (40, 50),
            (40, 50),
            "Better than guessing: 80.0% of 100 test pictures are right (95 % interval 71.1% to"
            " 86.7%); always answering the commonest class gets 50.0% (exact paired test:"
            " p < 0.001).",
        ),
        ((0, 50), (20, 50), "Worse than guessing: "),
        ((0, 2), (3, 2), "Not enough pictures to tell it from guessing: "),
    ],
)
def test_baseline_is_said_with_its_name_and_the_test(result, commonest, others, text):
    verdict, found = said(judged(result, commonest, [others]), "baseline")
    assert found.startswith(text)
    assert verdict == against_baseline(result)[0]


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
            " 0.500 to 0.900, and the gap by 19.0 points: use fewer epochs, or --early_stopping."
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
                "Steady: over the last 2 epochs, validation accuracy falls by up to 6.0 points,"
                " within the"
            ),
        ),
        (
            0.95,
            "good",
            (
                "Steady: over the last 2 epochs, validation accuracy falls by up to 0.0 points,"
                " within the"
            ),
        ),
        (
            0.60,
            "bad",
            (
                "Unsteady: over the last 2 epochs, validation accuracy falls by up to 10.0 points,"
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
            "cats": {"n": 50, "correct": 35, "recall": 0.7},
            "dogs": {"n": 50, "correct": 45, "recall": 0.9},
            "none": {"n": 0, "correct": 0},
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
        "per_class": {label: {"n": 5, "correct": 5, "recall": 1.0} for label in ("cats", "dogs")},
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
            "before": {"error": 0.2, "loss": 0.7},
            "after": after | {"loss": 0.7},
        }
    }


def test_probabilities_are_held_against_chance(result):
    assert said(calibrated(result, 0.04, 0.05), "probabilities") == (
        "good",
        (
            "As sure as it should be: probabilities are off by 4.0% on average (dividing logits by"
            " 2.00 changed this from 20.0%), within the 5.0% that chance alone explains with 10"
            " pictures."
        ),
    )
    verdict, text = said(calibrated(result, 0.06, 0.05, temperature=1), "probabilities")
    assert verdict == "bad"
    assert text.startswith(
        "Too sure: probabilities are off by 6.0% on average (40 validation pictures gave no reason"
    )


@pytest.mark.parametrize(
    ("before", "by_chance", "verdict", "words"),
    [
        (
            {"error": 0.029},
            0.05,
            "unclear",
            "The temperature made it worse: probabilities are off by 4.0% on average (dividing"
            " logits by 2.00 made this worse, from 2.9% to 4.0%), within the 5.0%",
        ),
        (
            {"loss": 0.68},
            0.05,
            "unclear",
            "The temperature made it worse: probabilities are off by 4.0% on average (dividing"
            " logits by 2.00 changed this from 20.0%, and made the loss worse, from 0.680 to"
            " 0.700)",
        ),
        (
            {"error": 0.029},
            0.03,
            "bad",
            "Too sure: probabilities are off by 4.0% on average (dividing logits by 2.00 made this"
            " worse, from 2.9% to 4.0%), more than the 3.0%",
        ),
        ({"error": 0.0398, "loss": 0.6998}, 0.05, "good", "As sure as it should be"),
    ],
)
def test_temperature_that_made_it_worse_is_no_success(result, before, by_chance, verdict, words):
    result = calibrated(result, 0.04, by_chance)
    result["calibration"]["before"] |= before
    found = said(result, "probabilities")
    assert found[0] == verdict
    assert found[1].startswith(words)


@pytest.mark.parametrize(
    ("counts", "verdict", "words"),
    [
        ((950, 940, 50, 20), "good", "sure of 950 of 1,000 test pictures, and 98.9% of these"),
        ((950, 900, 50, 45), "unclear", "of the others, 90.0% are right."),
        (
            (850, 840, 150, 60),
            "bad",
            "The others are more than the 5% that were allowed on validation pictures.",
        ),
        ((1000, 900, 0, 0), "unclear", "sure of 1,000 of 1,000 test pictures, and 90.0% of these"),
        ((0, 0, 1000, 500), "bad", "sure of 0 of 1,000 test pictures; of the others, "),
    ],
)
def test_being_unsure_helps_where_the_intervals_say_so(result, counts, verdict, words):
    result["test"]["n"] = 1000
    names = ("sure", "sure_correct", "unsure", "unsure_correct")
    result["unsure"] |= {"lowest_probability": 0.6, "fitted_on": 300}
    result["unsure"] |= dict(zip(names, counts, strict=True))
    found = said(result, "not sure")
    assert found[0] == verdict
    assert words in found[1]


def test_threshold_that_could_not_be_chosen_is_said(result):
    result["unsure"] |= {"lowest_probability": 0.0, "fitted_on": 12, "pictures_needed": 39}
    assert said(result, "not sure") == (
        "unclear",
        "It never says that it is not sure: 12 validation pictures are too few to choose a"
        " threshold, 39 are needed.",
    )


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
    assert seeds["text"] == "One seed does not tell how much another seed would change the result."
