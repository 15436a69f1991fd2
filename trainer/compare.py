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
from functools import reduce
from itertools import pairwise, product
from operator import getitem
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

# What compare.json has of a model as means over its runs: where a run has it.
_MEANS = {
    "macro_f1": ("test", "macro_f1"),
    "balanced_accuracy": ("test", "balanced_accuracy"),
    "seconds": ("seconds", "total"),
    "images_per_second": ("images_per_second",),
    "size_bytes": ("export", "size_bytes"),
    "latency_ms": ("export", "latency_ms"),
}

# Columns of the table, and how a model fills them.
_COLUMNS = {
    "model": "{model}",
    "runs": "{runs}",
    "test accuracy": "{test[mean]:.3f}",
    "(min to max)": "({test[min]:.3f} to {test[max]:.3f})",
    "n": "{n:,}",
    "macro F1": "{macro_f1:.3f}",
    "parameters": "{parameters[total]:,}",
    "ms": "{latency_ms:.1f}",
    "MB": "{megabytes:.1f}",
    "seconds": "{seconds:.0f}",
}


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
    refused = dict(_NOT_OURS)
    if files.is_address(values.run_dir):
        refused["run_dir"] = "a comparison keeps its runs on this machine; give a local folder"
    if values.backbones:
        refused["variants"] = refused["backbone"] = (
            "with --backbones, the backbones of transfer are compared; leave this flag out"
        )
        if "," in values.backbones and values.base_weights not in ("imagenet", "none"):
            refused["base_weights"] = (
                "a file holds the weights of one backbone, and --backbones names several; give"
                " imagenet or none"
            )
    for name, instead in refused.items():
        if values[name].present:
            raise ConfigError(f"--{name}={values[name].value}: {instead}")
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
    compared = "backbone" if values.backbones else "variant"
    fixed: dict[str, Any] = {"variant": "transfer"} if values.backbones else {}
    models = values[f"{compared}s"].value.split(",")
    runs = []
    # Seed by seed, so that a comparison that is stopped early has seen every model.
    for seed, model in dict.fromkeys(product(seeds, models)):
        run_dir = str(folder / f"{model}-seed{seed}")
        chosen = fixed | {compared: model, "seed": seed, "run_dir": run_dir}
        runs.append(Run(cli.settings(Config, **chosen), cli.given_flags(Config), compared))
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
        arguments: flags of `trainer.task` as they were given; those of the run's own come after
            them, and win.
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
        rows = [_row(run) for run in runs]
        for number, run in enumerate(runs):
            already = rows[number]["state"] == "done"
            logger.info(
                f"run {number + 1} of {len(runs)}: {run.folder.name}{', done already' * already}"
            )
            if not already:
                rows[number] = _row(run, _execute(run, lock))
            done = _grouped(rows, "model")
            compared = _compared(done) | {"runs": rows}
            files.write_json(folder / "compare.json", compared)
        if done:
            # Here, as a run that is done has drawn with it: a machine without Matplotlib is told so
            # by the first run.
            from trainer.reporting import charts, write_comparison

            pictures = folder / "pictures"
            charts.compared_accuracies(done, pictures / "compared_accuracies.png")
            charts.compared_curves(done, pictures / "compared_curves.png")
            charts.compared_costs(compared["variants"], pictures / "compared_costs.png")
            write_comparison(compared, pictures, folder / "report.html")
            logger.info(f"report {folder / 'report.html'}")
    for line in table(compared["variants"]):
        logger.info(line)
    problems = [
        f"{Path(row['run_dir']).name} failed: {row['reason']}"
        for row in rows
        if row["state"] == "failed"
    ]
    splits = _grouped(rows, "split")
    if len(splits) > 1:
        listed = "; ".join(
            f"{digest[:8]}: {', '.join(Path(row['run_dir']).name for row in same)}"
            for digest, same in splits.items()
        )
        problems.append(
            f"the runs do not share one split, as the pictures changed between them ({listed}):"
            " their accuracies cannot be compared; remove the older runs and give the same command"
            " again"
        )
    return problems


def _grouped(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of runs that are done, by what they have under a name."""
    grouped = defaultdict(list)
    for row in rows:
        if row["state"] == "done":
            grouped[row[name]].append(row)
    return grouped


def table(variants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of a table with one row per model, aligned; no line where there is none."""
    if not variants:
        return []
    rows = [list(_COLUMNS)]
    for model, found in variants.items():
        more = {"model": model, "runs": len(found["seeds"]), "megabytes": found["size_bytes"] / 1e6}
        rows.append([cell.format(**found, **more) for cell in _COLUMNS.values()])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])])
        for name, *numbers in rows
    ]


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


def _row(run: Run, failure: str = "") -> dict[str, Any]:
    """What compare.json says of a run; why it failed, where it was done and did."""
    row: dict[str, Any] = {
        "model": run.model,
        "variant": run.config.variant,
        "seed": run.config.seed,
        "run_dir": str(run.folder),
    }
    if failure:
        return row | {"state": "failed", "reason": failure}
    if not _is_done(run):
        return row | {"state": "to do"}
    result = run.read("result.json")
    if missing := [name for name in _KEPT if name not in result]:
        raise RunError(
            f"{run.folder}: written by an earlier version of Whisker ({missing[0]} is missing in"
            " result.json); remove the folder to do this run again"
        )
    row |= {"state": "done", "split": result["data"]["digest"]}
    return row | {name: result[name] for name in _KEPT}


def _compared(done: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Sums the runs that are done up, by model, in the order in which they were asked for.

    Returns:
        `variants` {model: `seeds`, `n` test pictures, accuracies `test` and `validation` over
        seeds, `parameters`, and means of `macro_f1` and `balanced_accuracy` on the test pictures,
        of `seconds` in all, `images_per_second`, `size_bytes` and `latency_ms`}; `paired`, the
        tests of each model against the one before it; and `reading`, what all this says.
    """
    variants = {}
    for model, rows in done.items():
        found = {
            "seeds": [row["seed"] for row in rows],
            "n": rows[0]["test"]["n"],
            "parameters": rows[0]["parameters"],
        }
        for split in ("test", "validation"):
            found[split] = over_seeds([row[split]["accuracy"] for row in rows])
        for name, keys in _MEANS.items():
            found[name] = mean(reduce(getitem, keys, row) for row in rows)
        variants[model] = found
    predictions = {model: [_predictions(row) for row in rows] for model, rows in done.items()}
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
    lines = Path(row["run_dir"], "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
