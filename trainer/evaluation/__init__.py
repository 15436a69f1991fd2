"""Evaluation: numbers from predictions; here, how far each may be from the truth."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import fmean, mean, stdev
from typing import Any

# 97.5 % quantile of the normal distribution: two-sided 95 %.
_Z_95 = 1.959964
# The same of Student's t with 1 to 9 degrees of freedom (Student 1908; any statistics book's
# table).
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
# 95 % quantile of the normal distribution: one-sided 95 % on either side.
Z_ONE_SIDED_95 = 1.644854
# Halvings of an interval of width 2: what is left of it is below the rounding of a float.
_HALVINGS = 55


def wilson_interval(correct: int, total: int, z: float = _Z_95) -> tuple[float, float]:
    """Interval of a share (Wilson 1927, score interval), which stays within 0…1 and is right near
    the ends.

    Args:
        correct: how many were right.
        total: of how many, at least 1.
        z: quantile of the normal distribution; as it stands, two-sided 95 %.

    Returns:
        Lower and upper end, 0…1.
    """
    share = correct / total
    spread = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    centre = share + z**2 / (2 * total)
    scale = 1 + z**2 / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def paired_interval(
    only_first: int, only_second: int, total: int, z: float = Z_ONE_SIDED_95
) -> tuple[float, float]:
    """Interval of the difference of two shares on the same pictures (Tango 1998, score interval).

    It holds what it promises where few pictures differ, or none; intervals from the standard error
    do not.

    Args:
        only_first: pictures that the first alone is right about.
        only_second: pictures that the second alone is right about.
        total: pictures, at least 1.
        z: quantile of the normal distribution; as it stands, one-sided 95 % on either side.

    Returns:
        Lower and upper end of second minus first, -1…1.
    """
    lower = -_highest(only_first, only_second, total, z)
    return lower, _highest(only_second, only_first, total, z)


def _highest(gained: int, lost: int, total: int, z: float) -> float:
    """The highest difference of shares, gained minus lost, that the score test does not reject."""
    low, high = (gained - lost) / total, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # The likeliest share of the lost, were the difference `middle`.
        b = (2 * total - gained + lost) * middle - gained - lost
        c = -lost * middle * (1 - middle)
        share = (math.sqrt(b**2 - 8 * total * c) - b) / (4 * total)
        variance = total * (2 * share + middle * (1 - middle))
        if total * middle - (gained - lost) > z * math.sqrt(max(variance, 0.0)):
            high = middle
        else:
            low = middle
    return low


def over_seeds(accuracies: Sequence[float]) -> dict[str, Any]:
    """Sums up what several seeds reached.

    Args:
        accuracies: one of each run, 0…1; at least one.

    Returns:
        `mean`, `min`, `max`, and `interval_95` of the mean over seeds by Student's t, cut to 0…1:
        None for one run, and a little wide beyond ten runs.
    """
    middle, interval = mean(accuracies), None
    if len(accuracies) > 1:
        quantile = _T_95[min(len(accuracies) - 1, len(_T_95)) - 1]
        spread = quantile * stdev(accuracies) / math.sqrt(len(accuracies))
        interval = [max(0.0, middle - spread), min(1.0, middle + spread)]
    return {"mean": middle, "min": min(accuracies), "max": max(accuracies), "interval_95": interval}


# Two models on the same pictures: a test that looks only where they differ.

# Rows of `predictions.jsonl` of the runs of one model, a run per seed.
Runs = Sequence[Sequence[Mapping[str, Any]]]


def paired_test(first: Runs, second: Runs) -> dict[str, Any] | None:
    """Compares how often each test picture is right: McNemar's exact test (1947), for several seeds
    a sign test.

    Pictures that both models get right in the same share of their runs tell nothing. Of the others,
    were the models equally good, half would favour either.

    Args:
        first: at least one run of one model; rows with `sha256`, `split`, `label`, `predicted`.
        second: at least one run of the other.

    Returns:
        `runs` of each, `n` pictures, `only_first` and `only_second` (pictures that favour one),
        `difference` of accuracies (second minus first, -1…1) and the two-sided `p_value`; None
        where the two were not tested on the same pictures.
    """
    answers: dict[str, tuple[list[bool], list[bool]]] = defaultdict(lambda: ([], []))
    for model, runs in enumerate((first, second)):
        for row in chain(*runs):
            if row["split"] == "test":
                answers[row["sha256"]][model].append(row["label"] == row["predicted"])
    count = [len(first), len(second)]
    if not answers or any([len(one), len(other)] != count for one, other in answers.values()):
        return None
    differences = [sum(other) / count[1] - sum(one) / count[0] for one, other in answers.values()]
    only_first = sum(difference < 0 for difference in differences)
    only_second = sum(difference > 0 for difference in differences)
    return {
        "runs": count,
        "n": len(differences),
        "only_first": only_first,
        "only_second": only_second,
        "difference": fmean(differences),
        "p_value": sign_test(only_first, only_second),
    }


def sign_test(first: int, second: int) -> float:
    """Probability that a fair coin, thrown `first + second` times, falls at least so unevenly."""
    throws = first + second
    term = tail = 1
    for count in range(min(first, second)):
        term = term * (throws - count) // (count + 1)
        tail += term
    return min(1.0, 2 * tail / 2**throws)
