import json
import subprocess
import sys

import pytest

from benchmarks.bench_input import SIDES, summarize
from tests.trained_model import write_pictures

TIMEOUT_S = 300


def test_summary_has_first_and_later_passes_and_their_ratio_to_stock():
    rows = [
        {"side": "stock", "pictures": 100, "seconds": [2.0, 1.0, 1.0], "peak_mb": 50.0},
        {"side": "stock", "pictures": 100, "seconds": [2.0, 1.0, 1.0], "peak_mb": 60.0},
        {"side": "memory", "pictures": 100, "seconds": [1.0, 0.1, 0.05], "peak_mb": 90.0},
    ]
    summary = summarize(rows)
    assert summary["stock"]["first"] == {"median": 50.0, "min": 50.0, "max": 50.0, "ratio": 1.0}
    assert summary["memory"]["first"]["ratio"] == 2.0
    assert summary["memory"]["later"]["ratio"] == pytest.approx(15.0)
    assert (summary["stock"]["peak_mb"], summary["memory"]["peak_mb"]) == (60.0, 90.0)


def bench(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_input", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_folder_that_is_not_there_is_refused_in_one_line():
    ended = bench("--data=/nowhere")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert (
        ended.stderr
        == "bench_input.py: error: --data=/nowhere: there is no such folder; expected a folder of"
        " class folders\n"
    )


@pytest.mark.long
def test_every_side_goes_over_every_picture(tmp_path):
    pictures = write_pictures(tmp_path / "pictures")
    ended = bench(
        f"--data={pictures}", "--repeats=1", "--passes=2", f"--output={tmp_path / 'input.json'}"
    )
    assert ended.returncode == 0, ended.stderr
    measured = json.loads((tmp_path / "input.json").read_text())
    assert [row["side"] for row in measured["runs"]] == list(SIDES)
    assert {row["pictures"] for row in measured["runs"]} == {80}
    assert {len(row["seconds"]) for row in measured["runs"]} == {2}
