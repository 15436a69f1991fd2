"""Training with the stock Keras recipe and with Whisker in turn, on the same pictures: speed, whole
time, accuracy.

  python -m benchmarks.bench_training --data=cats_and_dogs_filtered \\
    --weights=mobilenet_v2_..._160_no_top.h5

Each measurement is a process of its own, `benchmarks.training_peers` or `trainer.task`, with an
empty home folder, so that no cache of an earlier one helps. One that is in --work_dir already is
not done again.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.measurement import (
    define_output,
    environment,
    in_turn,
    record,
    run_python,
    spread,
)
from whisker_ml import cli
from whisker_ml.errors import WhiskerError

_STOCK_EPOCHS = 20
# What a row of the results leaves out: said once for all, or a path of the machine.
_UNTOLD = ("environment", "data", "weights", "chosen", "right")

Row = Mapping[str, Any]


def main() -> None:
    """Entry point."""
    define_trainings("none", "runs/bench_training")
    cli.define("variants", ["plain", "augmented", "preprocessed", "transfer"], "what to measure")
    cli.define("repeats", 3, "measurements of each side", minimum=1)
    # Speed is that of the epochs after the first, which needs no 20 of them.
    cli.define("epochs_scratch", 3, "epochs of all but transfer", minimum=2)
    cli.define("epochs_transfer", _STOCK_EPOCHS, "epochs of transfer", minimum=2)
    cli.define("whisker_transfer_flags", [], "more flags of trainer.task for transfer")
    define_output("training")
    cli.run(_measure)


def define_trainings(weights: str | None, work: str) -> None:
    """Defines the flags of what trains, with these defaults."""
    cli.define("data", None, "folder of the real pictures", required=True)
    text = "file of MobileNetV2 weights, or none"
    cli.define("weights", weights, text, required=weights is None)
    cli.define("work_dir", work, "keeps what is measured already")


def _measure(_: Sequence[str]) -> None:
    options = flags.FLAGS
    trainings = Trainings(options.data, options.work_dir)
    rows = []
    for variant in options.variants:
        transfer = variant == "transfer"
        # Whisker begins, as its ledger says which pictures the other trains on.
        contenders = {"whisker": options.whisker_transfer_flags if transfer else [], "stock": []}
        if not transfer:
            contenders["whisker_float32"] = ["--mixed_precision=none"]
        epochs = options.epochs_transfer if transfer else options.epochs_scratch
        for repeat, name in in_turn(contenders, options.repeats):
            side, _, _ = name.partition("_")
            wanted = trainings.wanted(side, variant, repeat, contenders[name], epochs)
            rows.append({"contender": name, **trainings.measure(wanted, resume=False)})
    environments = (row["environment"] for row in rows if row["side"] == "whisker")
    record(
        "the stock Keras recipe, Whisker, and Whisker in float32, in turn, --split=hold_out,"
        " batches of 32 pictures of 160 pixels; images_per_second: training passes after the first"
        " epoch; seconds: process start to SavedModel on disk (Whisker's holds its look at the test"
        " set, the stock recipe's does not); ratio: how many times faster than the stock recipe, by"
        " the medians",
        ["variants", "repeats", "epochs_scratch", "epochs_transfer", "whisker_transfer_flags"],
        ["machine", "pictures", "variants"],
        environments=_distinct(environments),
        pictures=trainings.counts(),
        variants={
            variant: summarize([row for row in rows if row["variant"] == variant])
            for variant in options.variants
        },
        runs=[{name: value for name, value in row.items() if name not in _UNTOLD} for row in rows],
    )


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """Puts the contenders of one variant beside one another.

    Args:
        rows: measurements, as `Trainings.measure` gives them, with the `contender`'s name.

    Returns:
        `epochs`; for `images_per_second`, `seconds`, `validation_accuracy` (of the last epoch) and
        `test_accuracy` a {`median`, `min`, `max`, `n`} of each contender; and for the first two the
        `ratio` of each to the stock recipe.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        last = row["validation_accuracy"][-1]
        found.setdefault(row["contender"], []).append({**row, "validation_accuracy": last})
    summary: dict[str, Any] = {
        "epochs": rows[0]["epochs"],
        "whisker_flags": found["whisker"][0]["flags"],
    }
    for name in ("images_per_second", "seconds", "validation_accuracy", "test_accuracy"):
        summary[name] = {
            contender: spread([run[name] for run in runs]) | {"n": len(runs)}
            for contender, runs in found.items()
        }
    for name, power in (("images_per_second", 1), ("seconds", -1)):
        medians = {contender: of_it["median"] for contender, of_it in summary[name].items()}
        stock = medians.pop("stock")
        summary[name]["ratio"] = {
            contender: (value / stock) ** power for contender, value in medians.items()
        }
    return summary


def _distinct(values: Iterable[Any]) -> list[Any]:
    # More than one where a measurement was gone on with after a change; all of them are told.
    texts = (json.dumps(value, sort_keys=True) for value in values)
    return [json.loads(text) for text in dict.fromkeys(texts)]


class Trainings:
    """Trains with either side, each time in a process of its own, from --weights; keeps what is
    measured, Whisker's ledger, and the same pictures as links for the other side.

    Args:
        data: folder of pictures.
        work: folder that keeps all this.
    """

    def __init__(self, data: str, work: str) -> None:
        self._data = Path(data).expanduser().resolve()
        if not self._data.is_dir():
            raise WhiskerError(
                f"--data={data}: expected a folder: a name would be downloaded anew by each process"
            )
        # Where there is a test folder, all that trains and selects is given too.
        self._split = "given" if (self._data / "test").is_dir() else "hold_out"
        self._weights = flags.FLAGS.weights
        if self._weights != "none":
            self._weights = str(Path(self._weights).expanduser().resolve())
        self._work = Path(work).expanduser().resolve()
        self._work.mkdir(parents=True, exist_ok=True)
        self._lines = self._work / "measured.jsonl"
        self._lines.touch()
        self._known = [json.loads(line) for line in self._lines.read_text().splitlines()]
        self._ledger = self._work / "ledger.json"
        self._warm = False

    def counts(self) -> dict[str, int]:
        """Pictures by split."""
        splits = [picture["split"] for picture in json.loads(self._ledger.read_text())["pictures"]]
        return {split: splits.count(split) for split in ("train", "validation", "test")}

    def wanted(
        self, side: str, variant: str, seed: int, more: Sequence[str], epochs: int = 0
    ) -> dict[str, Any]:
        """Describes a training.

        Args:
            side: whisker or stock.
            variant: of the model.
            seed: of order, weights and augmentation.
            more: flags of `trainer.task`; for Whisker alone.
            epochs: 0: the stock recipe's, or what `more` says.
        """
        return {
            "side": side,
            "variant": variant,
            "seed": seed,
            "epochs": epochs,
            "flags": list(more),
            "data": str(self._data),
            "weights": self._weights,
        }

    def known(self, wanted: Row) -> dict[str, Any] | None:
        """What `measure` would give without measuring; None where it would have to."""
        return next((row for row in self._known if wanted.items() <= row.items()), None)

    def measure(self, wanted: dict[str, Any], *, resume: bool) -> dict[str, Any]:
        """Gives the measurement from the file, or makes it and appends it there.

        Args:
            wanted: as the method of that name gives it.
            resume: a run that was killed goes on; its time says nothing then.

        Returns:
            What was wanted, and `seconds` from process start to SavedModel on disk,
            `images_per_second` of the training passes after the first epoch, `epoch_seconds`,
            `validation_accuracy` of each epoch, `test_accuracy` and `test_pictures`.
        """
        if known := self.known(wanted):
            return known
        side, variant, seed = (wanted[name] for name in ("side", "variant", "seed"))
        print(f"{variant}, seed {seed}: {' '.join((side, *wanted['flags']))} ...", flush=True)
        # Named after what is wanted: a run that was killed goes on there. Gone when measured: it
        # holds tens of megabytes.
        digest = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()
        scratch = self._work / f".{side}-{variant}-{digest[:12]}"
        if not resume:
            shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(exist_ok=True)
        row = wanted | (self._whisker if side == "whisker" else self._stock)(wanted, scratch)
        shutil.rmtree(scratch)
        passes = row["epoch_seconds"][1:]
        row["images_per_second"] = row["training_pictures"] * len(passes) / sum(passes)
        print(f"  {row['seconds']:.1f} s, {row['images_per_second']:.1f} pictures/s", flush=True)
        with self._lines.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._known.append(row)
        return row

    def _whisker(self, wanted: Row, scratch: Path) -> dict[str, Any]:
        run = scratch / "run"
        command = [
            "-m",
            "trainer.task",
            f"--data={self._data}",
            f"--split={self._split}",
            f"--variant={wanted['variant']}",
            f"--base_weights={self._weights}",
            f"--seed={wanted['seed']}",
            f"--run_dir={run}",
            *([f"--epochs={wanted['epochs']}"] if wanted["epochs"] else []),
            *wanted["flags"],
        ]
        seconds, _ = self._timed(command, scratch, run / "export")
        result = json.loads((run / "result.json").read_text())
        self._keep_ledger(run / "ledger.json")
        history, test = result["history"], result["test"]
        rows = map(json.loads, (run / "predictions.jsonl").read_text().splitlines())
        return {
            "seconds": seconds,
            "epoch_seconds": history["seconds"],
            "training_pictures": sum(result["data"]["counts"]["train"].values()),
            "parameters": result["parameters"]["total"],
            "validation_accuracy": history["validation_accuracy"],
            "test_accuracy": test["accuracy"],
            "test_pictures": test["n"],
            "right": {
                row["sha256"]: row["label"] == row["predicted"]
                for row in rows
                if row["split"] == "test"
            },
            "validation_loss": history["validation_loss"],
            "chosen": {"validation": result["validation"], "test": test},
            "recipe": result["recipe"],
            "precision": result["precision"],
            "stages": result["seconds"],
            "environment": environment(run),
        }

    def _stock(self, wanted: Row, scratch: Path) -> dict[str, Any]:
        saved_model = scratch / "export"
        command = [
            "-m",
            "benchmarks.training_peers",
            f"--pictures={self._links()}",
            f"--variant={wanted['variant']}",
            f"--weights={self._weights}",
            f"--epochs={wanted['epochs'] or _STOCK_EPOCHS}",
            f"--seed={wanted['seed']}",
            f"--saved_model={saved_model}",
        ]
        seconds, output = self._timed(command, scratch, saved_model)
        found = json.loads(output.splitlines()[-1])
        pictures = json.loads(self._ledger.read_text())["pictures"]
        found["right"] = {
            pictures[int(number)]["sha256"]: right for number, right in found["right"].items()
        }
        return {"seconds": seconds, **found}

    def _timed(
        self, arguments: Sequence[str], scratch: Path, saved_model: Path
    ) -> tuple[float, str]:
        """Runs Python; gives the seconds from its start to the last write of its SavedModel, and
        what it printed.
        """
        # matplotlib lists the machine's fonts once per home, in seconds: that is neither recipe's
        # training.
        fonts = str(self._work / "matplotlib")
        variables = os.environ | {
            "HOME": str(scratch),
            "MPLCONFIGDIR": fonts,
            # For both sides, on every processor: Whisker sets it itself.
            "TF_ENABLE_ONEDNN_OPTS": "1",
        }
        if not self._warm:
            # The first process would pay for reading libraries and pictures from the disk.
            for path in self._data.rglob("*"):
                if path.is_file():
                    path.read_bytes()
            libraries = "import keras, tensorflow, matplotlib.font_manager"
            run_python("-c", libraries, environment=variables)
            self._warm = True
        start = time.time()
        output = run_python(*arguments, environment=variables)
        return max(path.stat().st_mtime for path in saved_model.rglob("*")) - start, output

    def _keep_ledger(self, ledger: Path) -> None:
        if not self._ledger.exists():
            shutil.copy(ledger, self._ledger)
        digest, kept = (json.loads(path.read_text())["digest"] for path in (ledger, self._ledger))
        if digest != kept:
            raise WhiskerError(
                f"{self._data}: the pictures have changed since {self._work} was begun; remove it"
            )

    def _links(self) -> Path:
        """Makes train, validation and test folders of exactly the pictures that Whisker uses, as
        links.
        """
        folder = self._work / "pictures"
        if not folder.exists():
            staging = Path(tempfile.mkdtemp(dir=self._work, prefix=".pictures-"))
            for number, picture in enumerate(json.loads(self._ledger.read_text())["pictures"]):
                source = self._data / picture["path"]
                label = staging / picture["split"] / picture["label"]
                label.mkdir(parents=True, exist_ok=True)
                (label / f"{number:06d}{source.suffix}").symlink_to(source)
            staging.rename(folder)
        return folder


if __name__ == "__main__":
    main()
