"""The pods of several workers on Kubernetes, as processes with exactly the commands and variables
of the manifest that `whisker-submit` prints; host names, which a cluster resolves, stand for ports
of this machine.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from google.cloud import storage

from tests.trained_model import write_pictures
from tests.trainer.test_workers import Processes, free_addresses

ROOT = Path(__file__).parents[2]
DEADLINE_S = 250
WORKERS = 2


def printed(*arguments):
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "trainer.submit", "--dry_run", "--platform=kubernetes"),
            *("--image_uri=example.dev/t@sha256:0a", f"--workers={WORKERS}", "--accelerator="),
            *arguments,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    *_, job = yaml.safe_load_all(ended.stdout)
    return job


def environment(container, index):
    """What a container of a pod finds, by Kubernetes' rules: in order, $(NAME) for what stands
    before, which stays as it is where there is none.
    """
    found = {}
    for each in container["env"]:
        if "value" in each:
            found[each["name"]] = re.sub(
                r"\$\((\w+)\)", lambda name: found.get(name[1], name[0]), each["value"]
            )
        else:
            path = each["valueFrom"]["fieldRef"]["fieldPath"]
            assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
            found[each["name"]] = str(index)
    return found


def action(job, code):
    """What the Job does about a pod that ends so."""
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
        if code in rule.get("onExitCodes", {}).get("values", []):
            return rule["action"]
    return "Count"


class Pods(Processes):
    """All pods of a Job; ended when the block is left."""

    def __init__(self, job, folder):
        spec = job["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        name = job["metadata"]["name"]
        addresses = free_addresses(WORKERS)
        (port,) = (each["containerPort"] for each in container["ports"])
        program, *rest = container["command"]
        assert program == "python"
        self.logs = [folder / f"log{index}" for index in range(WORKERS)]
        self.processes = []
        for index, log in enumerate(self.logs):
            home = folder / f"home{index}"
            home.mkdir(exist_ok=True)
            given = environment(container, index)
            for other, address in enumerate(addresses):
                # JOB-INDEX is a pod's host name, the subdomain its service's name.
                host = f"{name}-{other}.{spec['subdomain']}:{port}"
                assert host in given["TF_CONFIG"]
                given["TF_CONFIG"] = given["TF_CONFIG"].replace(host, address)
            with log.open("w") as output:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *rest, *container["args"]],
                        cwd=home,
                        env={
                            "PATH": os.environ["PATH"],
                            "HOME": str(home),
                            # Of the image, and of this machine's bucket.
                            "PYTHONPATH": str(ROOT),
                            "PYTHONUNBUFFERED": "1",
                            "STORAGE_EMULATOR_HOST": os.environ["STORAGE_EMULATOR_HOST"],
                            **given,
                        },
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )

    def text(self):
        return "".join(log.read_text() for log in self.logs)

    def wait_for(self, line):
        deadline = time.monotonic() + DEADLINE_S
        while line not in self.logs[0].read_text():
            assert all(process.poll() is None for process in self.processes), self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.01)

    def exit_codes(self):
        deadline = time.monotonic() + DEADLINE_S
        return [process.wait(max(deadline - time.monotonic(), 0)) for process in self.processes]


@pytest.fixture
def job(bucket, tmp_path):
    pictures = write_pictures(tmp_path / "pictures", per_class=60)
    with storage.Client(project="test") as client:
        for path in pictures.rglob("*.jpg"):
            name = f"pictures/{path.relative_to(pictures)}"
            client.bucket(bucket).blob(name).upload_from_filename(path, timeout=60)
    return printed(
        f"--data=gs://{bucket}/pictures",
        f"--run_dir=gs://{bucket}/run",
        f"--model_dir=gs://{bucket}/models",
        *("--gate=off", "--image_size=32", "--batch_size=16", "--epochs=4", "--early_stopping=0"),
    )


@pytest.mark.long
@pytest.mark.timeout(900)
def test_worker_that_is_killed_makes_all_begin_again_and_the_job_ends_with_a_version(
    job, bucket, tmp_path
):
    with Pods(job, tmp_path) as pods:
        pods.wait_for("epoch 1/4")
        pods.processes[1].kill()
        chief, killed = pods.exit_codes()
    # What is killed counts against the Job's restarts; what follows from it does not.
    assert (killed, action(job, 128 + signal.SIGKILL)) == (-signal.SIGKILL, "Count")
    assert action(job, chief) == "Ignore", pods.text()
    with Pods(job, tmp_path) as pods:
        codes = pods.exit_codes()
    assert codes == [0, 0], pods.text()
    assert "resuming" in pods.logs[0].read_text()
    with storage.Client(project="test") as client:
        assert client.bucket(bucket).blob("models/models.config").exists(timeout=60)


@pytest.mark.long
def test_chief_that_is_taken_away_when_training_is_over_is_not_left_alone(job, tmp_path):
    with Pods(job, tmp_path) as pods:
        pods.wait_for("exporting the model")
        pods.processes[0].terminate()
        codes = pods.exit_codes()
    assert codes[0] == 128 + signal.SIGTERM, pods.text()
    # It has waited for the chief, and begins again beside it.
    assert [action(job, code) for code in codes] == ["Ignore", "Ignore"], pods.text()
    with Pods(job, tmp_path) as pods:
        codes = pods.exit_codes()
    assert codes == [0, 0], pods.text()
