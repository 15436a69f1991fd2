"""Several runs beside one another: each in a process of its own; what they found in one file, table
and report.
"""

import json
import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from trainer.config import Config
from trainer.errors import RunError
from trainer.evaluation.intervals import over_seeds, paired_test
from trainer.evaluation.summary import read_comparison
from whisker_ml import files

logger = logging.getLogger(__name__)


# What a run keeps in compare.json of its result.json.
_KEPT = (
    "recipe",
    "epochs",
    "parameters",
    "validation",
    "test",
    "images_per_second",
    "seconds",
    "history",
    "export",
)


class StoppedError(RunError):
    """The comparison was asked to end (SIGTERM)."""

    exit_code = 128 + signal.SIGTERM


@dataclass(frozen=True)
class Run:
    """One run of a comparison.

    Attributes:
        config: its settings; `run_dir` is its own folder.
        arguments: flags of `trainer.task` as they were given; variant, seed and run_dir are added.
    """

    config: Config
    arguments: Sequence[str]

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return Path(self.config.run_dir)

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.name

    @property
    def command(self) -> list[str]:
        """What starts it."""
        own = [f"--{name}={getattr(self.config, name)}" for name in ("variant", "seed", "run_dir")]
        return [sys.executable, "-m", "trainer.task", *self.arguments, *own]


def compare(runs: Sequence[Run], folder: Path) -> list[str]:
    """Does the runs that are not done, one after the other, and writes ``compare.json`` after each.

    Args:
        runs: what to do.
        folder: gets ``compare.json``, and in the end ``report.html`` and its pictures.

    Returns:
        What makes the comparison incomplete or unsound, a line each: runs that failed, and more
            than one split.

    Raises:
        RunError: a run is done with other settings, or another comparison is at work in this
            folder.
        StoppedError: SIGTERM came; the run that was at work has ended.
    """
    with _alone_in(folder) as lock:
        # All are looked at before any is started: a mistake is told now and not after hours.
        done = {run.name: _is_done(run) for run in runs}
        failures: dict[str, str] = {}
        for number, run in enumerate(runs, start=1):
            logger.info(
                f"run {number} of {len(runs)}: {run.name}{', done already' * done[run.name]}"
            )
            if not done[run.name]:
                _make_room(run)
                exit_code = _execute(run.command, lock)
                if exit_code:
                    failures[run.name] = f"exit code {exit_code}{_reason(run)}"
                else:
                    done[run.name] = True
            rows = [_row(run, done[run.name], failures.get(run.name)) for run in runs]
            compared = _compared(rows)
            files.write_json(folder / "compare.json", compared)
        if compared["variants"]:
            _report(compared, folder)
            logger.info(f"report {folder / 'report.html'}")
    for line in table(compared["variants"]):
        logger.info(line)
    failed = [f"{name} failed: {reason}" for name, reason in failures.items()]
    return failed + _split_problem(rows)


def table(variants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of a table with one row per variant, aligned; no line where there is no variant."""
    if not variants:
        return []
    cells = [["variant", "runs", "test accuracy", "(min to max)", "n", "parameters", "seconds"]]
    for variant, found in variants.items():
        test = found["test"]
        cells.append(
            [
                variant,
                str(len(found["seeds"])),
                f"{test['mean']:.3f}",
                f"({test['min']:.3f} to {test['max']:.3f})",
                f"{found['n']:,}",
                f"{found['parameters']['total']:,}",
                f"{found['seconds']:.0f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in cells
    ]


@contextmanager
def _alone_in(folder: Path) -> Iterator[int]:
    """Holds the folder's lock, whose descriptor the runs inherit: a run that outlives us still
    holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.locked(folder / ".lock") as lock:
            yield lock.fileno()
    except BlockingIOError as error:
        raise RunError(
            f"--run_dir={folder}: another comparison, or a run of one that was killed, is at work"
            " here; wait for it to end or stop it"
        ) from error
    except OSError as error:
        raise RunError(
            f"--run_dir={folder}: cannot be written ({error.strerror}); give a folder that this"
            " user may write to"
        ) from error


def _is_done(run: Run) -> bool:
    if _state(run).get("state") != "done":
        return False
    before, now = _read(run.folder / "config.json"), asdict(run.config)
    different = [
        f"--{name}={before.get(name)}, now {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if name != "run_dir" and before.get(name) != now.get(name)
    ]
    if different:
        raise RunError(
            f"{run.folder}: done with other settings ({'; '.join(different)}); give another"
            " --run_dir, or remove this folder"
        )
    return True


def _make_room(run: Run) -> None:
    # A run that failed begins anew; one that was stopped resumes by itself. A folder without a
    # state is no run: it is not ours to remove.
    if _state(run).get("state") == "failed":
        shutil.rmtree(run.folder)


def _execute(command: Sequence[str], lock: int) -> int:
    """Runs a command to its end; a SIGTERM meanwhile is passed on, and ends the comparison after
    it.
    """
    stopped = False
    with subprocess.Popen(command, pass_fds=[lock]) as process:

        def stop(*_: object) -> None:
            nonlocal stopped
            stopped = True
            process.terminate()

        previous = signal.signal(signal.SIGTERM, stop)
        try:
            exit_code = process.wait()
        finally:
            signal.signal(signal.SIGTERM, previous)
    if stopped:
        raise StoppedError("stopped; the same command resumes from here")
    return exit_code


def _reason(run: Run) -> str:
    reason = _state(run).get("reason")
    return f": {reason}" if reason else ""


def _state(run: Run) -> dict[str, Any]:
    state = run.folder / "state.json"
    return _read(state) if state.exists() else {}


def _read(path: Path) -> dict[str, Any]:
    return files.read_json(path, f"remove the folder {path.parent} to do this run again", RunError)


def _row(run: Run, done: bool, failure: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "variant": run.config.variant,
        "seed": run.config.seed,
        "run_dir": str(run.folder),
    }
    if not done:
        return row | ({"state": "failed", "reason": failure} if failure else {"state": "to do"})
    result = _read(run.folder / "result.json")
    if missing := [name for name in _KEPT if name not in result]:
        raise RunError(
            f"{run.folder}: written by an earlier version of Whisker ({missing[0]} is missing in"
            " result.json); remove the folder to do this run again"
        )
    return (
        row
        | {"state": "done", "split": result["data"]["digest"]}
        | {name: result[name] for name in _KEPT}
    )


def _compared(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums the runs that are done up, by variant, in the order in which they were asked for.

    Returns:
        `variants` {variant: `seeds`, `n` test pictures, accuracies `test` and `validation` over
        seeds, `parameters`, and means of `seconds` in all, `images_per_second`, `size_bytes` and
        `latency_ms`}; `paired`, the tests of each variant against the one before it; `reading`,
        what all this says; and the rows as `runs`.
    """
    done = _done_by_variant(rows)
    variants = {
        variant: {
            "seeds": [row["seed"] for row in own],
            "n": own[0]["test"]["n"],
            "test": over_seeds([row["test"]["accuracy"] for row in own]),
            "validation": over_seeds([row["validation"]["accuracy"] for row in own]),
            "parameters": own[0]["parameters"],
            "seconds": mean(row["seconds"]["total"] for row in own),
            "images_per_second": mean(row["images_per_second"] for row in own),
            "size_bytes": mean(row["export"]["size_bytes"] for row in own),
            "latency_ms": mean(row["export"]["latency_ms"] for row in own),
        }
        for variant, own in done.items()
    }
    predictions = {variant: [_predictions(row) for row in own] for variant, own in done.items()}
    paired = [
        {
            "first": first,
            "second": second,
            "test": paired_test(predictions[first], predictions[second]),
        }
        for first, second in pairwise(variants)
    ]
    return {
        "variants": variants,
        "paired": paired,
        "reading": read_comparison(variants, paired),
        "runs": list(rows),
    }


def _done_by_variant(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    done: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["state"] == "done":
            done.setdefault(row["variant"], []).append(row)
    return done


def _predictions(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    lines = (Path(row["run_dir"]) / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _report(compared: Mapping[str, Any], folder: Path) -> None:
    # Here, as a run that is done has drawn with it: a machine without Matplotlib is told so by the
    # first run.
    from trainer.reporting import charts, style
    from trainer.reporting.report import write_comparison

    done, pictures = _done_by_variant(compared["runs"]), folder / "pictures"
    charts.compared_accuracies(done, pictures / style.COMPARED_ACCURACIES)
    charts.compared_curves(done, pictures / style.COMPARED_CURVES)
    write_comparison(compared, pictures, folder / "report.html")


def _split_problem(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    runs_of: dict[str, list[str]] = {}
    for row in rows:
        if row["state"] == "done":
            runs_of.setdefault(row["split"], []).append(Path(row["run_dir"]).name)
    if len(runs_of) < 2:
        return []
    listed = "; ".join(f"{digest[:8]}: {', '.join(names)}" for digest, names in runs_of.items())
    return [
        f"the runs do not share one split, as the pictures changed between them ({listed}): their"
        " accuracies cannot be compared; remove the older runs and give the same command again"
    ]
