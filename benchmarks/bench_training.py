"""Training with the stock Keras recipe and with Whisker in turn, on the same pictures: speed, whole time, accuracy.

  python -m benchmarks.bench_training --data=cats_and_dogs_filtered --weights=mobilenet_v2_..._160_no_top.h5

Each measurement is a process of its own, `benchmarks.stock_recipe` or `trainer.task`, with an empty home folder, so
that no cache of an earlier one helps. One that is in --work_dir already is not done again.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from absl import flags

from benchmarks import machine
from serving import command_line
from serving.errors import WhiskerError

RESULTS = Path(__file__).parent / "results" / "training.json"
SIDES = ("whisker", "stock")

# What a row of the results leaves out: said once for all, or a path of the machine.
_UNTOLD = ("environment", "data", "weights")


def main() -> None:
    """Entry point."""
    here = sys.argv[0]
    flags.DEFINE_string("data", None, "folder of the real pictures", required=True, module_name=here)
    flags.DEFINE_string("weights", "none", "file of MobileNetV2 weights, or none", module_name=here)
    flags.DEFINE_list("variants", "plain,augmented,preprocessed,transfer", "what to measure", module_name=here)
    flags.DEFINE_integer("repeats", 3, "measurements of each side", lower_bound=1, module_name=here)
    # Speed is that of the epochs after the first, which needs no 20 of them.
    flags.DEFINE_integer("epochs_scratch", 3, "epochs of all but transfer", lower_bound=2, module_name=here)
    flags.DEFINE_integer("epochs_transfer", 20, "epochs of transfer", lower_bound=2, module_name=here)
    flags.DEFINE_string("whisker_transfer_flags", "", "more flags of trainer.task for transfer", module_name=here)
    flags.DEFINE_string("work_dir", "runs/bench_training", "keeps what is measured already", module_name=here)
    flags.DEFINE_string("output", str(RESULTS), "JSON file to write", module_name=here)
    command_line.run(_measure)


def _measure(_: Sequence[str]) -> None:
    asked = flags.FLAGS
    data = Path(asked.data).expanduser().resolve()
    if not data.is_dir():
        raise WhiskerError(f"--data={asked.data}: expected a folder: a name would be downloaded anew by each process")
    weights = asked.weights if asked.weights == "none" else str(Path(asked.weights).expanduser().resolve())
    bench = _Bench(data, weights, Path(asked.work_dir).expanduser().resolve())
    rows = []
    for variant in asked.variants:
        transfer = variant == "transfer"
        epochs = asked.epochs_transfer if transfer else asked.epochs_scratch
        more = shlex.split(asked.whisker_transfer_flags) if transfer else []
        for repeat in range(asked.repeats):
            # In turn, and each first as often as second: a machine that slows down hits both. Whisker begins, as its
            # ledger says which pictures the other trains on.
            for side in SIDES if repeat % 2 == 0 else reversed(SIDES):
                rows.append(bench.measure(side, variant, repeat, epochs, more if side == "whisker" else []))
    measured = {
        "what": "the stock Keras recipe and Whisker in turn, --split=hold_out, batches of 32 pictures of 160 pixels; "
        "images_per_second: training passes after the first epoch; seconds: process start to SavedModel on disk "
        "(Whisker's holds its look at the test set, the stock recipe's does not); ratio: how many times faster "
        "Whisker is, by the medians",
        "command": " ".join(["python -m benchmarks.bench_training", *(shlex.quote(flag) for flag in _shown(asked))]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "environments": _distinct(row["environment"] for row in rows if row["side"] == "whisker"),
        "pictures": bench.counts(),
        "variants": {
            variant: summarize([row for row in rows if row["variant"] == variant]) for variant in asked.variants
        },
        "runs": [{name: value for name, value in row.items() if name not in _UNTOLD} for row in rows],
    }
    output = Path(asked.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(measured, indent=1) + "\n")
    print(json.dumps({name: measured[name] for name in ("machine", "pictures", "variants")}, indent=1))


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Puts the two sides of one variant beside one another.

    Args:
        rows: measurements, as `_Bench.measure` gives them.

    Returns:
        `epochs`; for `images_per_second`, `seconds`, `validation_accuracy` (of the last epoch) and `test_accuracy` a
        {`median`, `min`, `max`, `n`} of each side; and for the first two the `ratio`.
    """
    sides = {side: [row for row in rows if row["side"] == side] for side in SIDES}
    summary: dict[str, Any] = {"epochs": rows[0]["epochs"], "whisker_flags": sides["whisker"][0]["flags"]}
    for name in ("images_per_second", "seconds", "validation_accuracy", "test_accuracy"):
        summary[name] = {side: _spread([_last(row[name]) for row in of_side]) for side, of_side in sides.items()}
    speed, seconds = summary["images_per_second"], summary["seconds"]
    speed["ratio"] = speed["whisker"]["median"] / speed["stock"]["median"]
    seconds["ratio"] = seconds["stock"]["median"] / seconds["whisker"]["median"]
    return summary


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}


def _last(value: Any) -> float:
    return value[-1] if isinstance(value, list) else value


def _distinct(values: Any) -> list[Any]:
    # More than one where a measurement was gone on with after a change; all of them are told.
    return [json.loads(text) for text in dict.fromkeys(json.dumps(value, sort_keys=True) for value in values)]


def _shown(asked: Any) -> list[str]:
    """The flags that decide what is measured, without the paths of this machine."""
    names = ("variants", "repeats", "epochs_scratch", "epochs_transfer", "whisker_transfer_flags")
    values = {name: asked[name].value for name in names}
    return [f"--{name}={','.join(value) if isinstance(value, list) else value}" for name, value in values.items()]


class _Bench:
    """Measures, and keeps what it has measured.

    Args:
        data: the pictures.
        weights: weights file of the backbone, or none.
        work: keeps measurements, Whisker's ledger, and the same pictures as links for the other side.
    """

    def __init__(self, data: Path, weights: str, work: Path) -> None:
        self._data = data
        self._weights = weights
        self._work = work
        self._lines = work / "measured.jsonl"
        self._ledger = work / "ledger.json"
        work.mkdir(parents=True, exist_ok=True)
        self._known = (
            [json.loads(line) for line in self._lines.read_text().splitlines()] if self._lines.exists() else []
        )
        self._warm = False

    def counts(self) -> dict[str, int]:
        """Pictures by split."""
        splits = [picture["split"] for picture in json.loads(self._ledger.read_text())["pictures"]]
        return {split: splits.count(split) for split in ("train", "validation", "test")}

    def measure(self, side: str, variant: str, repeat: int, epochs: int, more: Sequence[str]) -> dict[str, Any]:
        """Gives the measurement from the file, or makes it and appends it there.

        Returns:
            What was asked for, and `seconds` from process start to SavedModel on disk, `images_per_second` of the
            training passes after the first epoch, `epoch_seconds`, `validation_accuracy` of each epoch,
            `test_accuracy` and `test_pictures`.
        """
        asked = {
            "side": side,
            "variant": variant,
            "repeat": repeat,
            "epochs": epochs,
            "flags": list(more),
            "data": str(self._data),
            "weights": self._weights,
        }
        for row in self._known:
            if asked.items() <= row.items():
                return row
        print(f"{variant}, repeat {repeat}: {side} ...", flush=True)
        # Beside the pictures' links, and gone when measured: a run folder holds tens of megabytes.
        with tempfile.TemporaryDirectory(dir=self._work, prefix=f".{side}-{variant}-") as scratch:
            row = asked | (self._whisker if side == "whisker" else self._stock)(asked, Path(scratch))
        passes = row["epoch_seconds"][1:]
        row["images_per_second"] = row["training_pictures"] * len(passes) / sum(passes)
        print(f"  {row['seconds']:.1f} s, {row['images_per_second']:.1f} pictures/s", flush=True)
        with self._lines.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._known.append(row)
        return row

    def _whisker(self, asked: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
        run = scratch / "run"
        command = [
            "-m",
            "trainer.task",
            f"--data={self._data}",
            "--split=hold_out",
            f"--variant={asked['variant']}",
            f"--base_weights={self._weights}",
            f"--epochs={asked['epochs']}",
            f"--seed={asked['repeat']}",
            f"--run_dir={run}",
            *asked["flags"],
        ]
        seconds, _ = self._timed(command, scratch, run / "export")
        result = json.loads((run / "result.json").read_text())
        self._keep_ledger(run / "ledger.json")
        return {
            "seconds": seconds,
            "epoch_seconds": result["history"]["seconds"],
            "training_pictures": sum(result["data"]["counts"]["train"].values()),
            "parameters": result["parameters"]["total"],
            "validation_accuracy": result["history"]["validation_accuracy"],
            "test_accuracy": result["test"]["accuracy"],
            "test_pictures": result["test"]["n"],
            "recipe": result["recipe"],
            "stages": result["seconds"],
            "environment": machine.environment(run),
        }

    def _stock(self, asked: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
        saved_model = scratch / "export"
        command = [
            "-m",
            "benchmarks.stock_recipe",
            f"--pictures={self._links()}",
            f"--variant={asked['variant']}",
            f"--weights={self._weights}",
            f"--epochs={asked['epochs']}",
            f"--seed={asked['repeat']}",
            f"--saved_model={saved_model}",
        ]
        seconds, output = self._timed(command, scratch, saved_model)
        return {"seconds": seconds, **json.loads(output.splitlines()[-1])}

    def _timed(self, arguments: Sequence[str], scratch: Path, saved_model: Path) -> tuple[float, str]:
        """Runs Python; gives the seconds from its start to the last write of its SavedModel, and what it printed."""
        # matplotlib lists the machine's fonts once per home, in seconds: that is neither recipe's training.
        environment = os.environ | {"HOME": str(scratch), "MPLCONFIGDIR": str(self._work / "matplotlib")}
        if not self._warm:
            # The first process would pay for reading libraries and pictures from the disk.
            for path in self._data.rglob("*"):
                if path.is_file():
                    path.read_bytes()
            self._run(["-c", "import keras, tensorflow, matplotlib.font_manager"], environment)
            self._warm = True
        start = time.time()
        output = self._run(arguments, environment)
        return max(path.stat().st_mtime for path in saved_model.rglob("*")) - start, output

    def _run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
        ended = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if ended.returncode:
            raise WhiskerError(
                f"{shlex.join(arguments)}: exit code {ended.returncode}: {(ended.stderr.splitlines() or [''])[-1]}"
            )
        return ended.stdout

    def _keep_ledger(self, ledger: Path) -> None:
        if not self._ledger.exists():
            shutil.copy(ledger, self._ledger)
        if json.loads(ledger.read_text())["digest"] != json.loads(self._ledger.read_text())["digest"]:
            raise WhiskerError(f"{self._data}: the pictures have changed since {self._work} was begun; remove it")

    def _links(self) -> Path:
        """Makes train, validation and test folders of exactly the pictures that Whisker uses, as links."""
        folder = self._work / "pictures"
        if not folder.exists():
            staging = Path(tempfile.mkdtemp(dir=self._work, prefix=".pictures-"))
            for number, picture in enumerate(json.loads(self._ledger.read_text())["pictures"]):
                source = self._data / picture["path"]
                link = staging / picture["split"] / picture["label"] / f"{number:06d}{source.suffix}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(source)
            staging.rename(folder)
        return folder


if __name__ == "__main__":
    main()
