"""How long a job may run: what `--max_hours` and `--max_cost` come to. No price is known here; the
user gives it.
"""

import math
from dataclasses import dataclass

from trainer.errors import ConfigError


@dataclass(frozen=True)
class Budget:
    """A job's time limit and price.

    Attributes:
        timeout_s: seconds after which the job is ended, whoever watches.
        price_per_hour: of one worker, in the user's currency; 0: unknown.
        workers: machines that are paid for at the same time.
        reason: a sentence that says where the limit comes from.
    """

    timeout_s: int
    price_per_hour: float
    workers: int
    reason: str

    def cost(self, seconds: float) -> float:
        """What so many seconds cost; 0 where the price is unknown."""
        return seconds / 3600 * self.price_per_hour * self.workers


def make(*, max_hours: float, price_per_hour: float, max_cost: float, workers: int) -> Budget:
    """Takes the smaller of the two limits.

    Args:
        max_hours: hours after which the job is ended.
        price_per_hour: of one worker; 0: unknown.
        max_cost: of the whole job, in the same currency; 0: no such limit.
        workers: machines.

    Raises:
        ConfigError: a number makes no sense, or a cost is limited whose price is unknown.
    """
    for name, number in (
        ("max_hours", max_hours),
        ("price_per_hour", price_per_hour),
        ("max_cost", max_cost),
    ):
        if not math.isfinite(number) or number < 0:
            raise ConfigError(f"--{name}={number:g}: expected a number of at least 0")
    if workers < 1:
        raise ConfigError(f"--workers={workers}: expected at least 1")
    if max_cost and not price_per_hour:
        raise ConfigError(
            f"--max_cost={max_cost:g} without --price_per_hour: give what one worker costs in an"
            " hour (cloud.google.com/vertex-ai/pricing); Whisker knows no prices"
        )
    hours, reason = max_hours, f"{max_hours:g} h, by --max_hours"
    hourly = price_per_hour * workers
    if max_cost and max_cost / hourly < max_hours:
        hours = max_cost / hourly
        reason = (
            f"{hours:.2f} h, by --max_cost: {max_cost:g} / ({workers} worker{'s' * (workers > 1)} ×"
            f" {price_per_hour:g} an hour)"
        )
    elif hourly:
        reason += f", {hours * hourly:.2f} at most for {workers} worker{'s' * (workers > 1)}"
    timeout_s = math.floor(hours * 3600)
    if timeout_s < 60:
        raise ConfigError(
            f"the job would be ended after {timeout_s} s ({reason}): allow at least a minute"
        )
    return Budget(timeout_s, price_per_hour, workers, reason)
