"""Whisker and the stock Keras recipe on the same pictures: what the measurements of training share.

Each training is a process of its own, `benchmarks.stock_recipe` or `trainer.task`, with an empty
home folder, so that no cache of an earlier one helps. One that is in the work folder already is not
done again.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from whisker_ml.errors import WhiskerError

PEERS = ("whisker", "stock")
STOCK_EPOCHS = 20


class Peers:
    """Trains with either, each time in a process of its own, and keeps what it has measured.

    Args:
        data: the pictures.
        weights: weights file of the backbone, or none.
        work: keeps measurements, Whisker's ledger, and the same pictures as links for the other
            side.
    """

    def __init__(self, data: Path, weights: str, work: Path) -> None:
        self._data = data
        self._weights = weights
        self._work = work
        self._lines = work / "measured.jsonl"
        self._ledger = work / "ledger.json"
        work.mkdir(parents=True, exist_ok=True)
        self._known = (
            [json.loads(line) for line in self._lines.read_text().splitlines()]
            if self._lines.exists()
            else []
        )
        self._warm = False

    def counts(self) -> dict[str, int]:
        """Pictures by split."""
        splits = [picture["split"] for picture in json.loads(self._ledger.read_text())["pictures"]]
        return {split: splits.count(split) for split in ("train", "validation", "test")}

    def measure(
        self,
        side: str,
        variant: str,
        seed: int,
        more: Sequence[str],
        *,
        epochs: int = 0,
        timed: bool = False,
    ) -> dict[str, Any]:
        """Gives the measurement from the file, or makes it and appends it there.

        Args:
            side: in `PEERS`.
            variant: of the model.
            seed: of order, weights and augmentation.
            more: flags of `trainer.task`; for Whisker alone.
            epochs: 0: the stock recipe's, or what `more` says.
            timed: a run that was killed is done anew, and does not go on.

        Returns:
            What was asked for, and `seconds` from process start to SavedModel on disk,
            `images_per_second` of the training passes after the first epoch, `epoch_seconds`,
            `validation_accuracy` of each epoch, `test_accuracy` and `test_pictures`.
        """
        asked = self._asked(side, variant, seed, more, epochs)
        if (row := self._find(asked)) is not None:
            return row
        print(f"{variant}, seed {seed}: {' '.join((side, *more))} ...", flush=True)
        # Named after what is asked for: a run that was killed goes on there. Gone when measured: it
        # holds tens of megabytes.
        digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        scratch = self._work / f".{side}-{variant}-{digest[:12]}"
        if timed:
            shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(exist_ok=True)
        row = asked | (self._whisker if side == "whisker" else self._stock)(asked, scratch)
        shutil.rmtree(scratch)
        passes = row["epoch_seconds"][1:]
        row["images_per_second"] = row["training_pictures"] * len(passes) / sum(passes)
        print(f"  {row['seconds']:.1f} s, {row['images_per_second']:.1f} pictures/s", flush=True)
        with self._lines.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._known.append(row)
        return row

    def known(
        self, side: str, variant: str, seed: int, more: Sequence[str]
    ) -> dict[str, Any] | None:
        """What `measure` would give without measuring; None where it would have to."""
        return self._find(self._asked(side, variant, seed, more, 0))

    def _asked(
        self, side: str, variant: str, seed: int, more: Sequence[str], epochs: int
    ) -> dict[str, Any]:
        return {
            "side": side,
            "variant": variant,
            "seed": seed,
            "epochs": epochs,
            "flags": list(more),
            "data": str(self._data),
            "weights": self._weights,
        }

    def _find(self, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        return next((row for row in self._known if asked.items() <= row.items()), None)

    def _whisker(self, asked: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
        run = scratch / "run"
        command = [
            "-m",
            "trainer.task",
            f"--data={self._data}",
            "--split=hold_out",
            f"--variant={asked['variant']}",
            f"--base_weights={self._weights}",
            f"--seed={asked['seed']}",
            f"--run_dir={run}",
            *([f"--epochs={asked['epochs']}"] if asked["epochs"] else []),
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
            "validation_loss": result["history"]["validation_loss"],
            "chosen": {split: result[split] for split in ("validation", "test")},
            "recipe": result["recipe"],
            "precision": result["precision"],
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
            f"--epochs={asked['epochs'] or STOCK_EPOCHS}",
            f"--seed={asked['seed']}",
            f"--saved_model={saved_model}",
        ]
        seconds, output = self._timed(command, scratch, saved_model)
        return {"seconds": seconds, **json.loads(output.splitlines()[-1])}

    def _timed(
        self, arguments: Sequence[str], scratch: Path, saved_model: Path
    ) -> tuple[float, str]:
        """Runs Python; gives the seconds from its start to the last write of its SavedModel, and
        what it printed.
        """
        # matplotlib lists the machine's fonts once per home, in seconds: that is neither recipe's
        # training.
        environment = os.environ | {
            "HOME": str(scratch),
            "MPLCONFIGDIR": str(self._work / "matplotlib"),
        }
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
            [sys.executable, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise WhiskerError(
                f"{shlex.join(arguments)}: exit code {ended.returncode}:"
                f" {(ended.stderr.splitlines() or [''])[-1]}"
            )
        return ended.stdout

    def _keep_ledger(self, ledger: Path) -> None:
        if not self._ledger.exists():
            shutil.copy(ledger, self._ledger)
        if (
            json.loads(ledger.read_text())["digest"]
            != json.loads(self._ledger.read_text())["digest"]
        ):
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
                link = (
                    staging / picture["split"] / picture["label"] / f"{number:06d}{source.suffix}"
                )
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(source)
            staging.rename(folder)
        return folder
