"""How far a number may be from the truth, given how much it rests on."""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

# 97.5 % quantile of the normal distribution: two-sided 95 %.
_Z_95 = 1.959964
# The same of Student's t with 1 to 9 degrees of freedom (Student 1908; any statistics book's table).
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927, score interval), which stays within 0…1 and is right near the ends.

    Args:
        correct: how many were right.
        total: of how many, at least 1.

    Returns:
        Lower and upper end, 0…1.
    """
    share = correct / total
    spread = _Z_95 * math.sqrt(share * (1 - share) / total + _Z_95**2 / (4 * total**2))
    centre = share + _Z_95**2 / (2 * total)
    scale = 1 + _Z_95**2 / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def over_seeds(accuracies: Sequence[float]) -> dict[str, Any]:
    """Sums up what several seeds reached.

    Args:
        accuracies: one of each run, 0…1; at least one.

    Returns:
        `mean`, `min`, `max`, and `interval_95` of the mean over seeds by Student's t, cut to 0…1: None for one run,
        and a little wide beyond ten runs.
    """
    middle, interval = mean(accuracies), None
    if len(accuracies) > 1:
        quantile = _T_95[min(len(accuracies) - 1, len(_T_95)) - 1]
        spread = quantile * stdev(accuracies) / math.sqrt(len(accuracies))
        interval = [max(0.0, middle - spread), min(1.0, middle + spread)]
    return {"mean": middle, "min": min(accuracies), "max": max(accuracies), "interval_95": interval}
