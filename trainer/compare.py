"""Trains variants or backbones with several seeds on one split, each in a process of its own, and
lists them in one table and report.

  whisker-compare --data=my_pictures --variants=preprocessed,transfer
  whisker-compare --data=my_pictures --backbones=resnet50_v2,convnext_tiny
  whisker-compare --data=my_pictures --seeds=0,1,2,3,4 --run_dir=runs/compare

The same command resumes where it was stopped: runs that are done are not repeated.
"""

import json
import logging
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from absl import flags

from trainer.config import Config
from trainer.errors import ConfigError, RunError
from trainer.evaluation import over_seeds, paired_test
from trainer.evaluation.summary import read_comparison
from trainer.variants import VARIANTS
from whisker_ml import cli, files
from whisker_ml.errors import EXIT_STOPPED, EXIT_USAGE

# By its name: as the command, this module is __main__.
logger = logging.getLogger("trainer.compare")


# Flags of one run that a comparison cannot pass on, and what to do instead.
_NOT_OURS = {
    "variant": "a comparison trains several variants; use --variants",
    "seed": "a comparison takes several seeds; use --seeds",
    "model_dir": (
        "a comparison publishes nothing; train what you choose with whisker-train and publish that"
    ),
}

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


def main() -> None:
    """Entry point of `python -m trainer.compare` and `whisker-compare`."""
    cli.define_settings(Config)
    cli.define("variants", ",".join(VARIANTS), "variants to train, separated by commas")
    cli.define(
        "backbones", "", "backbones of transfer to compare instead of variants, separated by commas"
    )
    cli.define("seeds", "0,1,2", "seeds to train each of them with, separated by commas")
    folder = {"run_dir": "folder of the runs on this machine; empty: runs/compare"}
    for name, text in (_NOT_OURS | folder).items():
        flags.FLAGS[name].help = text
    cli.run(_main)


def _main(arguments: Sequence[str]) -> int | None:
    if len(arguments) > 1:
        raise ConfigError(f"{arguments[1]}: expected flags only, such as --data={arguments[1]}")
    values = flags.FLAGS
    for name, instead in _NOT_OURS.items():
        if values[name].present:
            raise ConfigError(f"--{name}={values[name].value}: {instead}")
    if files.is_address(values.run_dir):
        raise ConfigError(
            f"--run_dir={values.run_dir}: a comparison keeps its runs on this machine; give a local"
            " folder"
        )
    try:
        seeds = [int(seed) for seed in values.seeds.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"--seeds={values.seeds}: expected whole numbers separated by commas, such as 0,1,2"
        ) from error
    # Here, as a bare --help needs no extra.
    from trainer.data import sources

    sources.require(values.data, values.classes)
    folder = Path(values.run_dir or "runs/compare").expanduser()
    passed_on = [
        argument for argument in cli.given_flags(Config) if not argument.startswith("--run_dir=")
    ]
    if values.backbones:
        for name in ("variants", "backbone"):
            if values[name].present:
                raise ConfigError(
                    f"--{name} with --backbones: the backbones of transfer are compared; leave"
                    f" --{name} out"
                )
        if "," in values.backbones and values.base_weights not in ("imagenet", "none"):
            raise ConfigError(
                f"--base_weights={values.base_weights} with several --backbones: a file holds the"
                " weights of one backbone; give imagenet or none"
            )
    compared = "backbone" if values.backbones else "variant"
    fixed = {"variant": "transfer"} if values.backbones else {}
    # Seed by seed, so that a comparison that is stopped early has seen every model.
    runs = []
    for seed in dict.fromkeys(seeds):
        for model in dict.fromkeys(values[f"{compared}s"].value.split(",")):
            chosen: dict[str, Any] = {**fixed, compared: model, "seed": seed}
            chosen["run_dir"] = str(folder / f"{model}-seed{seed}")
            runs.append(Run(cli.settings(Config, **chosen), passed_on, compared))
    problems = compare(runs, folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    return EXIT_USAGE if problems else None


class StoppedError(RunError):
    """The comparison was asked to end (SIGTERM)."""

    exit_code = EXIT_STOPPED


@dataclass(frozen=True)
class Run:
    """One run of a comparison.

    Attributes:
        config: its settings; `run_dir` is its own folder.
        arguments: flags of `trainer.task` as they were given; those of the run's own are added.
        compared: the setting that is compared: ``variant`` or ``backbone``.
    """

    config: Config
    arguments: Sequence[str]
    compared: str = "variant"

    @property
    def model(self) -> str:
        """What is compared: a variant, or a backbone."""
        return str(getattr(self.config, self.compared))

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
        names = dict.fromkeys(("variant", self.compared, "seed", "run_dir"))
        added = [f"--{name}={getattr(self.config, name)}" for name in names]
        return [sys.executable, "-m", "trainer.task", *self.arguments, *added]

    def state(self) -> dict[str, Any]:
        """What its `state.json` holds; nothing where there is none."""
        return self.read("state.json") if (self.folder / "state.json").exists() else {}

    def read(self, name: str) -> dict[str, Any]:
        """Reads a JSON file of its folder."""
        remedy = f"remove the folder {self.folder} to do this run again"
        return files.read_json(self.folder / name, remedy, RunError)


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
    # It needs packages of the extra `train`: not for --help or a mistyped flag.
    from trainer.run_folder import locked_folder

    busy = (
        "another comparison, or a run that a killed comparison left behind, is at work here; wait"
        " for it to end, or stop it"
    )
    # A run that outlives us still holds the lock.
    with locked_folder(str(folder), busy) as lock:
        # All are looked at before any is started: a mistake is told now and not after hours.
        done = {run.name: _is_done(run) for run in runs}
        failures: dict[str, str] = {}
        for number, run in enumerate(runs, start=1):
            logger.info(
                f"run {number} of {len(runs)}: {run.name}{', done already' * done[run.name]}"
            )
            if not done[run.name]:
                if failure := _execute(run, lock):
                    failures[run.name] = failure
                done[run.name] = not failure
            rows = [_row(run, done[run.name], failures.get(run.name)) for run in runs]
            done_rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
            for row in rows:
                if row["state"] == "done":
                    done_rows[row["model"]].append(row)
            compared = _compared(done_rows) | {"runs": rows}
            files.write_json(folder / "compare.json", compared)
        if done_rows:
            # Here, as a run that is done has drawn with it: a machine without Matplotlib is told so
            # by the first run.
            from trainer.reporting import charts, style, write_comparison

            pictures = folder / "pictures"
            charts.compared_accuracies(done_rows, pictures / style.COMPARED_ACCURACIES)
            charts.compared_curves(done_rows, pictures / style.COMPARED_CURVES)
            charts.compared_costs(compared["variants"], pictures / style.COMPARED_COSTS)
            write_comparison(compared, pictures, folder / "report.html")
            logger.info(f"report {folder / 'report.html'}")
    for line in table(compared["variants"]):
        logger.info(line)
    failed = [f"{name} failed: {reason}" for name, reason in failures.items()]
    return failed + _split_problem(rows)


def table(variants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of a table with one row per model, aligned; no line where there is none."""
    if not variants:
        return []
    rows = [
        [
            "model",
            "runs",
            "test accuracy",
            "(min to max)",
            "n",
            "macro F1",
            "parameters",
            "ms",
            "MB",
            "seconds",
        ]
    ]
    for variant, found in variants.items():
        test = found["test"]
        rows.append(
            [
                variant,
                str(len(found["seeds"])),
                f"{test['mean']:.3f}",
                f"({test['min']:.3f} to {test['max']:.3f})",
                f"{found['n']:,}",
                f"{found['macro_f1']:.3f}",
                f"{found['parameters']['total']:,}",
                f"{found['latency_ms']:.1f}",
                f"{found['size_bytes'] / 1e6:.1f}",
                f"{found['seconds']:.0f}",
            ]
        )
    names, *numbers = zip(*rows, strict=True)
    width = max(map(len, names))
    columns = [[name.ljust(width) for name in names]]
    for column in numbers:
        width = max(map(len, column))
        columns.append([cell.rjust(width) for cell in column])
    return ["  ".join(row) for row in zip(*columns, strict=True)]


def _is_done(run: Run) -> bool:
    if run.state().get("state") != "done":
        return False
    before, now = run.read("config.json"), asdict(run.config)
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


def _execute(run: Run, lock: int) -> str:
    """Does a run to its end, and says why it failed; a SIGTERM meanwhile is passed on, and ends the
    comparison after it.
    """
    # A run that failed begins anew; one that was stopped resumes by itself. A folder without a
    # state is no run: it is not ours to remove.
    if run.state().get("state") == "failed" and not run.state().get("resumable"):
        shutil.rmtree(run.folder)
    stopped = False
    with subprocess.Popen(run.command, pass_fds=[lock]) as process:

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
    if not exit_code:
        return ""
    reason = run.state().get("reason")
    return f"exit code {exit_code}" + (f": {reason}" if reason else "")


def _row(run: Run, done: bool, failure: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": run.model,
        "variant": run.config.variant,
        "seed": run.config.seed,
        "run_dir": str(run.folder),
    }
    if not done:
        return row | ({"state": "failed", "reason": failure} if failure else {"state": "to do"})
    result = run.read("result.json")
    if missing := [name for name in _KEPT if name not in result]:
        raise RunError(
            f"{run.folder}: written by an earlier version of Whisker ({missing[0]} is missing in"
            " result.json); remove the folder to do this run again"
        )
    row |= {"state": "done", "split": result["data"]["digest"]}
    return row | {name: result[name] for name in _KEPT}


def _compared(done: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Sums the runs that are done up, by model, in the order in which they were asked for.

    Returns:
        `variants` {model: `seeds`, `n` test pictures, accuracies `test` and `validation` over
        seeds, `parameters`, and means of `macro_f1` and `balanced_accuracy` on the test pictures,
        of `seconds` in all, `images_per_second`, `size_bytes` and `latency_ms`}; `paired`, the
        tests of each model against the one before it; and `reading`, what all this says.
    """
    variants = {
        variant: {
            "seeds": [row["seed"] for row in rows],
            "n": rows[0]["test"]["n"],
            "test": over_seeds([row["test"]["accuracy"] for row in rows]),
            "validation": over_seeds([row["validation"]["accuracy"] for row in rows]),
            "macro_f1": mean(row["test"]["macro_f1"] for row in rows),
            "balanced_accuracy": mean(row["test"]["balanced_accuracy"] for row in rows),
            "parameters": rows[0]["parameters"],
            "seconds": mean(row["seconds"]["total"] for row in rows),
            "images_per_second": mean(row["images_per_second"] for row in rows),
            "size_bytes": mean(row["export"]["size_bytes"] for row in rows),
            "latency_ms": mean(row["export"]["latency_ms"] for row in rows),
        }
        for variant, rows in done.items()
    }
    predictions = {variant: [_predictions(row) for row in rows] for variant, rows in done.items()}
    paired = [
        {
            "first": first,
            "second": second,
            "test": paired_test(predictions[first], predictions[second]),
        }
        for first, second in pairwise(variants)
    ]
    reading = read_comparison(variants, paired)
    return {"variants": variants, "paired": paired, "reading": reading}


def _predictions(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    lines = (Path(row["run_dir"]) / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _split_problem(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    runs_of: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row["state"] == "done":
            runs_of[row["split"]].append(Path(row["run_dir"]).name)
    if len(runs_of) < 2:
        return []
    listed = "; ".join(f"{digest[:8]}: {', '.join(names)}" for digest, names in runs_of.items())
    return [
        f"the runs do not share one split, as the pictures changed between them ({listed}): their"
        " accuracies cannot be compared; remove the older runs and give the same command again"
    ]


if __name__ == "__main__":
    main()
