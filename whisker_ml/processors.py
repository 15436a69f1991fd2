"""How many processors this process may use: its affinity, and the limit of its container."""

import os
from pathlib import Path


def available_processors(control_groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors that this process may use: at least 1.

    Args:
        control_groups: where Linux tells of limits: a container may have less than the machine.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(count or 1, _limit(control_groups) or count or 1))


def _limit(control_groups: Path) -> int | None:
    """The container's share of processor time, rounded up to whole processors."""
    try:  # version 2
        quota, period = (control_groups / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:  # version 1
            quota = (control_groups / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (control_groups / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit():  # "max", or -1: there is none
        return None
    return -(-int(quota) // int(period))
