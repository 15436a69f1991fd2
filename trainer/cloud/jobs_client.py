"""The client of the job service: which calls are made, how long each may take, what is retried, and
what went wrong.

A custom job has no request id by which the service could tell a repeated request: whoever makes one
looks for its label first.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.api_core import exceptions as api
from google.api_core.retry import Retry
from google.auth import exceptions as auth
from google.cloud.aiplatform_v1.services.job_service import JobServiceClient
from google.cloud.aiplatform_v1.services.job_service.transports import JobServiceGrpcTransport
from google.cloud.aiplatform_v1.types import CustomJob, JobState
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from google.cloud.logging_v2.services.logging_service_v2.transports import (
    LoggingServiceV2GrpcTransport,
)
from google.cloud.logging_v2.types import ListLogEntriesRequest, LogEntry
from google.logging.type.log_severity_pb2 import LogSeverity

from trainer.cloud.specification import LABEL
from trainer.errors import CloudError, ConfigError, SignInError, UnreachableError
from whisker_ml.storage import SIGN_IN

logger = logging.getLogger(__name__)

# After so long without an answer a line says what is waited for.
_SILENCE_S = 5.0

ENDED = (
    JobState.JOB_STATE_SUCCEEDED,
    JobState.JOB_STATE_FAILED,
    JobState.JOB_STATE_CANCELLED,
    JobState.JOB_STATE_EXPIRED,
    JobState.JOB_STATE_PARTIALLY_SUCCEEDED,
)

# Jobs in these states do not keep the same run from being sent again.
_CAME_TO_NOTHING = ("JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED")


# How long one attempt may take, and for how long it is repeated, in seconds; 0: never. Creating is
# not repeated blindly: an attempt whose answer is lost may have made the job.
_DEADLINES_S = {
    "create_custom_job": (60.0, 0.0),
    "list_custom_jobs": (30.0, 120.0),
    "get_custom_job": (30.0, 300.0),
    "cancel_custom_job": (30.0, 120.0),
    "list_log_entries": (60.0, 120.0),
}
_CREATE_ATTEMPTS = 3

_LOST = (
    api.ServiceUnavailable,
    api.DeadlineExceeded,
    api.InternalServerError,
    api.Aborted,
    api.Unknown,
)

# How gRPC 1.85 says, as UNAVAILABLE, that the credentials gave no token.
_NO_TOKEN = "Getting metadata from plugin failed"  # noqa: S105

# What the libraries raise → what we raise, and what to do. The first row that fits counts.
_TABLE: tuple[tuple[tuple[type[Exception], ...], type[CloudError], str], ...] = (
    ((auth.DefaultCredentialsError, auth.RefreshError, api.Unauthorized), SignInError, SIGN_IN),
    (
        (api.Forbidden,),
        CloudError,
        "grant just this permission (--dry_run lists what is needed, and why)",
    ),
    (
        (api.TooManyRequests,),
        CloudError,
        "ask for more of this quota, or give another --region or --accelerator",
    ),
    (
        (auth.TransportError, api.RetryError, *_LOST),
        UnreachableError,
        "the job service does not answer; check the network and --region, and try again",
    ),
    ((api.NotFound,), CloudError, "check --project, --region and the job's number"),
    ((api.ClientError,), CloudError, "fix what it names and try again"),
)


class Jobs:
    """The jobs of a project in a region.

    Args:
        project: id or number.
        region: such as ``us-central1``.
        api_endpoint: host of the service; empty: the region's own; ``http://127.0.0.1:…``: without
            TLS or credentials.

    Raises:
        SignInError: there are no credentials.
    """

    def __init__(self, project: str, region: str, api_endpoint: str = "") -> None:
        self.project = project
        self.parent = f"projects/{project}/locations/{region}"
        self.api_endpoint = api_endpoint
        self._host = api_endpoint or f"{region}-aiplatform.googleapis.com"
        with mapped_errors(self.project):
            self._client = JobServiceClient(
                transport=_transport(JobServiceGrpcTransport, self.api_endpoint),
                client_options={"api_endpoint": self._host},
            )

    def submit(self, job: CustomJob) -> tuple[CustomJob, bool]:
        """Sends a job, unless the same is there already: waiting, at work, or done.

        Args:
            job: with the label that says what it runs.

        Returns:
            The job as the service has it, and whether it is a new one.

        Raises:
            CloudError: the service refuses; nothing was started.
            UnreachableError: it does not answer.
        """
        states = " AND ".join(f'state!="{state}"' for state in _CAME_TO_NOTHING)
        same = f"labels.{LABEL}={job.labels[LABEL]} AND {states}"
        lost: UnreachableError | None = None
        # The last time only to look: an attempt whose answer was lost may have made the job.
        for left in reversed(range(_CREATE_ATTEMPTS + 1)):
            if found := next(self.list(same), None):
                return found, lost is not None
            if left:
                try:
                    return self._call("create_custom_job", parent=self.parent, custom_job=job), True
                except UnreachableError as error:
                    lost = error
        raise UnreachableError(
            f"{self.project}: the job service did not answer {_CREATE_ATTEMPTS} times, and has no"
            " such job; the same command looks for it first"
        ) from lost

    def list(self, filter_: str = f"labels.{LABEL}:*") -> Iterator[CustomJob]:
        """Lists jobs that a filter lets through; by default all that Whisker sent."""
        with mapped_errors(self.project):
            request = {"parent": self.parent, "filter": filter_}
            yield from self._call("list_custom_jobs", request=request)

    def get(self, name: str) -> CustomJob:
        """Looks at a job."""
        return self._call("get_custom_job", name=name)

    def cancel(self, name: str) -> None:
        """Asks the service to end a job; one that has ended stays as it is."""
        self._call("cancel_custom_job", name=name)

    def log(self, name: str) -> Iterator[str]:
        """Reads what a job has written so far, oldest first. A service on this machine has the log
        too, for others Cloud Logging has it.

        Args:
            name: the job's full name.

        Yields:
            Lines of time (UTC), worker, severity and text.

        Raises:
            CloudError: the log cannot be read.
        """
        with mapped_errors(self.project):
            client = LoggingServiceV2Client(
                transport=_transport(LoggingServiceV2GrpcTransport, self.api_endpoint)
            )
            # As gcloud finds what a custom job writes (its source, command_lib/ai/log_util.py, read
            # on 2026-11-22).
            request = ListLogEntriesRequest(
                resource_names=[f"projects/{self.project}"],
                filter='(resource.type="ml_job" OR resource.type="cloudml_job") AND'
                f' resource.labels.job_id="{name.rpartition("/")[2]}"',
                order_by="timestamp asc",
            )
            host = self.api_endpoint or "logging.googleapis.com"
            entries = _call(client, host, "list_log_entries", request=request)
            yield from map(_line, entries)

    def name(self, job: str) -> str:
        """Full name of a job that is given by its number, or by its full name.

        Raises:
            ConfigError: it is neither.
        """
        if job.isascii() and job.isdecimal():
            return f"{self.parent}/customJobs/{job}"
        raise ConfigError(f"{job}: expected the number of a job; whisker-jobs list shows them")

    def command(self, verb: str, name: str) -> str:
        """The command line that does something with a job."""
        *_, region, _, number = name.split("/")
        endpoint = f" --api_endpoint={self.api_endpoint}" if self.api_endpoint else ""
        return f"whisker-jobs {verb} {number} --project={self.project} --region={region}{endpoint}"

    def _call(self, method: str, **arguments: Any) -> Any:
        with mapped_errors(self.project):
            return _call(self._client, self._host, method, **arguments)


def _call(client: Any, host: str, method: str, **arguments: Any) -> Any:
    """Calls a method of a library's client, with its deadline and retry."""
    timeout_s, retry_s = _DEADLINES_S[method]
    retry = Retry(
        lambda error: isinstance(error, _LOST) and _NO_TOKEN not in str(error),
        initial=0.5,
        maximum=20.0,
        timeout=retry_s,
    )
    with patience(host, timeout_s + retry_s):
        return getattr(client, method)(
            **arguments, timeout=timeout_s, retry=retry if retry_s else None
        )


@contextmanager
def patience(host: str, most_s: float) -> Iterator[None]:
    """Inside, a line says after a few seconds what is waited for, and for how long at most."""
    text = f"{host} has not answered for {_SILENCE_S:g} s; waiting up to {most_s:g} s; Ctrl-C ends"
    timer = threading.Timer(_SILENCE_S, logger.warning, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _transport(kind: Callable[..., Any], api_endpoint: str) -> Any:
    """How a client connects: without TLS to a service on this machine, else as it does by
    itself.

    Raises:
        ConfigError: it would leave this machine without TLS.
    """
    if not api_endpoint.startswith("http://"):
        return "grpc"
    address = urlsplit(api_endpoint)
    if address.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigError(
            f"--api_endpoint={api_endpoint}: http:// is for a service on this machine; give a"
            " host's name"
        )
    return kind(channel=grpc.insecure_channel(address.netloc))


@contextmanager
def mapped_errors(project: str) -> Iterator[None]:
    """Turns what the libraries raise inside into a CloudError of one line."""
    try:
        yield
    except (api.GoogleAPIError, auth.GoogleAuthError) as error:
        text = " ".join(str(getattr(error, "message", None) or error).split())
        if getattr(error, "reason", None) == "SERVICE_DISABLED":
            # google.rpc.ErrorInfo: the same for every service of Google's.
            service = (error.metadata or {}).get("service", "aiplatform.googleapis.com")
            raise CloudError(
                f"{project}: the API is not enabled; run gcloud services enable {service}"
                f" --project={project}"
            ) from error
        if _NO_TOKEN in text:
            raise SignInError(f"{project}: {SIGN_IN}") from error
        for kinds, ours, remedy in _TABLE:
            if isinstance(error, kinds):
                raise ours(
                    f"{project}: {text}; {remedy}" if ours is CloudError else f"{project}: {remedy}"
                ) from error
        raise CloudError(f"{project}: {text}") from error


def _line(entry: LogEntry) -> str:
    worker = entry.resource.labels.get("task_name", "")
    payload = entry.json_payload
    text = payload.get("message", dict(payload)) if payload else entry.text_payload
    severity = LogSeverity.Name(entry.severity)
    time = f"{entry.timestamp:%Y-%m-%d %H:%M:%S}"
    return f"{time}  {worker or 'service'}  {severity}  {text}".rstrip()
