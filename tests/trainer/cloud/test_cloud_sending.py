import pytest

from tests.trained_model import logged
from tests.trainer.cloud.job_service import PROJECT, REGION
from trainer.cloud import send
from trainer.cloud.jobs_client import Jobs
from trainer.cloud.machines import needed
from trainer.cloud.submission import Submission
from trainer.config import Config
from trainer.errors import CloudError


def names(**asked):
    return {
        permission.name for permission in needed(**({"service_account": "", "build": ""} | asked))
    }


def test_permissions_are_those_of_what_is_asked_for():
    least = names()
    assert "aiplatform.customJobs.create" in least
    assert names(service_account="w@p.iam.gserviceaccount.com") - least == {
        "iam.serviceAccounts.actAs"
    }
    assert names(build="docker") - least == {"artifactregistry.repositories.uploadArtifacts"}
    assert names(build="cloudbuild") - names(build="docker") == {"cloudbuild.builds.create"}


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
            match="the job may be there; see python -m trainer.jobs list --project=my-project",
        ),
    ):
        send.send(asked, Config(), [])
    assert lines == [], "nothing was sent"
