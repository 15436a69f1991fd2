import json
import subprocess
import sys

import pytest

from benchmarks.accuracy import ABLATION, RECIPES, summarize
from tests.trained_model import write_pictures
from trainer.config import Config

ROWS = (*RECIPES, *ABLATION)


def test_rows_have_names_of_their_own_and_settings_that_the_trainer_takes():
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert not any("," in row.name for row in ROWS), "--rows is a list with commas"
    for row in ROWS:
        values = dict(flag.removeprefix("--").split("=") for flag in row.flags)
        Config(
            variant=row.variant,
            **{name: type(getattr(Config, name))(value) for name, value in values.items()},
        )
        assert row.side == "whisker" or not row.flags


def run(seed, right, loss):
    judged = {"accuracy": right, "loss": loss, "interval_95": [right - 0.01, right + 0.01]}
    return {
        "side": "whisker",
        "seed": seed,
        "test_accuracy": right,
        "test_pictures": 1000,
        "precision": "float32",
        "chosen": {"validation": judged, "test": judged},
    }


def test_row_has_mean_and_range_over_its_seeds():
    row = next(row for row in RECIPES if row.name == "transfer fast")
    summary = summarize(row, [run(0, 0.97, 0.1), run(1, 0.98, 0.2), run(2, 0.96, 0.3)])
    assert summary["test"] == {"mean": pytest.approx(0.97), "min": 0.96, "max": 0.98}
    assert (summary["seeds"], summary["n"]) == ([0, 1, 2], 1000)
    assert summary["test_loss"] == pytest.approx(0.2)
    assert len(summary["interval_95"]) == 3


@pytest.mark.long
def test_row_is_measured_once(tmp_path):
    pictures = write_pictures(tmp_path / "pictures")
    command = [
        sys.executable,
        "-m",
        "benchmarks.accuracy",
        f"--data={pictures}",
        "--weights=none",
        "--rows=plain notebook",
        f"--work_dir={tmp_path / 'work'}",
        f"--output={tmp_path / 'accuracy.json'}",
    ]
    first = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    assert first.stdout.count("plain, seed") == 3
    (row,) = json.loads((tmp_path / "accuracy.json").read_text())["recipes"]
    assert (row["name"], row["seeds"]) == ("plain notebook", [0, 1, 2])
    again = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    assert again.stdout == ""
