"""The job service of `whisker-jobs serve` as tests need it: it refuses what the real service
refuses, fails when it is told to, and can go through states without running anything.
"""

import json
import re
from collections import deque

from google.cloud.aiplatform_v1 import types
from google.cloud.aiplatform_v1.types import JobState
from google.logging.type.log_severity_pb2 import LogSeverity
from google.protobuf import any_pb2, json_format
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from trainer.cloud import rehearsal, require_possible
from trainer.cloud.rehearsal import (
    CANCELLED,
    CANCELLING,
    PENDING,
    RUNNING,
    SUCCEEDED,
    move,
)
from trainer.errors import ConfigError

QUEUED = JobState.JOB_STATE_QUEUED
_PAGE = 2

SERVICE_DISABLED = any_pb2.Any()
SERVICE_DISABLED.Pack(
    error_details_pb2.ErrorInfo(
        reason="SERVICE_DISABLED",
        domain="googleapis.com",
        metadata={"service": "aiplatform.googleapis.com"},
    )
)

# What the service refuses and its message types let through: from the descriptions of CustomJob,
# CustomJobSpec and Scheduling in google-cloud-aiplatform 2.7.0, and
# docs.cloud.google.com/vertex-ai/docs/training/distributed-training, read on 2026-11-22.
_LABEL_TEXT = re.compile(r"[\w-]{0,63}")
_MOST_POOLS = 4


def require_acceptable(spec):
    """Refuses a job that the service refuses, or runs otherwise than meant.

    Args:
        spec: fields of a CustomJobSpec in camelCase, which its message type takes.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    pools = spec.get("workerPoolSpecs", [])
    if not 1 <= len(pools) <= _MOST_POOLS:
        raise ConfigError(
            f"workerPoolSpecs: expected 1 to {_MOST_POOLS} pools, received {len(pools)}"
        )
    for number, pool in enumerate(pools):
        if pool or number == 0:
            _require_pool(number, pool)
    account = spec.get("serviceAccount", "")
    if account and not (account.endswith(".gserviceaccount.com") and account.count("@") == 1):
        raise ConfigError(
            f"--service_account={account}: expected an address such as"
            " name@project.iam.gserviceaccount.com"
        )
    if spec.get("tensorboard") and not account:
        raise ConfigError(
            "tensorboard: the service writes there as a service account; give --service_account"
        )


def _require_pool(number, pool):
    replicas = int(pool.get("replicaCount", 0))
    if number == 0 and replicas != 1:
        raise ConfigError(
            f"workerPoolSpecs[0]: expected one replica, the chief, received {replicas}; others go"
            " in pool 1"
        )
    if replicas < 1:
        raise ConfigError(
            f"workerPoolSpecs[{number}]: expected at least one replica, or an empty pool"
        )
    if not pool.get("containerSpec", {}).get("imageUri"):
        raise ConfigError(f"workerPoolSpecs[{number}]: no image; give --image_uri")
    machine = pool.get("machineSpec", {})
    require_possible(
        machine.get("machineType", ""),
        machine.get("acceleratorType", ""),
        int(machine.get("acceleratorCount", 0)),
    )


def require_labels(labels):
    """Refuses labels that the service refuses.

    Raises:
        ConfigError: the first that is wrong.
    """
    for key, value in labels.items():
        for text in (key, value):
            if not _LABEL_TEXT.fullmatch(text) or text != text.lower():
                raise ConfigError(
                    f"label {key}={value}: expected at most 63 lowercase letters, digits, dashes"
                    " and underscores"
                )


class JobService(rehearsal.JobService):
    """Keeps jobs and answers calls about them.

    Args:
        run: whether commands are run; otherwise a job goes through the states that `script` says.
        environment: of the commands, besides what the service sets.

    Attributes:
        calls: names of the methods that were called, in order.
        script: states that the next jobs go through, one for each look at them.
    """

    def __init__(self, *, run=False, environment=None):
        self.calls = []
        self.script = (QUEUED, RUNNING, SUCCEEDED)
        self._runs = run
        self._scripts = {}
        self._failures = {}
        self._metadata = {}
        super().__init__(environment=environment)

    @property
    def jobs(self):
        """Every job, in the order of their creation."""
        return [kept.job for kept in self._kept.values()]

    def fail(self, method, code, details="", *, info=None, carried_out=False, times=1):
        """Lets the next calls of a method fail; `carried_out`: only the answer is lost."""
        self._failures.setdefault(method, deque()).extend(
            [(code, details, info, carried_out)] * times
        )

    def _answer(self, method, request, context):
        name = type(request).__name__.removesuffix("Request")
        self.calls.append(name)
        self._metadata = dict(context.invocation_metadata())
        failures = self._failures.get(name)
        code, details, info, carried_out = (
            failures.popleft() if failures else (None, "", None, True)
        )
        reply = super()._answer(method, request, context) if carried_out else None
        if code is None:
            return reply
        status = status_pb2.Status(
            code=code.value[0], message=details, details=[info] if info else []
        )
        return context.abort_with_status(rpc_status.to_status(status))

    def _create(self, request):
        job = super()._create(request)
        # By this header the real service finds the region.
        header = self._metadata.get("x-goog-request-params", "")
        try:
            if header.replace("%2F", "/") != f"parent={request.parent}":
                raise ConfigError(f"routing header {header!r}")
            require_acceptable(json_format.MessageToDict(types.CustomJobSpec.pb(job.job_spec)))
            require_labels(dict(job.labels))
            if not 1 <= len(job.display_name) <= 128:
                raise ConfigError("display_name")
        except ConfigError as error:
            self._kept.popitem()
            raise ValueError(str(error)) from error
        self._scripts[job.name] = deque(self.script)
        return job

    def _list(self, request):
        found = super()._list(request).custom_jobs
        start = int(request.page_token or 0)
        return types.ListCustomJobsResponse(
            custom_jobs=found[start : start + _PAGE],
            next_page_token=str(start + _PAGE) if len(found) > start + _PAGE else "",
        )

    def _entries(self, request):
        answer = super()._entries(request)
        for entry in answer.entries:
            # Cloud Logging takes a line of JSON apart.
            if entry.text_payload.startswith('{"severity"'):
                content = json.loads(entry.text_payload)
                entry.severity = LogSeverity.Value(content.pop("severity"))
                entry.json_payload = content
        return answer

    def _get(self, request):
        job = super()._get(request)
        states = self._scripts[job.name]
        if not self._runs and job.state == CANCELLING:
            move(job, CANCELLED)
        elif not self._runs and job.state in (PENDING, QUEUED, RUNNING) and states:
            move(job, states.popleft(), 2)
        return job

    def _run(self, kept):
        if self._runs:
            super()._run(kept)
