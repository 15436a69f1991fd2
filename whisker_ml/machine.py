"""What a process finds around it: how many processors it may use, which addresses are this very
machine's, and whether a proxy lies on the way to the others.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

_LOOPBACK = re.compile(
    r"((dns:///|ipv4:)?(localhost|127(\.\d+){3})|(ipv6:)?\[::1\])(:\d+)?|unix:.*", re.IGNORECASE
)
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
# What gRPC looks at, in its order (grpc/grpc, http_proxy_mapper.cc).
_NO_PROXY = ("no_proxy", "no_grpc_proxy")
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")


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


def is_this_machine(addresses: Sequence[str]) -> bool:
    """Tells whether all addresses, ``host:port`` or gRPC names, are of the loopback interface."""
    return all(_LOOPBACK.fullmatch(part) for part in ",".join(addresses).split(","))


def ask_loopback_directly() -> None:
    """Lets this process and those that it starts ask this machine without a proxy; for entry
    points.

    A proxy cannot know what listens on our loopback interface. Libraries read these variables, for
    HTTP and for gRPC, each in its own way; gRPC reads the names in small letters alone.
    """
    for name in _NO_PROXY:
        given = os.environ.get(name, os.environ.get(name.upper(), ""))
        if given or name == _NO_PROXY[0]:
            # Once, however many processes start one another.
            names = dict.fromkeys([*filter(None, given.split(",")), *_LOOPBACK_NAMES])
            os.environ[name] = ",".join(names)


def proxy_variable(address: str) -> str:
    """Names the environment variable by which gRPC goes to an address through a proxy.

    Args:
        address: ``host:port``.

    Returns:
        Nothing where there is no proxy on the way.
    """
    if is_this_machine([address]):
        return ""
    without = os.environ.get(_NO_PROXY[1], os.environ.get(_NO_PROXY[0], ""))
    host = address.rpartition("/")[2].rpartition(":")[0]
    if any(host.endswith(end.strip()) for end in without.split(",") if end.strip()):
        return ""
    return next((name for name in _PROXY_VARIABLES if os.environ.get(name)), "")
