"""From the command line to a served version: submitted to a local job service, run as it would,
taken away, gone on.
"""

import json
import math
import re
import subprocess
import sys
import time
from contextlib import closing

import pytest

from serving.client.local_server import local_server
from serving.client.predict_client import PredictClient
from tests.trained_model import draw, logged, write_pictures
from tests.trainer.cloud.job_service import JobService
from trainer.cloud import Submission, send, specification
from trainer.cloud.jobs_client import CustomJob, Jobs
from trainer.cloud.rehearsal import PROJECT, REGION
from trainer.errors import CloudError
from whisker_ml import storage

DEADLINE_S = 120
EPOCHS = 30


def command(module, *arguments):
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def epochs_done(run_dir):
    return len(storage.read(f"{run_dir}/metrics.jsonl")[0].splitlines())


@pytest.mark.long
def test_submitted_run_that_is_taken_away_goes_on_and_its_version_is_served(
    bucket, gcs_emulator, tmp_path
):
    root = f"gs://{bucket}"
    storage.upload_folder(write_pictures(tmp_path / "pictures", per_class=60), f"{root}/pictures")
    place = [f"--project={PROJECT}", f"--region={REGION}"]
    environment = {"STORAGE_EMULATOR_HOST": gcs_emulator, "HOME": str(tmp_path)}
    with closing(JobService(run=True, environment=environment)) as service:
        at = [*place, f"--api_endpoint={service.url}"]
        submission = [
            *at,
            "--image_uri=example.dev/p/r/trainer@sha256:0a",
            "--machine=e2-standard-8",
            "--accelerator=",
            "--spot",
            f"--data={root}/pictures",
            f"--run_dir={root}/run",
            f"--model_dir={root}/models",
            "--image_size=32",
            "--batch_size=4",
            f"--epochs={EPOCHS}",
        ]
        assert "sent projects/" in command("trainer.submit", *submission)
        assert "not sent again: the same run is projects/" in command("trainer.submit", *submission)
        (job,) = service.jobs

        jobs = Jobs(PROJECT, REGION, service.url)
        deadline = time.monotonic() + DEADLINE_S
        while epochs_done(f"{root}/run") < 3:
            assert time.monotonic() < deadline
            jobs.get(job.name)
        service.preempt("1000")
        with logged() as lines:
            while not lines:
                jobs.get(job.name)
        # A machine that is taken away leaves 25 s on Kubernetes, 30 s elsewhere. The checkpoint is
        # in the bucket.
        assert re.fullmatch(r"1000: ended with 143 after \d\.\d s, and starts again", lines[0])
        before = epochs_done(f"{root}/run")
        assert before < EPOCHS

        watched = command("trainer.jobs", "watch", "1000", *at, "--price_per_hour=2")
        log = command("trainer.jobs", "logs", "1000", *at)
    result = json.loads(storage.read(f"{root}/run/result.json")[0])
    assert (result["model_version"], result["epochs"]) == (1, EPOCHS)
    steps = EPOCHS * math.ceil(sum(result["data"]["counts"]["train"].values()) / 4)
    assert watched.splitlines()[-1].startswith(
        f"succeeded  epoch {EPOCHS}  step {steps}  accuracy "
    )
    assert "pictures/s  about 0.0" in watched
    stopped, resumed = log.index("with a checkpoint"), log.index("resuming after epoch")
    assert stopped < resumed
    # Not a step is done twice.
    assert (
        log[:stopped].split("stopped after step ")[-1].split()[0]
        == log[resumed:].split("(step ")[1].split(")")[0]
    )

    with (
        local_server(model_config_file=f"{root}/models/models.config") as server,
        PredictClient(f"localhost:{server.port}", label="stable", timeout_s=30) as client,
    ):
        answer = client.predict(draw("cats", 4321))
    assert (answer.label, answer.model_version) == ("cats", 1)


@pytest.mark.long
def test_two_workers_take_their_folders_from_what_the_service_sets_and_the_chief_alone_publishes(
    bucket, gcs_emulator, tmp_path
):
    base = f"gs://{bucket}/out"
    storage.upload_folder(
        write_pictures(tmp_path / "pictures", per_class=40), f"gs://{bucket}/pictures"
    )
    asked = Submission(
        image_uri="example.dev/p/r/trainer@sha256:0a",
        machine="e2-standard-8",
        accelerator="",
        workers=2,
        dry_run=True,
    )
    arguments = [
        f"--data=gs://{bucket}/pictures",
        "--image_size=32",
        "--epochs=2",
        "--mixed_precision=none",
    ]
    spec = specification.custom_job(asked, arguments)
    # What the service sets where a job has a base output directory.
    environment = {
        "STORAGE_EMULATOR_HOST": gcs_emulator,
        "HOME": str(tmp_path),
        "AIP_MODEL_DIR": f"{base}/model/",
        "AIP_CHECKPOINT_DIR": f"{base}/checkpoints/",
        "AIP_TENSORBOARD_LOG_DIR": f"{base}/logs/",
    }
    with closing(JobService(run=True, environment=environment)) as service:
        jobs = Jobs(PROJECT, REGION, service.url)
        job, _ = jobs.submit(
            CustomJob(
                display_name="two",
                job_spec=specification.require_message(spec),
                labels=specification.labels(spec, "two"),
            )
        )
        lines = []
        try:
            with logged(lines):
                send.watch(jobs, job.name, price_per_hour=0.0, ask=None)
        except CloudError:
            pytest.fail("\n".join(jobs.log(jobs.name("1000"))))
        log = list(jobs.log(jobs.name("1000")))
    assert sum("published version 1" in line for line in log) == 1
    assert storage.list_names(f"{base}/model/whisker/1")
    assert any(name.startswith("step-") for name in storage.list_names(f"{base}/checkpoints"))
    events = [name for name in storage.list_names(f"{base}/logs") if "events.out" in name]
    assert events
    assert sorted(events) == [
        name for name in storage.list_names(f"{base}/tensorboard") if "events.out" in name
    ]
