"""The real client against a local job service, over gRPC."""

import json
from contextlib import closing

import grpc
import pytest

from tests.trained_model import logged
from tests.trainer.cloud.job_service import QUEUED, SERVICE_DISABLED, JobService
from trainer.cloud import jobs_client, rehearsal, send, specification
from trainer.cloud.jobs_client import Jobs
from trainer.cloud.rehearsal import PROJECT, REGION
from trainer.errors import CloudError, ConfigError, SignInError, UnreachableError

Code = grpc.StatusCode

SPEC = {
    "workerPoolSpecs": [
        {
            "machineSpec": {"machineType": "e2-standard-8"},
            "replicaCount": 1,
            "containerSpec": {"imageUri": "example.dev/t@sha256:0a", "command": ["true"]},
        }
    ]
}


@pytest.fixture
def jobs(service):
    return Jobs(PROJECT, REGION, service.url)


def job(spec=SPEC, name="whisker"):
    return jobs_client.CustomJob(
        display_name=name,
        job_spec=specification.require_message(spec),
        labels=specification.labels(spec, name),
    )


def watch(jobs, name, *, ask=None, pause=lambda _: None, price=0.0):
    with logged() as lines:
        code = send.watch(jobs, name, price_per_hour=price, ask=ask, pause=pause)
    return code, lines


def test_same_job_is_made_once_and_another_once_more(service, jobs):
    first, new = jobs.submit(job())
    again, new_again = jobs.submit(job())
    assert (new, new_again, again.name) == (True, False, first.name)
    assert jobs.submit(job(name="other"))[1]
    assert len(service.jobs) == 2


def test_job_that_failed_may_be_sent_again(service, jobs):
    service.script = (rehearsal.FAILED,)
    jobs.get(jobs.submit(job())[0].name)
    assert jobs.submit(job())[1]
    assert len(service.jobs) == 2


def test_answer_that_is_lost_makes_no_second_job(service, jobs):
    service.fail("CreateCustomJob", Code.UNAVAILABLE, carried_out=True)
    made, new = jobs.submit(job())
    assert new
    assert [each.name for each in service.jobs] == [made.name]
    assert service.calls == ["ListCustomJobs", "CreateCustomJob", "ListCustomJobs"]


def test_answer_that_is_lost_at_the_last_attempt_is_looked_for(service, jobs):
    service.fail("CreateCustomJob", Code.UNAVAILABLE, times=2)
    service.fail("CreateCustomJob", Code.DEADLINE_EXCEEDED, carried_out=True)
    assert jobs.submit(job()) == (service.jobs[0], True)


def test_request_that_is_lost_is_sent_again(service, jobs):
    service.fail("CreateCustomJob", Code.UNAVAILABLE)
    assert jobs.submit(job())[1]
    assert len(service.jobs) == 1


def test_service_that_stays_away_is_given_up_with_nothing_started(service, jobs):
    service.fail("CreateCustomJob", Code.UNAVAILABLE, times=3)
    with pytest.raises(
        UnreachableError,
        match="my-project: the job service did not answer 3 times, and has no such job",
    ):
        jobs.submit(job())
    assert service.jobs == []


@pytest.mark.parametrize(
    ("code", "details", "info", "error", "message"),
    [
        (
            Code.RESOURCE_EXHAUSTED,
            "Quota exceeded: L4",
            None,
            CloudError,
            "Quota exceeded: L4; ask for more of this",
        ),
        (
            Code.PERMISSION_DENIED,
            "customJobs.create denied",
            None,
            CloudError,
            "denied; grant just this permission",
        ),
        (
            Code.PERMISSION_DENIED,
            "Vertex AI API has not been used in project",
            SERVICE_DISABLED,
            CloudError,
            (
                "my-project: the API is not enabled; run gcloud services enable"
                " aiplatform.googleapis.com --project=my-pro"
            ),
        ),
        (
            Code.UNAVAILABLE,
            (
                "Getting metadata from plugin failed with error: ('invalid_grant: Token has been"
                " expired or revoked.',)"
            ),
            None,
            SignInError,
            "there are no Google Cloud credentials that work",
        ),
        (
            Code.UNAUTHENTICATED,
            "invalid token",
            None,
            SignInError,
            "there are no Google Cloud credentials that work",
        ),
        (
            Code.INVALID_ARGUMENT,
            "image x is not found",
            None,
            CloudError,
            "image x is not found; fix what it names",
        ),
        (Code.NOT_FOUND, "no project", None, CloudError, "no project; check --project"),
    ],
)
def test_refusal_is_one_line_and_starts_nothing(service, jobs, code, details, info, error, message):
    service.fail("CreateCustomJob", code, details, info=info)
    with pytest.raises(error, match=message) as raised:
        jobs.submit(job())
    assert "\n" not in str(raised.value)
    assert service.jobs == []
    assert service.calls.count("CreateCustomJob") == 1


def test_service_checks_what_our_lint_would_have_found(service, jobs):
    spec = {"workerPoolSpecs": [SPEC["workerPoolSpecs"][0] | {"replicaCount": 2}]}
    with pytest.raises(CloudError, match="expected one replica, the chief, received 2; "):
        jobs.submit(job(spec))
    with pytest.raises(CloudError, match="is not found"):
        Jobs("other-project", REGION, service.url).submit(job())


def test_list_reads_every_page(jobs):
    for name in "abcde":
        jobs.submit(job(name=name))
    assert [send.describe(each).split()[0] for each in jobs.list()] == [
        "1000",
        "1001",
        "1002",
        "1003",
        "1004",
    ]


def test_watching_says_each_state_once_and_outlasts_lost_connections(service, jobs):
    service.script = (
        QUEUED,
        QUEUED,
        rehearsal.RUNNING,
        rehearsal.SUCCEEDED,
    )
    name = jobs.submit(job())[0].name
    service.fail("GetCustomJob", Code.UNAVAILABLE, times=2)
    code, lines = watch(jobs, name, price=3600.0)
    assert code == 0
    assert [line.split()[0] for line in lines] == ["queued", "running", "succeeded"]
    assert "so far" not in lines[0]
    assert lines[1].endswith(" so far")


def test_watched_job_that_fails_names_its_reason_and_its_log(service, jobs):
    service.script = (rehearsal.FAILED,)
    name = jobs.submit(job())[0].name
    with pytest.raises(CloudError) as error:
        watch(jobs, name)
    assert (
        str(error.value)
        == "the job failed: The replica workerpool0-0 exited with a non-zero status of 2.; its"
        " log: whisker-jobs logs 1000 --project=my-project --region=us-central1"
        f" --api_endpoint={service.url}"
    )


def test_token_that_expires_ends_watching_and_says_that_the_job_goes_on(service, jobs):
    name = jobs.submit(job())[0].name
    service.fail("GetCustomJob", Code.UNAUTHENTICATED)
    with pytest.raises(
        SignInError,
        match="credentials that work; .*the job may still run, come back with whisker-jobs watch",
    ):
        watch(jobs, name)


@pytest.mark.parametrize(("answer", "state"), [("y", "CANCELLED"), ("", "RUNNING")])
def test_interrupt_asks_whether_to_cancel(service, jobs, answer, state):
    service.script = (rehearsal.RUNNING,)
    name = jobs.submit(job())[0].name
    asked = []

    def interrupt(_):
        raise KeyboardInterrupt

    def ask(question):
        asked.append(question)
        return answer

    if answer:
        with pytest.raises(CloudError, match="the job cancelled: the user cancelled it"):
            watch(jobs, name, ask=ask, pause=interrupt)
    else:
        code, lines = watch(jobs, name, ask=ask, pause=interrupt)
        assert code == 130
        assert lines[1].startswith("the job still runs; come back with whisker-jobs watch 1000")
        assert lines[2].startswith("end it with whisker-jobs cancel 1000")
    assert asked == ["\ncancel the job? [y/N] "]
    assert service.jobs[0].state.name == f"JOB_STATE_{state}"


def test_command_runs_in_the_environment_that_the_service_sets_and_its_lines_are_the_log():
    lines = (
        "print(json.dumps(dict(os.environ))); print(json.dumps({'severity': 'WARNING', 'message':"
        " 'hot'}))"
    )
    pool = {
        "machineSpec": {"machineType": "e2-standard-8"},
        "replicaCount": 1,
        "containerSpec": {
            "imageUri": "example.dev/t@sha256:0a",
            "command": ["python", "-c", f"import json, os; {lines}"],
        },
    }
    spec = {"workerPoolSpecs": [pool, pool]}
    with closing(JobService(run=True)) as service:
        jobs = Jobs(PROJECT, REGION, service.url)
        name = jobs.submit(job(spec))[0].name
        assert watch(jobs, name)[0] == 0
        lines = list(jobs.log(name))
    chief = next(line for line in lines if "workerpool0-0" in line)
    assert any(line.endswith("  workerpool0-0  WARNING  hot") for line in lines)
    seen = json.loads(chief.partition("DEFAULT  ")[2])
    assert json.loads(seen["TF_CONFIG"])["task"] == {"type": "chief", "index": 0}
    assert list(json.loads(seen["TF_CONFIG"])["cluster"]) == ["chief", "worker"]


def test_plain_connection_leaves_this_machine_in_no_case():
    with pytest.raises(
        ConfigError,
        match="--api_endpoint=http://example.com: http:// is for a service on this machine",
    ):
        Jobs(PROJECT, REGION, "http://example.com")


def test_without_credentials_the_cure_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(
        SignInError,
        match="my-project: there are no Google Cloud credentials that work; run gcloud auth",
    ):
        Jobs(PROJECT, REGION)


def test_job_is_named_by_its_number(jobs):
    assert jobs.name("12") == "projects/my-project/locations/us-central1/customJobs/12"
    with pytest.raises(
        ConfigError, match="x: expected the number of a job; whisker-jobs list shows them"
    ):
        jobs.name("x")
