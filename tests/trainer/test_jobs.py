"""The command against a local job service."""

import subprocess
import sys

import pytest

from tests.trainer.cloud.job_service import PROJECT, REGION
from tests.trainer.cloud.test_cloud_jobs_client import job
from trainer.cloud.jobs_client import Jobs

PLACE = [f"--project={PROJECT}", f"--region={REGION}"]


def jobs(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "trainer.jobs", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_list_cancel_and_watch_find_the_same_job(service):
    at = [*PLACE, f"--api_endpoint={service.url}"]
    made, _ = Jobs(PROJECT, REGION, service.url).submit(job(name="first try"))
    listed = jobs("list", *at)
    assert listed.stdout == f"1000  pending  {made.create_time:%Y-%m-%d %H:%M}  first try\n", (
        listed.stderr
    )
    cancelled = jobs("cancel", "1000", *at)
    assert cancelled.stdout.startswith(f"asked the service to cancel projects/{PROJECT}/"), (
        cancelled.stderr
    )
    watched = jobs("watch", "1000", *at)
    assert (watched.returncode, watched.stdout) == (2, "cancelled\n")
    assert "error: the job cancelled: the user cancelled it; its log: " in watched.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], ": expected list, or one of watch, logs and cancel with a job's number"),
        (["watch"], "watch: expected list, or one of"),
        (["list", "1000"], "list 1000: expected list, or one of"),
        (["stop", "1000"], "stop 1000: expected list, or one of"),
        (["list", "--project=p"], "--region=: expected a region, such as us-central1"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments, message):
    ended = jobs(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"jobs.py: error: {message}" + ended.stderr.partition(message)[2]
    assert ended.stderr.count("\n") == 1
