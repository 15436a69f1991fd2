"""The gate on arrays: verdicts, floors, and what it says."""

import copy
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from trainer.config import Config
from trainer.evaluation import gate

# What docs/benchmarks.md shows of them.
SIMULATED = Path(__file__).parents[3] / "benchmarks" / "results" / "gate.json"

N = 400
LABELS = ["cats", "dogs"] * (N // 2)
COST = gate.Cost(latency_ms=9.0, size_bytes=5_000_000)
JUDGED = {
    "test": {"per_class": {"cats": {"n": 200, "correct": 180}, "dogs": {"n": 200, "correct": 180}}},
    "calibration": {"after": {"error": 0.03, "error_by_chance": 0.04}},
}


def answers(*wrong):
    """Answers that are right but for these places."""
    places = set().union(*wrong)
    other = {"cats": "dogs", "dogs": "cats"}
    return [other[label] if place in places else label for place, label in enumerate(LABELS)]


def decided(
    policy,
    live_wrong,
    candidate_wrong,
    *,
    judged=JUDGED,
    cost=COST,
    live_cost=COST,
    trained_on=0,
    same_model=True,
):
    live = gate.Live(4, trained_on, answers(live_wrong), live_cost, same_model)
    return gate.decide(policy, 0.02, LABELS, answers(candidate_wrong), judged, cost, live)


@pytest.mark.parametrize(
    ("live_wrong", "candidate_wrong", "verdict", "passes", "passes_strict"),
    [
        (range(40), range(20), "better", True, True),
        (range(20), range(20), "not worse", True, True),
        (range(20, 32), range(12), "undecided", True, False),
        (range(20), range(40), "worse", False, False),
        # Surely less right, and surely by less than the margin: worse comes first, else versions
        # slide down.
        ([], range(3), "worse", False, False),
    ],
)
def test_verdict_follows_from_the_interval_and_the_policy(
    live_wrong, candidate_wrong, verdict, passes, passes_strict
):
    found = decided("not_worse", live_wrong, candidate_wrong)
    assert (found["verdict"], found["passed"]) == (verdict, passes)
    assert decided("strict", live_wrong, candidate_wrong)["passed"] == passes_strict
    assert found["live_version"] == 4
    assert found["sentence"].startswith(
        "The gate let it through: " if passes else "The gate refused it: "
    )
    assert ("; --gate=off publishes it all the same." in found["sentence"]) == (not passes)


def test_sentence_says_what_was_counted():
    assert (
        decided("not_worse", range(20), range(40))["sentence"]
        == "The gate refused it: worse than version 4, which is live: of 400 test pictures, the"
        " new model alone is right on 0, and version 4 alone on 20; the difference is -5.0 points"
        " (95 % sure: above -7.1; 95 % sure: below -3.5); --gate=off publishes it all the same."
    )


def test_undecided_says_how_many_pictures_would_tell():
    found = decided("strict", range(20, 32), range(12))
    needed = found["comparison"]["pictures_needed"]
    assert f"; about {needed:,} test pictures would decide it; " in found["sentence"]
    # As many, of two models that are equally good and differ as often, pass 80 of 100 times.
    share = 25 / 401 / 2
    draws = np.random.default_rng(0).multinomial(needed, [share, share, 1 - 2 * share], 1000)
    low = [gate.paired_interval(int(lost), int(gained), needed)[0] for lost, gained, _ in draws]
    assert np.mean(np.array(low) > -0.02) == pytest.approx(0.8, abs=0.05)


def test_margin_of_nothing_needs_a_better_one_and_no_number_of_pictures():
    found = gate.decide(
        "strict", 0.0, LABELS, answers(), JUDGED, COST, gate.Live(4, 0, answers(), COST)
    )
    assert (found["verdict"], found["comparison"]["pictures_needed"], found["passed"]) == (
        "undecided",
        None,
        False,
    )


def test_first_version_needs_the_floors_alone():
    found = gate.decide("strict", 0.02, LABELS, answers(), JUDGED, COST, None)
    assert (found["verdict"], found["passed"], found["comparison"]) == ("first", True, None)
    assert (
        found["sentence"] == "The gate let it through: there is no live version to compare it with."
    )


def test_live_version_that_knows_the_test_pictures_is_no_measure():
    found = decided("not_worse", [], [], trained_on=31)
    assert (found["verdict"], found["passed"], found["comparison"]) == ("unfair", False, None)
    assert (
        "version 4, which is live, was trained on or chosen by 31 of the 400 test pictures, so"
        " these cannot compare the two; keep test pictures apart with whisker-data split"
        " and extend; --gate=off" in found["sentence"]
    )


@pytest.mark.parametrize(("policy", "passes"), [("not_worse", True), ("strict", False)])
def test_live_version_without_a_ledger_leaves_it_undecided(policy, passes):
    found = decided(policy, [], [], trained_on=None)
    assert (found["verdict"], found["passed"]) == ("undecided", passes)
    assert (
        "undecided: version 4, which is live, does not record which pictures it was trained on"
        in found["sentence"]
    )


def broken(**changes):
    return {
        row["floor"]
        for row in decided("not_worse", range(20), range(20), **changes)["floors"]
        if row["broken"]
    }


def judged_with(**changes):
    judged = copy.deepcopy(JUDGED)
    judged["test"]["per_class"]["dogs"]["correct"] = changes.get("right_dogs", 180)
    judged["calibration"]["after"]["error"] = changes.get("error", 0.03)
    return judged


@pytest.mark.parametrize(
    ("changes", "floor"),
    [
        ({"judged": judged_with(right_dogs=30)}, "at best, the recall of dogs"),
        ({"judged": judged_with(error=0.2)}, "calibration error"),
        ({"cost": gate.Cost(2500.0, 5_000_000)}, "latency in ms"),
        ({"cost": gate.Cost(120.0, 5_000_000)}, "latency beside the live one in ms"),
        ({"cost": gate.Cost(9.0, 51_000_000)}, "size beside the live one in bytes"),
        ({"cost": gate.Cost(9.0, 2_100_000_000)}, "size in bytes"),
    ],
)
def test_what_is_broken_breaks_its_floor(changes, floor):
    assert floor in broken(**changes)
    found = decided("not_worse", range(20), range(20), **changes)
    assert not found["passed"]
    assert f"; a fixed limit is broken: {floor} is " in found["sentence"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        # Weak but honest: guessing on one class, and probabilities off by what few pictures do.
        {"judged": judged_with(right_dogs=60, error=0.15)},
        # From plain to transfer, by benchmarks/results/compare.json.
        {"cost": gate.Cost(17.9, 11_052_207), "live_cost": gate.Cost(4.0, 5_470_481)},
        # From the smallest backbone to the largest.
        {
            "cost": gate.Cost(110.0, 113_000_000),
            "live_cost": gate.Cost(4.0, 2_400_000),
            "same_model": False,
        },
    ],
)
def test_honest_model_breaks_no_floor(changes):
    assert broken(**changes) == set()


def test_class_that_is_lost_is_refused_whatever_the_others_gain():
    dogs = [place for place, label in enumerate(LABELS) if label == "dogs"]
    cats = [place for place, label in enumerate(LABELS) if label == "cats"]
    found = decided("not_worse", cats[:60], dogs[:40])
    assert found["verdict"] == "better"
    assert not found["passed"]
    assert (
        "a fixed limit is broken: at best, the change of the recall of dogs is -0.1"
        in found["sentence"]
    )


def test_gate_that_is_off_lets_anything_through_and_says_so():
    found = decided("off", [], range(N), judged=judged_with(right_dogs=0))
    assert (found["verdict"], found["passed"], found["floors"], found["comparison"]) == (
        "off",
        True,
        [],
        None,
    )
    assert found["sentence"].startswith("The gate was off: ")


def verdict(lost, gained, n):
    places = np.arange(n)
    only_live, only_candidate = places < lost, (lost <= places) & (places < lost + gained)
    return gate.compare(~only_candidate, ~only_live, Config.gate_margin / 100)["verdict"]


def simulate(differ, pairs):
    """How often the gate refuses, for each number of pictures and each loss.

    Args:
        differ: share of the test pictures that one of two models alone is right about, where they
            are equally good.
        pairs: of models; the candidate loses the points and no others, beyond where two differ.
    """
    generator = np.random.default_rng(0)
    for n in (200, 1000, 5000):
        for points in (0, 1, 2, 3):
            shares = [differ / 2 + points / 100, differ / 2]
            draws = generator.multinomial(n, [*shares, 1 - sum(shares)], pairs)
            verdicts = Counter(verdict(int(lost), int(gained), n) for lost, gained, _ in draws)
            refused = {
                policy: sum(verdicts[one] for one in gate.REFUSED[policy]) / pairs
                for policy in ("not_worse", "strict")
            }
            row = {"n": n, "worse_by_points": points, "verdicts": dict(verdicts)}
            yield row | {"refused": refused}


@pytest.mark.skipif(not SIMULATED.exists(), reason="an image has no results of benchmarks")
def test_gate_refuses_as_often_as_the_results_say():
    known = json.loads(SIMULATED.read_text())
    for model in known["models"]:
        assert list(simulate(model["differ"], known["pairs"])) == model["rows"]
