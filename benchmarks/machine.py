"""What a measurement ran on, and the file that it is kept in."""

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """Processor, how many of them this process sees, and the system."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processors": os.cpu_count(),
        "processor": names[0] if names else platform.processor(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def environment(run: Path) -> dict[str, str]:
    """Versions, devices and commit of a run folder; what says more of one machine than its kind is
    left out.
    """
    recorded = json.loads((run / "environment.json").read_text())
    return {
        name: recorded[name]
        for name in ("python", "tensorflow", "keras", "numpy", "devices", "commit")
    }


def write(output: Path, what: str, command: str, **found: Any) -> dict[str, Any]:
    """Writes what was measured as JSON, with the date and the machine.

    Args:
        output: the file.
        what: was measured, and how to read it.
        command: that measures it again.
        **found: the rest, in this order.

    Returns:
        What the file holds.
    """
    measured = {
        "what": what,
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": describe(),
        **found,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    return measured
