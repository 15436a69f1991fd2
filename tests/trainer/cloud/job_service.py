"""A job service on loopback: the real messages over gRPC, the states of a job, and its command run
in processes.

It does what the descriptions of JobService, CustomJob and CustomJobSpec say. It has no images and
no machines. Cloud Logging's ListLogEntries is answered on the same port, from what the commands
printed.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent import futures
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
from google.cloud.aiplatform_v1 import types
from google.cloud.aiplatform_v1.types import JobState
from google.cloud.logging_v2.types import ListLogEntriesRequest, ListLogEntriesResponse, LogEntry
from google.logging.type.log_severity_pb2 import LogSeverity
from google.protobuf import any_pb2, empty_pb2, json_format
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from trainer.cloud.machines import require_possible
from trainer.errors import ConfigError

ROOT = Path(__file__).parents[3]
PROJECT, PROJECT_NUMBER, REGION = "my-project", "123456789", "us-central1"
PARENT = f"projects/{PROJECT}/locations/{REGION}"
_ENDED_WITHIN_S = 30
_PAGE = 2

PENDING, QUEUED, RUNNING = (
    JobState.JOB_STATE_PENDING,
    JobState.JOB_STATE_QUEUED,
    JobState.JOB_STATE_RUNNING,
)
SUCCEEDED, FAILED = JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_FAILED
CANCELLING, CANCELLED = JobState.JOB_STATE_CANCELLING, JobState.JOB_STATE_CANCELLED

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


@dataclass
class _Kept:
    """A job, the states still to come where nothing is run, and its processes otherwise."""

    job: types.CustomJob
    states: deque | None
    processes: list = field(default_factory=list)
    readers: list = field(default_factory=list)
    entries: list = field(default_factory=list)


class JobService:
    """Keeps jobs and answers calls about them.

    Args:
        run: whether commands are run; otherwise a job goes through the states that `script` says.
        environment: of the commands, besides what the service sets.

    Attributes:
        url: for --api_endpoint.
        calls: names of the methods that were called, in order.
        script: states that the next jobs go through, one for each look at them.
    """

    def __init__(self, *, run=False, environment=None):
        self.calls = []
        self.script = (QUEUED, RUNNING, SUCCEEDED)
        self._run = run
        self._environment = environment or {}
        self._kept = {}
        self._failures = {}
        self._lock = threading.RLock()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)]
        )
        for service, methods in (
            (
                "google.cloud.aiplatform.v1.JobService",
                {
                    "CreateCustomJob": (
                        self._create,
                        types.CreateCustomJobRequest,
                        types.CustomJob.serialize,
                    ),
                    "GetCustomJob": (
                        self._get,
                        types.GetCustomJobRequest,
                        types.CustomJob.serialize,
                    ),
                    "ListCustomJobs": (
                        self._list,
                        types.ListCustomJobsRequest,
                        types.ListCustomJobsResponse.serialize,
                    ),
                    "CancelCustomJob": (
                        self._cancel,
                        types.CancelCustomJobRequest,
                        lambda empty: empty.SerializeToString(),
                    ),
                },
            ),
            (
                "google.logging.v2.LoggingServiceV2",
                {
                    "ListLogEntries": (
                        self._entries,
                        ListLogEntriesRequest,
                        ListLogEntriesResponse.serialize,
                    )
                },
            ),
        ):
            handlers = {
                name: grpc.unary_unary_rpc_method_handler(
                    self._answering(name, method), request.deserialize, write
                )
                for name, (method, request, write) in methods.items()
            }
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, handlers),)
            )
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    @property
    def jobs(self):
        """Every job, in the order of their creation."""
        return [kept.job for kept in self._kept.values()]

    def fail(self, method, code, details="", *, info=None, carried_out=False, times=1):
        """Lets the next calls of a method fail; `carried_out`: only the answer is lost."""
        self._failures.setdefault(method, deque()).extend(
            [(code, details, info, carried_out)] * times
        )

    def preempt(self, name):
        """Takes a job's machines away as Spot does, SIGTERM first, and starts it anew.

        Returns:
            Exit code of the first replica, and the seconds that it took to end.
        """
        with self._lock:
            kept = self._kept[name]
            asked_at = time.monotonic()
            codes = self._end_processes(kept)
            seconds = time.monotonic() - asked_at
            self._start(kept)
        return codes[0], seconds

    def close(self):
        """Ends the server, and what still runs."""
        self._server.stop(None).wait()
        for kept in self._kept.values():
            self._end_processes(kept)

    def _answering(self, name, method):
        def answer(request, context):
            with self._lock:
                self.calls.append(name)
                failures = self._failures.get(name)
                code, details, info, carried_out = (
                    failures.popleft() if failures else (None, "", None, True)
                )
                reply = method(request, context) if carried_out else None
            if code is None:
                return reply
            status = status_pb2.Status(
                code=code.value[0], message=details, details=[info] if info else []
            )
            return context.abort_with_status(rpc_status.to_status(status))

        return answer

    def _create(self, request, context):
        job = request.custom_job
        if request.parent != PARENT:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{request.parent} is not found.")
        # By this header the real service finds the region.
        header = dict(context.invocation_metadata()).get("x-goog-request-params", "")
        if header.replace("%2F", "/") != f"parent={PARENT}":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"routing header {header!r}")
        try:
            require_acceptable(json_format.MessageToDict(types.CustomJobSpec.pb(job.job_spec)))
            require_labels(dict(job.labels))
        except ConfigError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if not 1 <= len(job.display_name) <= 128:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "display_name")
        job.name = (
            f"projects/{PROJECT_NUMBER}/locations/{REGION}/customJobs/{1000 + len(self._kept)}"
        )
        job.state, job.create_time = PENDING, datetime.now(UTC)
        self._kept[job.name] = _Kept(job, None if self._run else deque(self.script))
        return job

    def _get(self, request, context):
        kept = self._found(request.name, context)
        state = kept.job.state
        # A job goes one state on whenever somebody looks.
        if state == CANCELLING:
            self._move(kept.job, CANCELLED, code_pb2.CANCELLED, "the user cancelled it")
        elif state in (PENDING, QUEUED, RUNNING) and kept.states:
            self._move(kept.job, kept.states.popleft(), code_pb2.INTERNAL, _exited(2))
        elif kept.states is None and state == PENDING:
            self._move(kept.job, QUEUED)
        elif kept.states is None and state == QUEUED:
            self._move(kept.job, RUNNING)
            self._start(kept)
        elif (
            kept.states is None
            and state == RUNNING
            and (code := kept.processes[0].poll()) is not None
        ):
            # The job is done when its first replica is.
            self._end_processes(kept)
            self._move(kept.job, FAILED if code else SUCCEEDED, code_pb2.INTERNAL, _exited(code))
        return kept.job

    def _list(self, request, context):
        terms = request.filter.split(" AND ")
        try:
            found = [job for job in self.jobs if all(_fits(job, term) for term in terms)]
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        start = int(request.page_token or 0)
        return types.ListCustomJobsResponse(
            custom_jobs=found[start : start + _PAGE],
            next_page_token=str(start + _PAGE) if len(found) > start + _PAGE else "",
        )

    def _cancel(self, request, context):
        kept = self._found(request.name, context)
        if kept.job.state in (PENDING, QUEUED, RUNNING):
            kept.job.state = CANCELLING
            self._end_processes(kept)
        return empty_pb2.Empty()

    def _entries(self, request, context):
        number = re.search(r'resource\.labels\.job_id="(\d+)"', request.filter)
        if list(request.resource_names) != [f"projects/{PROJECT}"] or not number:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"{request.resource_names} {request.filter}"
            )
        kept = self._found(f"{PARENT}/customJobs/{number[1]}", context)
        return ListLogEntriesResponse(entries=kept.entries)

    def _found(self, name, context):
        # A project's id and its number name the same.
        name = name.replace(f"projects/{PROJECT}/", f"projects/{PROJECT_NUMBER}/")
        if name not in self._kept:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{name} is not found.")
        return self._kept[name]

    @staticmethod
    def _move(job, state, code=0, message=""):
        job.state = state
        if state == RUNNING:
            job.start_time = datetime.now(UTC)
        if state in (SUCCEEDED, FAILED, CANCELLED):
            job.end_time = datetime.now(UTC)
        if state in (FAILED, CANCELLED):
            job.error = status_pb2.Status(code=code, message=message)

    def _start(self, kept):
        pools = kept.job.job_spec.worker_pool_specs
        # A machine has an address of its own; here a port has to do.
        cluster = {
            f"workerpool{number}": [f"127.0.0.1:{_free_port()}" for _ in range(pool.replica_count)]
            for number, pool in enumerate(pools)
        }
        kept.processes, kept.readers = [], []
        for number, pool in enumerate(pools):
            command = [
                sys.executable if word == "python" else word for word in pool.container_spec.command
            ]
            for index in range(pool.replica_count):
                process = subprocess.Popen(
                    [*command, *pool.container_spec.args],
                    cwd=ROOT,
                    env={
                        "PATH": os.environ["PATH"],
                        "PYTHONUNBUFFERED": "1",
                        **self._environment,
                        **_environment(kept.job.job_spec, cluster, number, index),
                    },
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                reader = threading.Thread(
                    target=_read, args=(process, kept.entries, f"workerpool{number}-{index}")
                )
                reader.start()
                kept.processes.append(process)
                kept.readers.append(reader)

    @staticmethod
    def _end_processes(kept):
        for process in kept.processes:
            process.send_signal(signal.SIGTERM)
        try:
            return [process.wait(_ENDED_WITHIN_S) for process in kept.processes]
        finally:
            for process, reader in zip(kept.processes, kept.readers, strict=True):
                process.kill()
                reader.join()


def _environment(spec, cluster, number, index):
    """What the service sets in a replica's container."""
    extra = {"environment": "cloud", "job": json_format.MessageToJson(types.CustomJobSpec.pb(spec))}
    task = {"type": f"workerpool{number}", "index": index, "trial": ""}
    found = {
        "CLOUD_ML_PROJECT_ID": PROJECT_NUMBER,
        "CLUSTER_SPEC": json.dumps({"cluster": cluster, "task": task, **extra}),
    }
    if base := spec.base_output_directory.output_uri_prefix.rstrip("/"):
        found |= {
            "AIP_MODEL_DIR": f"{base}/model/",
            "AIP_CHECKPOINT_DIR": f"{base}/checkpoints/",
            "AIP_TENSORBOARD_LOG_DIR": f"{base}/logs/",
        }
    if sum(len(addresses) for addresses in cluster.values()) > 1:
        names = dict(zip(cluster, ("chief", "worker", "ps", "evaluator"), strict=False))
        renamed = {
            names[pool]: addresses
            for pool, addresses in cluster.items()
            if names[pool] != "evaluator"
        }
        task = {"type": names[task["type"]], "index": index, "cloud": "c0ffee", "trial": ""}
        found["TF_CONFIG"] = json.dumps({"cluster": renamed, "task": task, **extra})
    return found


def _read(process, entries, worker):
    for line in process.stdout:
        entry = LogEntry(
            timestamp=datetime.now(UTC),
            resource={"type": "ml_job", "labels": {"task_name": worker}},
        )
        # Cloud Logging takes a line of JSON apart.
        content = json.loads(line) if line.startswith('{"severity"') else None
        if content:
            entry.severity = LogSeverity.Value(content.pop("severity"))
            entry.json_payload = content
        else:
            entry.text_payload = line.rstrip("\n")
        entries.append(entry)
    process.stdout.close()


def _exited(code):
    return f"The replica workerpool0-0 exited with a non-zero status of {code}."


def _fits(job, term):
    """One comparison of the filter that ListCustomJobsRequest describes."""
    if compared := re.fullmatch(r'state(!?)="(JOB_STATE_\w+)"', term):
        return (JobState(job.state).name == compared[2]) != bool(compared[1])
    if compared := re.fullmatch(r"labels\.([\w-]+)(?:=([\w-]*)|:\*)", term):
        return compared[1] in job.labels and compared[2] in (None, job.labels[compared[1]])
    raise ValueError(f"Unsupported filter: {term}")


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
