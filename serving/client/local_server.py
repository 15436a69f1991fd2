"""Starts Whisker's own server for the while of a `with` block; standard library only."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from whisker_ml.errors import WhiskerError

_POLL_S = 0.05
_STOP_TIMEOUT_S = 10.0
_LOG_TAIL_BYTES = 8192


class LocalServerFailed(WhiskerError):
    """The local server ended, or did not become ready in time."""


@dataclass(frozen=True)
class LocalServer:
    """A server that is ready.

    Attributes:
        port: of gRPC, on this machine.
        rest_api_port: of REST, on this machine.
        process: the server; the `with` block ends it.
    """

    port: int
    rest_api_port: int
    process: subprocess.Popen[bytes]


@contextmanager
def local_server(
    *,
    model_name: str | None = None,
    model_base_path: str | Path | None = None,
    model_config_file: str | Path | None = None,
    log_path: str | Path | None = None,
    start_timeout_s: float = 120.0,
    extra_flags: Sequence[str] = (),
) -> Iterator[LocalServer]:
    """Runs ``python -m serving.server`` on free ports; when the block ends, however it ends, so
    does the server.

    Args:
        model_name: with `model_base_path`, the name to serve it under.
        model_base_path: the folder that holds a model's versions.
        model_config_file: a models.config, instead of the two above; its labels may name versions
            not loaded yet.
        log_path: where the server's output goes; None throws it away at the end.
        start_timeout_s: how long loading may take.
        extra_flags: further flags of the server, as ``--name=value``.

    Yields:
        The server, ready to answer.

    Raises:
        LocalServerFailed: it ended or was not ready in time; the text quotes the last line of its
            log.
    """
    with TemporaryDirectory(prefix="whisker-server-") as scratch:
        ports_file = Path(scratch, "ports.json")
        log = Path(log_path or Path(scratch, "server.log"))
        command = [sys.executable, "-m", "serving.server", f"--ports_file={ports_file}"]
        if model_name is not None:
            command.append(f"--model_name={model_name}")
        if model_base_path is not None:
            command.append(f"--model_base_path={model_base_path}")
        if model_config_file is not None:
            command += [
                f"--model_config_file={model_config_file}",
                "--allow_version_labels_for_unavailable_models=true",
            ]
        with log.open("wb") as output, _running([*command, *extra_flags], output) as process:
            ports = _wait_for_ports(ports_file, process, log, start_timeout_s)
            yield LocalServer(ports["port"], ports["rest_api_port"], process)


@contextmanager
def _running(command: list[str], output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_ports(
    ports_file: Path, process: subprocess.Popen[bytes], log: Path, timeout_s: float
) -> dict[str, int]:
    deadline = time.monotonic() + timeout_s
    while not ports_file.exists():
        if process.poll() is not None:
            raise LocalServerFailed(
                f"the local server ended with exit code {process.returncode} before it was ready:"
                f" {_last_line(log)}"
            )
        if time.monotonic() > deadline:
            raise LocalServerFailed(
                f"the local server was not ready after {timeout_s:g} s: {_last_line(log)}"
            )
        time.sleep(_POLL_S)
    return json.loads(ports_file.read_text())


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
