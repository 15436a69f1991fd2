"""The command against a local job service."""

import select
import socket
import subprocess
import sys
import time

import pytest

from tests.trainer.cloud.test_cloud_jobs_client import job
from trainer.cloud.jobs_client import Jobs
from trainer.cloud.rehearsal import PROJECT, REGION

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
        ([], ": expected list or serve, or one of watch, logs and cancel with a job's number"),
        (["watch"], "watch: expected list or serve, or one of"),
        (["list", "1000"], "list 1000: expected list or serve, or one of"),
        (["stop", "1000"], "stop 1000: expected list or serve, or one of"),
        (["list", "--project=p"], "--region=: expected a region, such as us-central1"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments, message):
    ended = jobs(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"jobs.py: error: {message}" + ended.stderr.partition(message)[2]
    assert ended.stderr.count("\n") == 1


def test_endpoint_that_never_answers_is_named_after_some_seconds():
    # It takes connections and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer.jobs", "list", *PLACE, f"--api_endpoint=http://{host}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert select.select([process.stderr], [], [], 60)[0]
            line = process.stderr.readline()
            # The 5 s, and the start of the command on a busy machine.
            assert 5 <= time.monotonic() - started < 30
        finally:
            process.kill()
            process.communicate(timeout=20)
    assert line == (f"http://{host} has not answered for 5 s; waiting up to 150 s; Ctrl-C ends\n")


def test_endpoint_where_nobody_listens_is_named_too():
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "trainer.jobs",
            "logs",
            "1",
            *PLACE,
            f"--api_endpoint=http://{host}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert select.select([process.stderr], [], [], 60)[0]
        assert "has not answered for 5 s; waiting up to 180 s" in process.stderr.readline()
    finally:
        process.kill()
        process.communicate(timeout=20)


def test_what_answers_in_time_is_not_said_to_be_slow(service):
    ended = jobs("list", *PLACE, f"--api_endpoint={service.url}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("number", ["²", "1.0", "1/2", "1 OR true"])
def test_what_is_no_number_of_a_job_is_refused(number):
    ended = jobs("cancel", number, *PLACE, "--api_endpoint=http://127.0.0.1:1")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "expected the number of a job; whisker-jobs list shows them" in ended.stderr
