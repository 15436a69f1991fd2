"""The four variants on the real cats and dogs, and served answers beside trained ones, for the table in README.

  python -m benchmarks.real_pictures --data=cats_and_dogs_filtered --weights=mobilenet_v2_..._160_no_top.h5

Each run is `python -m trainer.task` in a process of its own. A run that is done in --work_dir is not done again.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import machine
from serving import command_line, contract
from serving.client.local_server import local_server
from serving.client.predict_client import PredictClient
from serving.errors import WhiskerError

RESULTS = Path(__file__).parent / "results" / "real_pictures.json"
EPOCHS = {"plain": 20, "augmented": 20, "preprocessed": 20, "transfer": 3}


def main() -> None:
    """Entry point of `make bench`."""
    here = sys.argv[0]
    flags.DEFINE_string("data", "cats_and_dogs", "the real pictures", module_name=here)
    flags.DEFINE_string("weights", "imagenet", "MobileNetV2 weights", module_name=here)
    flags.DEFINE_string("work_dir", "runs/real_pictures", "keeps the run folders and the store", module_name=here)
    command_line.run(_measure)


def _measure(_: Sequence[str]) -> None:
    work = Path(flags.FLAGS.work_dir)
    store = work / "models"
    runs = {variant: _train(variant, work / variant, store) for variant in EPOCHS}
    pictures = Path(flags.FLAGS.data)
    measured = {
        "what": "four variants on cats_and_dogs_filtered, seed 0, --split=given",
        "command": "make bench",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "environment": machine.environment(work / "transfer"),
        "runs": {variant: _summary(result) for variant, result in runs.items()},
        "served": _serve(work / "transfer", store, pictures),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(measured, indent=1) + "\n")
    print(json.dumps(measured, indent=1))


def _train(variant: str, run_dir: Path, store: Path) -> dict[str, Any]:
    result = run_dir / "result.json"
    if not result.exists():
        arguments = [f"--data={flags.FLAGS.data}", f"--variant={variant}", f"--epochs={EPOCHS[variant]}"]
        if variant == "transfer":
            # Last, so that it is the one that is live.
            arguments += [f"--base_weights={flags.FLAGS.weights}", f"--model_dir={store}"]
        command = [sys.executable, "-m", "trainer.task", *arguments, f"--run_dir={run_dir}"]
        if subprocess.run(command, check=False).returncode:
            raise WhiskerError(f"{' '.join(command)}: failed")
    return json.loads(result.read_text())


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    names = ("epochs", "parameters", "baseline_accuracy", "validation", "test", "images_per_second", "seconds")
    return {name: result[name] for name in names} | {"last_training_accuracy": result["history"]["accuracy"][-1]}


def _serve(run: Path, store: Path, pictures: Path) -> dict[str, Any]:
    """Sends every validation and test picture to a server, and compares its answers with the run's own."""
    paths = {row["sha256"]: row["path"] for row in json.loads((run / "ledger.json").read_text())["pictures"]}
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    classes = json.loads((run / "ledger.json").read_text())["classes"]
    temperature = json.loads((run / "result.json").read_text())["calibration"]["temperature"]
    largest, flips = 0.0, 0
    with (
        local_server(model_config_file=store / contract.MODELS_CONFIG) as server,
        PredictClient(f"localhost:{server.port}", label=contract.STABLE_LABEL) as client,
    ):
        for row in rows:
            answer = client.predict(pictures / paths[row["sha256"]])
            trained = 1 / (1 + 2.718281828459045 ** (-row["logits"][0] / temperature))
            largest = max(largest, abs(answer.probabilities[classes[1]] - trained))
            flips += answer.label != classes[int(row["logits"][0] > 0)]
    return {"pictures": len(rows), "largest_difference": largest, "label_flips": flips}


if __name__ == "__main__":
    main()
