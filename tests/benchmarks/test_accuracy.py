import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.accuracy import ROWS, Row, paired_difference, summarize
from tests.trained_model import write_pictures
from trainer.config import Config


def test_rows_have_names_of_their_own_and_settings_that_the_trainer_takes():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(ROWS)
    assert not any("," in name for name in names), "--rows is a list with commas"
    for row in ROWS:
        values = dict(flag.removeprefix("--").split("=") for flag in row.flags)
        if row.side == "whisker":
            settings = {name: type(getattr(Config, name))(value) for name, value in values.items()}
            Config(variant=row.variant, **settings)
        else:
            assert not values
        assert row.against in ("", *names)


def run(seed, right):
    return {
        "seed": seed,
        "test_accuracy": sum(right) / len(right),
        "test_pictures": len(right),
        "right": {f"{number}": found for number, found in enumerate(right)},
    }


def test_row_has_mean_and_range_and_what_it_is_ahead_of_another():
    row = Row("fast", "whisker", "transfer", ("--recipe=fast",), "stock")
    ours = [run(seed, [True] * 90 + [False] * 10) for seed in (0, 1)]
    theirs = [run(0, [True] * 70 + [False] * 30), run(1, [True] * 72 + [False] * 28)]
    summary = summarize(row, ours, theirs)
    assert (summary["mean"], summary["min"], summary["max"]) == (0.9, 0.9, 0.9)
    assert (summary["seeds"], summary["n"]) == ([0, 1], 100)
    assert (summary["against"]["name"], summary["against"]["points"]) == ("stock", 19.0)
    assert summarize(row, ours, None)["against"] is None


def test_paired_difference_is_narrow_where_the_same_pictures_are_right():
    generator = np.random.default_rng(1)
    right = generator.random((3, 400)) < 0.8
    points, (low, high) = paired_difference(right[:1], right[:1])
    assert (points, low, high) == (0, 0, 0)
    points, (low, high) = paired_difference(right[:1], right[1:2])
    # Two independent answers at 0.8: a deviation of 100 * sqrt(2 * 0.16 / 400) = 2.8 points.
    assert high - low == pytest.approx(2 * 1.96 * 2.83, rel=0.15)
    assert low < points < high


@pytest.mark.long
def test_row_is_measured_once(tmp_path):
    pictures = write_pictures(tmp_path / "pictures")
    command = [
        sys.executable,
        "-m",
        "benchmarks.accuracy",
        f"--data={pictures}",
        "--weights=none",
        "--rows=stock,fast",
        "--seeds=1",
        f"--work_dir={tmp_path / 'work'}",
        f"--output={tmp_path / 'accuracy.json'}",
    ]
    first = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    assert first.stdout.count(", seed 0") == 2
    rows = json.loads((tmp_path / "accuracy.json").read_text())["sets"]["pictures"]["rows"]
    assert [(row["name"], row["seeds"]) for row in rows] == [("stock", [0]), ("fast", [0])]
    again = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    assert again.stdout == ""
