import json
import subprocess
import sys

import pytest


@pytest.mark.long
def test_first_request_is_measured_with_and_without_warm_up_records(trained, tmp_path):
    picture = next((trained.pictures / "cats").glob("[0-9]*.jpg"))
    flags = [
        f"--export={trained.run / 'export'}",
        f"--picture={picture}",
        "--repeats=1",
        f"--output={tmp_path / 'out'}",
    ]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_warmup", *flags], check=True, timeout=120
    )
    measured = json.loads((tmp_path / "out").read_text())
    assert measured["without"]["first_ms"]["median"] > measured["without"]["later_ms"]["median"]
    assert set(measured["with"]) == {"first_ms", "later_ms", "ready_seconds"}
