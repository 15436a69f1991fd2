"""How often the gate lets a worse model through, and refuses one that is as good: 1,000 simulated
pairs of models each.

python -m benchmarks.bench_gate
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.measurement import define_output, record
from trainer.config import Config
from trainer.evaluation import gate
from whisker_ml import cli

PICTURES = (200, 1000, 5000)
WORSE_BY_POINTS = (0, 1, 2, 3)
_PAIRS = 1000

# Variant, its test accuracy, and the share of the 1,000 test pictures that one of two seeds alone
# is right about (mean over the pairs of three seeds): of the runs that are in results/compare.json.
_MODELS = (("transfer", 0.967, 0.0207), ("preprocessed", 0.744, 0.1873))


def main() -> None:
    """Entry point of `python -m benchmarks.bench_gate`."""
    define_output("gate")
    cli.run(_measure)


def _measure(_: Sequence[str]) -> None:
    models = []
    for variant, accuracy, differ in _MODELS:
        print(f"{variant}: accuracy {accuracy}, differ in {differ:.1%}")
        rows = []
        for row in simulate(differ):
            print(row)
            rows.append(row)
        models.append({"variant": variant, "accuracy": accuracy, "differ": differ, "rows": rows})
    record(
        "share of simulated pairs that --gate=not_worse and --gate=strict refuse, by test pictures"
        " and by how many points fewer of all pictures the candidate is right on; it loses these"
        " pictures and no other, beyond those that two seeds of the same recipe differ in",
        pairs=_PAIRS,
        margin_points=Config.gate_margin,
        models=models,
    )


def simulate(differ: float) -> Iterator[dict[str, Any]]:
    """Simulates pairs of models.

    Args:
        differ: share of the test pictures that one of two models alone is right about, where they
            are equally good.

    Yields:
        For each number of pictures and each loss, counts of `verdicts` and shares of `refused` by
        --gate.
    """
    generator = np.random.default_rng(0)
    for n in PICTURES:
        for points in WORSE_BY_POINTS:
            shares = [differ / 2 + points / 100, differ / 2]
            draws = generator.multinomial(n, [*shares, 1 - sum(shares)], _PAIRS)
            verdicts = Counter(_verdict(int(lost), int(gained), n) for lost, gained, _ in draws)
            refused = {
                policy: sum(verdicts[verdict] for verdict in gate.REFUSED[policy]) / _PAIRS
                for policy in ("not_worse", "strict")
            }
            yield {
                "n": n,
                "worse_by_points": points,
                "verdicts": dict(verdicts),
                "refused": refused,
            }


def _verdict(lost: int, gained: int, n: int) -> str:
    places = np.arange(n)
    only_live, only_candidate = places < lost, (lost <= places) & (places < lost + gained)
    return gate.compare(~only_candidate, ~only_live, Config.gate_margin / 100)["verdict"]


if __name__ == "__main__":
    main()
