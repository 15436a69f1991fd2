"""Whatever kills a run, and whenever: the same command ends as if nothing had been."""

import json
import subprocess
import sys

import pytest


def tried(*arguments, timeout_s):
    """What the program gives: how many operations, and what was otherwise than undisturbed."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.integration.killing", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-5000:]
    return json.loads(ended.stdout.splitlines()[-1])


# Each operation takes a run of its own.
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_run_whose_disk_is_gone_at_an_operation_ends_as_if_nothing_had_been(tmp_path):
    seen = tried(tmp_path, 30, timeout_s=1700)
    assert seen["broken"] == []
    assert seen["points"] == 30


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("place", "operations"), [("folder", 80), ("bucket", 38)])
def test_a_run_killed_at_each_operation_ends_as_if_nothing_had_been(
    request, tmp_path, place, operations
):
    where = [f"gs://{request.getfixturevalue('bucket')}"] if place == "bucket" else []
    seen = tried(tmp_path, *where, timeout_s=7000)
    assert seen["broken"] == []
    # As many as there were when this was written, or more.
    assert seen["points"] >= operations
