import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.answers import area
from tests.trained_model import write_pictures


def test_area_is_the_chance_of_a_higher_score():
    generator = np.random.default_rng(0)
    known, strange = generator.normal(1, 1, 300), generator.normal(0, 1, 200)
    found = area(known, strange)
    # Two normal distributions one standard deviation apart: Phi(1 / sqrt 2) = 0.760.
    assert found["area"] == pytest.approx(0.76, abs=0.04)
    low, high = found["interval_95"]
    assert low < found["area"] < high < low + 0.1
    assert area(np.array([1.0]), np.array([1.0]))["area"] == 0.5


@pytest.mark.long
def test_every_number_is_there_for_every_set(tmp_path):
    folders = [write_pictures(tmp_path / name) for name in ("first", "second")]
    command = [
        sys.executable,
        "-m",
        "benchmarks.answers",
        f"--data={folders[0]},{folders[1]}",
        "--weights=none",
        f"--work_dir={tmp_path / 'work'}",
        f"--output={tmp_path / 'answers.json'}",
    ]
    subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    found = json.loads((tmp_path / "answers.json").read_text())
    for name in ("first", "second"):
        assert 0 <= found["strangers"][name]["areas"]["familiarity"]["area"] <= 1
        assert set(found["heatmaps"][name]) == {"n", "occlusion", "Grad-CAM"}
    assert found["unsure_ms"]["calls"] > 0
