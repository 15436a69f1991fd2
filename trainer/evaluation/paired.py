"""Two models on the same pictures: a test that looks only where they differ."""

from collections.abc import Mapping, Sequence
from typing import Any

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
    shares = [_right(first), _right(second)]
    if not shares[0] or shares[0].keys() != shares[1].keys():
        return None
    differences = [shares[1][picture] - shares[0][picture] for picture in shares[0]]
    only_first, only_second = (
        sum(each < 0 for each in differences),
        sum(each > 0 for each in differences),
    )
    return {
        "runs": [len(first), len(second)],
        "n": len(differences),
        "only_first": only_first,
        "only_second": only_second,
        "difference": sum(differences) / len(differences),
        "p_value": sign_test(only_first, only_second),
    }


def sign_test(one: int, other: int) -> float:
    """Probability that a fair coin, thrown `one + other` times, falls at least so unevenly."""
    throws = one + other
    term = tail = 1
    for count in range(min(one, other)):
        term = term * (throws - count) // (count + 1)
        tail += term
    return min(1.0, 2 * tail / 2**throws)


def _right(runs: Runs) -> dict[str, float]:
    """Share of the runs that are right about each test picture, by hash; empty where they differ in
    pictures.
    """
    by_run = [
        {row["sha256"]: row["label"] == row["predicted"] for row in run if row["split"] == "test"}
        for run in runs
    ]
    if any(each.keys() != by_run[0].keys() for each in by_run):
        return {}
    return {picture: sum(each[picture] for each in by_run) / len(by_run) for picture in by_run[0]}
