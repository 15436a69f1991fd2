"""A run is sent once, from buckets of its region."""

import datetime

import pytest
from google.cloud.aiplatform_v1.types import CustomJob

from tests.trained_model import logged
from trainer.cloud import Submission, send
from trainer.cloud.jobs_client import Jobs
from trainer.cloud.rehearsal import PROJECT, REGION
from trainer.cloud.send import is_near, needed, require_near
from trainer.config import Config
from trainer.errors import CloudError, ConfigError
from whisker_ml.errors import BucketMissingError


def permissions(**asked):
    image = "example.dev/t:1"
    return list(
        needed(
            Submission(dry_run=True, image_uri=image, project="p", region="us-central1", **asked)
        )
    )


def names(**asked):
    return {name for _, name, _, _ in permissions(**asked)}


def test_permissions_are_those_of_what_is_asked_for():
    least = names()
    assert "aiplatform.customJobs.create" in least
    assert names(service_account="w@p.iam.gserviceaccount.com") - least == {
        "iam.serviceAccounts.actAs"
    }
    assert names(build="docker") - least == {"artifactregistry.repositories.uploadArtifacts"}
    # Cloud Build is called, as the builder, with sources in a bucket, and the digest looked up.
    assert names(build="cloudbuild") - names(build="docker") == {
        "artifactregistry.tags.get",
        "cloudbuild.builds.create",
        "cloudbuild.builds.get",
        "iam.serviceAccounts.actAs",
        "logging.logEntries.create",
    }
    assert {who for who, name, _, _ in permissions(build="docker") if "upload" in name} == {"you"}


def test_interrupt_while_sending_says_that_the_job_may_be_there(service, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Jobs, "submit", interrupted)
    asked = Submission(
        project=PROJECT,
        region=REGION,
        image_uri="example.dev/t@sha256:0a",
        machine="e2-standard-8",
        accelerator="",
        api_endpoint=service.url,
    )
    with (
        logged() as lines,
        pytest.raises(
            CloudError,
            match="the job may be there; see whisker-jobs list --project=my-project",
        ),
    ):
        send.send(asked, Config(), [])
    assert lines == [], "nothing was sent"


@pytest.mark.parametrize(
    ("location", "region", "near"),
    [
        ("US-CENTRAL1", "us-central1", True),
        ("US-CENTRAL1", "us-east1", False),
        ("US", "us-west4", True),
        ("EU", "europe-west4", True),
        ("EU", "us-central1", False),
        ("ASIA", "asia-east1", True),
        ("NAM4", "us-central1", None),
    ],
)
def test_location_holds_a_region_or_not_or_nobody_knows(location, region, near):
    assert is_near(location, region) is near


def test_bucket_of_the_region_passes_and_one_elsewhere_is_refused(bucket):
    # The emulator's buckets are all in one place.
    with logged() as lines:
        require_near([f"gs://{bucket}/a", f"gs://{bucket}/b"], "us-central1")
    assert lines == []
    with pytest.raises(
        ConfigError, match=f"gs://{bucket} is in US-CENTRAL1 and the job in us-east1: every byte"
    ):
        require_near([f"gs://{bucket}/pictures"], "us-east1")


def test_bucket_that_is_not_there_is_refused(bucket):
    with pytest.raises(BucketMissingError, match="there is no such bucket"):
        require_near([f"gs://{bucket}-gone/pictures"], "us-central1")


def test_cost_counts_the_hours_of_every_worker_that_has_started():
    start = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    job = CustomJob(
        job_spec={"worker_pool_specs": [{"replica_count": 1}, {"replica_count": 3}]},
        start_time=start,
        end_time=start + datetime.timedelta(hours=2),
    )
    assert send._cost(job, 2.5) == "  about 20.00 so far"
    assert send._cost(job, 0.0) == send._cost(CustomJob(), 2.5) == ""
