"""What every benchmark shares: turns, processes, spreads, and the file that it writes."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from absl import flags

from trainer.run_folder import commit
from whisker_ml import cli
from whisker_ml.errors import WhiskerError
from whisker_ml.files import write_json

RESULTS = Path(__file__).parent / "results"
_ENVIRONMENT = ("python", "tensorflow", "keras", "numpy", "devices", "kernels", "commit")


def define_output(name: str) -> None:
    """Defines --output, by default the file of that name in `RESULTS`."""
    cli.define("output", str(RESULTS / f"{name}.json"), "JSON file to write")


def in_turn(names: Iterable[str], repeats: int) -> Iterator[tuple[int, str]]:
    """Gives every repeat with every name, each name first as often as last: a machine that slows
    down hits all.
    """
    forwards = list(names)
    for repeat in range(repeats):
        for name in forwards if repeat % 2 == 0 else reversed(forwards):
            yield repeat, name


def run_python(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Runs Python in a process of its own; gives what it prints.

    Raises:
        WhiskerError: it failed; the text ends with the last line of its standard error.
    """
    ended = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        last = (ended.stderr.splitlines() or [""])[-1]
        raise WhiskerError(f"{shlex.join(arguments)}: exit code {ended.returncode}: {last}")
    return ended.stdout


def spread(values: Sequence[float]) -> dict[str, float]:
    """Gives median, least and most."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def environment(run: Path) -> dict[str, str]:
    """Versions, devices and commit of a run folder; what says more of one machine than its kind is
    left out.
    """
    recorded = json.loads((run / "environment.json").read_text())
    return {name: recorded[name] for name in _ENVIRONMENT}


def record(what: str, settings: Sequence[str] = (), show: Sequence[str] = (), **found: Any) -> None:
    """Writes what was measured to --output, with the command, the date and the machine.

    Args:
        what: was measured, and how to read it.
        settings: names of the flags that decide what is measured; no paths of this machine.
        show: parts that are printed too.
        **found: the rest, in this order.
    """
    given = []
    for name in settings:
        value = flags.FLAGS[name].value
        given.append(f"--{name}={','.join(value) if isinstance(value, list) else value}")
    spec = sys.modules["__main__"].__spec__
    module = spec.name if spec else "?"
    measured = {
        "what": what,
        "command": " ".join(["python -m", module, *given]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": _machine(),
        "commit": commit(),
        **found,
    }
    output = Path(flags.FLAGS.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, measured)
    if show:
        print(json.dumps({name: measured[name] for name in show}, indent=1))


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    features = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "processors": os.cpu_count(),
        "processor": names[0] if names else platform.processor(),
        "features": [name for name in ("avx2", "avx512f", "amx_bf16") if name in features],
        "system": f"{platform.system()} {platform.machine()}",
    }
