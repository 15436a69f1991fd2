import dataclasses
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import time

import pytest
import yaml
from google.cloud.aiplatform_v1.types import CustomJobSpec
from google.protobuf import json_format

from trainer.cloud import rehearsal
from trainer.config import Config

IMAGE = "--image_uri=example.dev/p/r/trainer@sha256:0a"

# Runs the console script in a process that any look-up or connection ends at once, without the
# packages `missing`.
OFFLINE = """
import os, sys
network = ("socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, _: os._exit(99) if event in network else None)
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
# A namespace package may be there from the start.
for name in list(sys.modules):
    if any(f"{{name}}.".startswith(f"{{one}}.") for one in {missing!r}):
        del sys.modules[name]
sys.argv[0] = "whisker-submit"
from trainer.submit import main
main()
"""


def submit(*arguments, missing=(), home="/nonexistent"):
    return subprocess.run(
        [sys.executable, "-c", OFFLINE.format(missing=missing), *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def another_value(setting):
    """A value of a setting that is not its default and that a job in the cloud can have."""
    if setting.name in ("data", "base_weights", "exclude", "run_dir", "model_dir"):
        return "gs://bucket/x"
    special = {
        "split": "70,15,15",
        "gpus": "0",
        "learning_rate": "cosine:0.01",
        "profile_steps": "3,5",
        "image_size": 64,
    }
    if setting.name in special:
        return special[setting.name]
    if setting.metadata["choices"]:
        return next(
            choice for choice in reversed(setting.metadata["choices"]) if choice != setting.default
        )
    if isinstance(setting.default, bool):
        return not setting.default
    # Two more: 0 epochs are none.
    return setting.default + ("x" if isinstance(setting.default, str) else 2)


@pytest.fixture(scope="module")
def dry_run_with_every_flag():
    values = {setting.name: another_value(setting) for setting in dataclasses.fields(Config)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished = submit("--dry_run", IMAGE, *(f"--{name}={value}" for name, value in values.items()))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return values, finished, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_dry_run_without_credentials_and_network_prints_a_spec_that_the_service_message_takes(
    dry_run_with_every_flag,
):
    _, finished, _ = dry_run_with_every_flag
    assert (finished.returncode, finished.stderr) == (0, "")
    message = CustomJobSpec()
    json_format.ParseDict(yaml.safe_load(finished.stdout), CustomJobSpec.pb(message))
    assert message.worker_pool_specs[0].machine_spec.machine_type == "g2-standard-8"


def test_dry_run_forwards_every_flag_of_the_trainer_unchanged(dry_run_with_every_flag):
    values, finished, _ = dry_run_with_every_flag
    arguments = yaml.safe_load(finished.stdout)["workerPoolSpecs"][0]["containerSpec"]["args"]
    forwarded = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    expected = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
    }
    assert forwarded == expected


def test_dry_run_needs_less_than_three_seconds_of_processor(dry_run_with_every_flag):
    # Time of the processor, not of the clock: other tests may be running beside this one.
    assert dry_run_with_every_flag[2] < 3.0


def test_first_line_says_how_to_send_and_flags_left_out_are_not_forwarded():
    finished = submit("--dry_run", IMAGE, "--display_name=first try")
    first, *_ = finished.stdout.splitlines()
    assert first.startswith("# Saved as job.yaml, sent by: gcloud ai custom-jobs create ")
    assert "--display-name='first try'" in first
    assert yaml.safe_load(finished.stdout)["workerPoolSpecs"][0]["containerSpec"]["args"] == [
        "--require_gpu=true"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([IMAGE], "--project=: expected the id or number of a Google Cloud project"),
        (
            ["--project=p", "--region=us-central1", "--image_uri=example.dev/t:1"],
            "--image_uri=example.dev/t:1: a tag can come to mean another image; give it by digest",
        ),
        ([IMAGE, "--platform=kubernetes"], "--platform=kubernetes: sending is kubectl's"),
        (
            ["--dry_run", IMAGE, "--platform=slurm"],
            "--platform=slurm: expected one of vertex, kubernetes",
        ),
        (
            ["--dry_run", IMAGE, "--spot"],
            "--spot: a job whose machine was taken away resumes in its run folder",
        ),
        (["--dry_run", IMAGE, "--max_cost=3"], "--max_cost=3 without --price_per_hour"),
        (
            ["--dry_run", IMAGE, "--build=docker"],
            f"{IMAGE}: with --build=docker expected a name and a tag",
        ),
        (["--dry_run"], "--image_uri=: expected the image that holds the trainer"),
        (
            ["--dry_run", IMAGE, "--data=pictures"],
            "--data=pictures: a job in the cloud cannot reach this machine's files",
        ),
        (["--dry_run", "--image_uri=--help:1", "--build=docker"], "--image_uri=--help:1: expected"),
        (
            ["--dry_run", IMAGE, "--max_hours=9999999", "--workers=99999999"],
            "--workers=99999999: expected 1 to 100",
        ),
        (
            ["--dry_run", IMAGE, "--machine=a4x-highgpu-4g", "--accelerator=NVIDIA_GB200"],
            "--machine=a4x-highgpu-4g --accelerator=NVIDIA_GB200: the processors there are Arm",
        ),
        (["--dry_run", IMAGE, "--epochs=0"], "--epochs=0: expected at least 1"),
        (["--dry_run", IMAGE, "pictures"], "pictures is not a flag"),
        (["--dry_run", IMAGE, "--no_such_flag=1"], "Unknown command line flag 'no_such_flag'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments, message):
    finished = submit(*arguments)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.count("\n") == 1
    assert f"error: {message}" in finished.stderr


def test_dry_run_says_what_ends_the_job_what_it_needs_and_what_nobody_checked():
    finished = submit(
        "--dry_run",
        "--image_uri=example.dev/p/r/trainer:mine",
        "--build=docker",
        "--machine=n1-standard-8",
        "--accelerator=NVIDIA_TESLA_T4",
        "--price_per_hour=2",
        "--max_cost=9",
    )
    comments = [
        line.removeprefix("# ") for line in finished.stdout.splitlines() if line.startswith("# ")
    ]
    assert "Ended after 4.50 h, by --max_cost: 9 / (1 worker × 2 an hour)." in comments
    assert any(
        line.startswith("Built first: docker push example.dev/p/r/trainer:mine")
        for line in comments
    )
    assert "- that n1-standard-8 exists and takes NVIDIA_TESLA_T4 in this number" in comments
    assert any(line.startswith("Note: the image is named by a tag") for line in comments)
    assert any(line.startswith("Note: without --run_dir=gs://") for line in comments)
    assert any(
        line.startswith("- aiplatform.customJobs.create  you, to send the job  docs.cloud")
        for line in comments
    )
    assert yaml.safe_load(finished.stdout)["scheduling"] == {"timeout": "16200s"}


def test_dry_run_for_kubernetes_prints_a_plain_job():
    finished = submit("--dry_run", IMAGE, "--platform=kubernetes", "--run_dir=gs://b/r", "--spot")
    assert finished.stdout.startswith(
        "# Saved as job.yaml, sent by: kubectl create --filename=job.yaml\n"
    )
    job = yaml.safe_load(finished.stdout)
    assert (job["kind"], job["spec"]["activeDeadlineSeconds"]) == ("Job", 86400)


@pytest.mark.parametrize(
    "missing", ["yaml", "google.cloud.aiplatform_v1", "google.cloud", "google"]
)
def test_missing_extra_is_named_in_one_line(missing):
    finished = submit("--dry_run", IMAGE, missing=[missing])
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.count("\n") == 1
    assert (
        f"the package {missing} is not installed: this command needs the extra 'cloud'"
        in finished.stderr
    )


def test_help_lists_the_flags_without_the_extra():
    finished = submit("--help", missing=["yaml", "google"])
    assert finished.returncode == 0
    for flag in (
        "--dry_run",
        "--image_uri",
        "--machine",
        "--accelerator",
        "--workers",
        "--spot",
        "--max_cost",
        "--variant",
    ):
        assert f"\n  {flag}=" in finished.stdout


SENT = [
    f"--project={rehearsal.PROJECT}",
    f"--region={rehearsal.REGION}",
    IMAGE,
    "--machine=e2-standard-8",
    "--accelerator=",
    "--max_hours=2",
    "--price_per_hour=1.5",
]


def send(service, *arguments, environment=None):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "trainer.submit",
            *SENT,
            f"--api_endpoint={service.url}",
            *arguments,
        ],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_on_a_terminal_the_job_is_watched_and_an_interrupt_can_cancel_it(service):
    service.script = (rehearsal.RUNNING,)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.submit", *SENT, f"--api_endpoint={service.url}"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = ""

    def read_until(text):
        nonlocal seen
        deadline = time.monotonic() + 60
        while text not in seen:
            left = deadline - time.monotonic()
            assert left > 0, seen
            if select.select([ours], [], [], left)[0]:
                seen += os.read(ours, 4096).decode()

    try:
        read_until("running  about 0.00 so far")
        process.send_signal(signal.SIGINT)
        read_until("cancel the job? [y/N]")
        os.write(ours, b"y\n")
        read_until(
            "error: the job cancelled: the user cancelled it; its log: whisker-jobs logs 1000"
        )
        assert process.wait(20) == 2
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    (job,) = service.jobs
    assert job.state == rehearsal.CANCELLED
    assert job.job_spec.scheduling.timeout.total_seconds() == 7200
    assert "ended by the service after 2 h, by --max_hours, 3.00 at most for 1 worker" in seen


def test_without_a_terminal_the_job_is_sent_once_and_the_way_back_is_said(service):
    first, second = send(service), send(service, "--detach")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    name = service.jobs[0].name
    back = (
        "watch it with whisker-jobs watch 1000 --project=my-project --region=us-central1"
        f" --api_endpoint={service.url}"
    )
    assert first.stdout.splitlines()[0] == f"sent {name}, example.dev/p/r/trainer@sha256:0a"
    assert second.stdout.startswith(f"not sent again: the same run is {name} (pending, of 20")
    assert first.stdout.splitlines()[-1] == second.stdout.splitlines()[-1] == back
    assert len(service.jobs) == 1


def test_bucket_in_another_region_is_refused_before_anything_is_sent(service, bucket, gcs_emulator):
    ended = send(
        service,
        f"--run_dir=gs://{bucket}/r",
        "--region=europe-west4",
        environment={"STORAGE_EMULATOR_HOST": gcs_emulator},
    )
    assert (ended.returncode, ended.stdout, service.calls) == (2, "", [])
    assert f"error: gs://{bucket} is in US" in ended.stderr
