"""May the candidate go live? Compared with what is live on the same test pictures, and held to
floors.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import NormalDist
from typing import Any

import numpy as np

from trainer.evaluation import Z_ONE_SIDED_95, paired_interval, wilson_interval

# What the test pictures say of candidate and live version, 95 of 100 times rightly: one-sided score
# intervals.
BETTER, NOT_WORSE, UNDECIDED, WORSE = "better", "not worse", "undecided", "worse"
# What they do not say: there is nothing to compare with, the comparison would not be fair, or
# nobody wants it.
FIRST, UNFAIR, OFF = "first", "unfair", "off"

# Verdicts that keep a candidate from being published, by the flag --gate.
REFUSED = {"not_worse": (WORSE, UNFAIR), "strict": (WORSE, UNFAIR, UNDECIDED), "off": ()}

# The chance with which as many pictures as `pictures_needed` tell, were the two equally good.
_POWER = 0.8

# A model that is broken breaks one of these; a weak one that is honest does not.
# Recall for certain below half of guessing's: the class is hardly ever answered.
_CLASS_OF_CHANCE = 0.5
# Recall for certain 10 points below the live one's: better elsewhere does not make up for it.
_CLASS_LOSS = 0.1
# Beyond what chance makes of so many pictures: a stated 0.85 may then mean 0.7.
_CALIBRATION = 0.15
# Of one picture, the median: nobody waits longer; a large backbone takes 0.1 s.
_LATENCY_MS = 2000.0
# Memory of the smallest machines that serve; the variants and backbones take 2 to 115 MB.
_SIZE_BYTES = 2_000_000_000
# Of the same variant and backbone; of another, a hundred times is an honest change: ConvNeXt has 68
# times the parameters of the small MobileNetV2.
_TIMES_LIVE, _TIMES_ANOTHER = 10.0, 100.0
# By how much medians of a few milliseconds differ on a machine that does something else, too.
_LATENCY_NOISE_MS = 20.0


@dataclass(frozen=True)
class Cost:
    """What a served version costs.

    Attributes:
        latency_ms: median of one picture a request.
        size_bytes: of its files.
    """

    latency_ms: float
    size_bytes: int


@dataclass(frozen=True)
class Live:
    """What is known of the live version.

    Attributes:
        version: its number.
        trained_on: how many of the test pictures it was trained on or chosen by; None where nobody
            can tell.
        predicted: its answers about the test pictures, class names [n]; empty where that is not 0.
        cost: measured side by side with the candidate's, where it was asked.
        same_model: it has the candidate's variant and backbone.
    """

    version: int
    trained_on: int | None
    predicted: Sequence[str] = ()
    cost: Cost | None = None
    same_model: bool = True


def compare(live_right: np.ndarray, candidate_right: np.ndarray, margin: float) -> dict[str, Any]:
    """Compares two models on the same pictures.

    Args:
        live_right: bool [n].
        candidate_right: bool [n].
        margin: how much less may be right, 0…1, for the candidate to count as not worse.

    Returns:
        `verdict`, `n`, `only_live` and `only_candidate` (pictures that one alone is right about),
        `difference` of accuracies and the ends of its one-sided 95 % score intervals, `low` and
        `high`, -1…1; and `pictures_needed`, an estimate of how many would tell, were the two
        equally good: None where these do.
    """
    lost, gained, n = _counts(live_right, candidate_right)
    low, high = paired_interval(lost, gained, n)
    # Worse comes before not worse: small losses, each within the margin, would add up from version
    # to version.
    verdict = (
        WORSE if high < 0 else BETTER if low > 0 else NOT_WORSE if low > -margin else UNDECIDED
    )
    return {
        "verdict": verdict,
        "n": n,
        "only_live": lost,
        "only_candidate": gained,
        "difference": (gained - lost) / n,
        "low": low,
        "high": high,
        "pictures_needed": (
            _pictures_needed(lost + gained, n, margin) if verdict == UNDECIDED else None
        ),
    }


def _counts(live_right: np.ndarray, candidate_right: np.ndarray) -> tuple[int, int, int]:
    """On how many pictures the live version alone is right, the candidate alone, and of how
    many.
    """
    lost = int((live_right & ~candidate_right).sum())
    return lost, int((candidate_right & ~live_right).sum()), len(live_right)


def _pictures_needed(differ: int, n: int, margin: float) -> int | None:
    if not margin:
        return None
    # One more than were seen: that none differs among few does not mean that none ever does.
    share = (differ + 1) / (n + 1)
    quantiles = Z_ONE_SIDED_95 + NormalDist().inv_cdf(_POWER)
    return max(n + 1, math.ceil(share * (quantiles / margin) ** 2))


def _floors(
    judged: Mapping[str, Any],
    cost: Cost,
    live: Live | None,
    by_class: Mapping[str, tuple[int, int, int]],
) -> list[dict[str, Any]]:
    """Holds a model to what no published one may fall below.

    Args:
        judged: as for `decide`.
        cost: of the candidate.
        live: the live version, its cost measured side by side.
        by_class: by class, on how many test pictures of it the live version alone is right, the
            candidate alone, and how many there are, at least one; empty: they are not compared.

    Returns:
        One for each: `floor`, `value`, `limit`, `broken`.
    """
    per_class, error = judged["test"]["per_class"], judged["calibration"]["after"]
    recalls = {
        name: wilson_interval(row["correct"], row["n"], Z_ONE_SIDED_95)[1]
        for name, row in per_class.items()
        if row["n"]
    }
    worst, recall = min(recalls.items(), key=itemgetter(1))
    at_least = [(f"at best, the recall of {worst}", recall, _CLASS_OF_CHANCE / len(per_class))]
    at_most = [
        ("calibration error", error["error"], error["error_by_chance"] + _CALIBRATION),
        ("latency in ms", cost.latency_ms, _LATENCY_MS),
        ("size in bytes", cost.size_bytes, _SIZE_BYTES),
    ]
    if live is not None and live.cost is not None:
        times = _TIMES_LIVE if live.same_model else _TIMES_ANOTHER
        highest_ms = times * live.cost.latency_ms + _LATENCY_NOISE_MS
        at_most += [
            ("latency beside the live one in ms", cost.latency_ms, highest_ms),
            ("size beside the live one in bytes", cost.size_bytes, times * live.cost.size_bytes),
        ]
    if by_class:
        # The more classes, the surer of each: else one of many would seem worse by chance.
        quantile = NormalDist().inv_cdf(1 - 0.05 / len(by_class))
        changes = {name: paired_interval(*counts, quantile)[1] for name, counts in by_class.items()}
        worst, change = min(changes.items(), key=itemgetter(1))
        at_least.append((f"at best, the change of the recall of {worst}", change, -_CLASS_LOSS))
    return [
        {"floor": name, "value": value, "limit": limit, "broken": bool(sign * value > sign * limit)}
        for sign, floors in ((-1, at_least), (1, at_most))
        for name, value, limit in floors
    ]


def decide(
    policy: str,
    margin: float,
    labels: Sequence[str],
    predicted: Sequence[str],
    judged: Mapping[str, Any],
    cost: Cost,
    live: Live | None,
) -> dict[str, Any]:
    """Decides whether a candidate may be published.

    Args:
        policy: ``not_worse``, ``strict`` or ``off``.
        margin: how much less may be right, 0…1, for the candidate to count as not worse.
        labels: true classes of the test pictures, [n].
        predicted: the candidate's answers, [n].
        judged: `test` and `calibration` as `trainer.evaluation.judge.judge_predictions` gives
            them.
        cost: of the candidate.
        live: the live version; None where there is none.

    Returns:
        `policy`, `margin`, `live_version`, `verdict`, `passed`, `comparison` as `compare` gives it
        (None without one), `floors`, and `sentence`, which says it all to a human.
    """
    comparison, by_class = None, {}
    if policy == "off":
        verdict = OFF
    elif live is None:
        verdict = FIRST
    elif live.trained_on is None:
        verdict = UNDECIDED
    elif live.trained_on:
        verdict = UNFAIR
    else:
        true = np.array(labels)
        right = np.array(live.predicted) == true, np.array(predicted) == true
        comparison = compare(*right, margin)
        verdict = comparison["verdict"]
        by_class = {
            str(name): _counts(*(one[true == name] for one in right)) for name in np.unique(true)
        }
    floors = [] if policy == "off" else _floors(judged, cost, live, by_class)
    broken = [row for row in floors if row["broken"]]
    record = {
        "policy": policy,
        "margin": margin,
        "live_version": live.version if live else None,
        "comparison": comparison,
        "floors": floors,
        "verdict": verdict,
        "passed": verdict not in REFUSED[policy] and not broken,
    }
    return record | {"sentence": _sentence(record, live, len(labels), broken)}


def _sentence(
    record: Mapping[str, Any], live: Live | None, n: int, broken: Sequence[Mapping[str, Any]]
) -> str:
    if record["verdict"] == OFF:
        return (
            "The gate was off: the model was not compared with the live version, and no limit"
            " was checked."
        )
    limits = "".join(
        f"; a fixed limit is broken: {row['floor']} is {row['value']:.4g}, the limit is"
        f" {row['limit']:.4g}"
        for row in broken
    )
    said = f"{_comparison(record, live, n)}{limits}"
    if record["passed"]:
        return f"The gate let it through: {said}."
    return f"The gate refused it: {said}; --gate=off publishes it all the same."


def _comparison(record: Mapping[str, Any], live: Live | None, n: int) -> str:
    if live is None:
        return "there is no live version to compare it with"
    against = f"version {live.version}"
    if record["verdict"] == UNFAIR:
        return (
            f"{against}, which is live, was trained on or chosen by {live.trained_on:,} of the"
            f" {n:,} test pictures, so these cannot compare the two; keep test pictures apart"
            " with whisker-data split and extend"
        )
    compared = record["comparison"]
    if compared is None:
        return (
            f"undecided: {against}, which is live, does not record which pictures it was trained"
            " on; another tool, or an older one, made it"
        )
    verdict = {
        BETTER: f"better than {against}, which is live",
        NOT_WORSE: (
            f"not worse than {against}, which is live, by more than {100 * record['margin']:g}"
            " points"
        ),
        UNDECIDED: f"undecided whether it is worse than {against}, which is live",
        WORSE: f"worse than {against}, which is live",
    }[record["verdict"]]
    needed = compared["pictures_needed"]
    return (
        f"{verdict}:"
        f" of {n:,} test pictures, the new model alone is right on {compared['only_candidate']:,},"
        f" and {against} alone on {compared['only_live']:,}; the difference is"
        f" {100 * compared['difference']:+.1f} points (95 % sure: above"
        f" {100 * compared['low']:+.1f}; 95 % sure: below {100 * compared['high']:+.1f})"
        f"{f'; about {needed:,} test pictures would decide it' if needed else ''}"
    )
