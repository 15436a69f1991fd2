import json
import subprocess
import sys

import keras
import pytest

from benchmarks.bench_training import summarize
from benchmarks.training_peers import build
from tests.trained_model import write_pictures

TIMEOUT_S = 300


@pytest.mark.parametrize(
    ("variant", "parameters"),
    # The numbers of the notebook's own log.
    [
        ("plain", 1_346_753),
        ("augmented", 1_346_753),
        ("preprocessed", 1_346_753),
        ("transfer", 2_422_081),
    ],
)
def test_stock_model_is_the_notebooks_with_its_sigmoid(variant, parameters):
    model = build(variant, weights=None)
    assert model.count_params() == parameters
    assert model.layers[-1].activation is keras.activations.sigmoid


def row(side, seconds, images_per_second, test_accuracy):
    return {
        "contender": side,
        "epochs": 20,
        "flags": ["--recipe=fast"] if side == "whisker" else [],
        "seconds": seconds,
        "images_per_second": images_per_second,
        "validation_accuracy": [0.5, test_accuracy],
        "test_accuracy": test_accuracy,
    }


def test_summary_has_medians_spread_and_how_many_times_faster_whisker_is():
    rows = [
        *(row("whisker", seconds, 300.0, 0.97) for seconds in (10.0, 90.0, 20.0)),
        *(row("stock", seconds, 100.0, 0.96) for seconds in (400.0, 300.0, 600.0)),
    ]
    summary = summarize(rows)
    assert summary["seconds"] == {
        "whisker": {"median": 20.0, "min": 10.0, "max": 90.0, "n": 3},
        "stock": {"median": 400.0, "min": 300.0, "max": 600.0, "n": 3},
        "ratio": {"whisker": 20.0},
    }
    assert summary["images_per_second"]["ratio"] == {"whisker": 3.0}
    assert summary["validation_accuracy"]["stock"]["median"] == 0.96
    assert (summary["epochs"], summary["whisker_flags"]) == (20, ["--recipe=fast"])


def bench(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_training", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_name_instead_of_a_folder_is_refused_in_one_line(tmp_path):
    ended = bench("--data=cats_and_dogs", f"--work_dir={tmp_path}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert (
        ended.stderr
        == "bench_training.py: error: --data=cats_and_dogs: expected a folder: a name would be"
        " downloaded anew by each process\n"
    )


@pytest.mark.long
def test_both_sides_are_measured_once_on_the_same_pictures(tmp_path):
    pictures = write_pictures(tmp_path / "pictures")
    arguments = [
        f"--data={pictures}",
        "--variants=plain",
        "--repeats=1",
        "--epochs_scratch=2",
        f"--work_dir={tmp_path / 'work'}",
        f"--output={tmp_path / 'training.json'}",
    ]
    first = bench(*arguments)
    assert (first.returncode, first.stderr) == (0, "")
    measured = json.loads((tmp_path / "training.json").read_text())
    whisker, stock, float32 = measured["runs"]
    assert [run["contender"] for run in measured["runs"]] == ["whisker", "stock", "whisker_float32"]
    assert float32["precision"] == "float32"
    for name in ("training_pictures", "test_pictures", "parameters"):
        assert whisker[name] == stock[name] == float32[name]
    for side in measured["runs"]:
        assert len(side["epoch_seconds"]) == len(side["validation_accuracy"]) == 2
        assert side["images_per_second"] == pytest.approx(
            side["training_pictures"] / side["epoch_seconds"][1]
        )
        assert side["seconds"] > sum(side["epoch_seconds"])
    assert measured["pictures"]["train"] == whisker["training_pictures"]
    linked = {link.resolve() for link in (tmp_path / "work" / "pictures" / "train").rglob("*.jpg")}
    ledger = json.loads((tmp_path / "work" / "ledger.json").read_text())
    assert linked == {
        pictures / found["path"] for found in ledger["pictures"] if found["split"] == "train"
    }

    second = bench(*arguments)
    assert (second.returncode, second.stderr) == (0, "")
    assert "seed" not in second.stdout.partition("{")[0]
    assert json.loads((tmp_path / "training.json").read_text())["runs"] == measured["runs"]
