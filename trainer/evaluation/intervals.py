"""How far a number may be from the truth, given how much it rests on."""

import math
from collections.abc import Sequence
from statistics import mean, stdev
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
