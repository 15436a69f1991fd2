"""Publishers that are killed between any two writes, and eight that publish at once, as processes
of their own.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from whisker_ml.files import is_address


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.long)])
def test_a_publisher_killed_at_any_write_leaves_nothing_loadable_and_the_next_one_cleans_up(
    kills: int, model_dir: str, saved_model: Path
) -> None:
    # Shared between the two kinds of store; a kill in a bucket takes some hundred calls over HTTP.
    kills = kills * 3 // 10 if is_address(model_dir) else kills * 7 // 10
    answer = subprocess.run(
        [sys.executable, "-m", "tests.serving.store.killing", model_dir, saved_model, str(kills)],
        timeout=60 + 2 * kills,
        check=False,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    seen = json.loads(answer.stdout)
    assert seen["kills"] == kills
    # The kills were no formality: some came while a version was being written.
    assert seen["writes"] > 8
    assert seen["with_remains"] > 0
