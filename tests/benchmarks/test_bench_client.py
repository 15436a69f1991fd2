import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench_client import compare, summarize

ROOT = Path(__file__).parents[2]
MEASURES = ("import_s", "memory_mb", "bytes_cpu_ms", "pixels_cpu_ms")


def rows(**by_side):
    """Of each side the measures of repeat 0, 1, … in the order of `MEASURES`."""
    return [
        {"side": side, "repeat": repeat, **dict(zip(MEASURES, values, strict=True))}
        for side, runs in by_side.items()
        for repeat, values in enumerate(runs)
    ]


def test_sides_are_compared_repeat_by_repeat_with_the_targets():
    found = compare(
        rows(
            whisker=[(0.1, 40, 0.2, 0.5), (0.1, 40, 0.2, 0.5), (0.2, 40, 0.4, 0.5)],
            tensorflow_serving_api=[
                (2.0, 400, 0.1, 0.6),
                (3.0, 360, 0.1, 0.4),
                (2.0, 480, 0.3, 0.4),
            ],
            rest=[(0.01, 20, 0.3, 40.0)] * 3,
        )
    )
    api = found["tensorflow_serving_api"]
    assert api["import_s"] == {
        "times_less": {"median": 20.0, "min": 10.0, "max": 30.0},
        "target": 20.0,
        "met": True,
    }
    assert api["memory_mb"]["times_less"] == {"median": 10.0, "min": 9.0, "max": 12.0}
    assert (api["bytes_cpu_ms"]["met"], api["pixels_cpu_ms"]["met"]) == (False, False)
    assert {name: measure["met"] for name, measure in found["rest"].items()} == {
        "bytes_cpu_ms": True,
        "pixels_cpu_ms": True,
    }


def test_summary_gives_each_measure_of_each_side():
    found = summarize(rows(whisker=[(0.1, 40, 0.2, 0.5), (0.3, 42, 0.2, 0.5), (0.2, 41, 0.4, 0.5)]))
    assert found["whisker"]["import_s"] == {"median": 0.2, "min": 0.1, "max": 0.3}
    assert set(found["whisker"]) == set(MEASURES)


@pytest.mark.long
def test_benchmark_measures_every_side(tmp_path):
    command = [sys.executable, "-m", "benchmarks.bench_client", "--repeats=1", "--count=3"]
    ended = subprocess.run(
        [*command, f"--output={tmp_path}/client.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    measured = json.loads((tmp_path / "client.json").read_text())
    assert set(measured["summary"]) == {"whisker", "tensorflow_serving_api", "rest"}
    assert all(row[name] > 0 for row in measured["runs"] for name in MEASURES)
