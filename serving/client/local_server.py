"""Starts Whisker's own server for the while of a `with` block; standard library only."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from whisker_ml.contract import PARENT_PROCESS
from whisker_ml.errors import WhiskerError

_POLL_S = 0.05
_STOP_TIMEOUT_S = 10.0
_LOG_TAIL_BYTES = 8192


class LocalServerFailed(WhiskerError):
    """The local server ended, or did not become ready in time."""


@dataclass(frozen=True)
class LocalServer:
    """A server of a `with` block.

    Attributes:
        process: the server; the block ends it.
        ports_file: what it writes when it is ready.
        log: where its output goes.
    """

    process: subprocess.Popen[bytes]
    ports_file: Path
    log: Path

    @property
    def port(self) -> int:
        """Port of gRPC, on this machine, of a server that is ready."""
        return json.loads(self.ports_file.read_text())["port"]

    @property
    def rest_api_port(self) -> int:
        """Port of REST, likewise."""
        return json.loads(self.ports_file.read_text())["rest_api_port"]

    def wait(self, timeout_s: float) -> None:
        """Waits until the server is ready.

        Raises:
            LocalServerFailed: it ended or was not ready in time; the text quotes the last line of
                its log.
        """
        deadline = time.monotonic() + timeout_s
        while not self.ports_file.exists():
            if self.process.poll() is not None:
                raise LocalServerFailed(
                    f"the local server ended with exit code {self.process.returncode} before it was"
                    f" ready: {_last_line(self.log)}"
                )
            if time.monotonic() > deadline:
                raise LocalServerFailed(
                    f"the local server was not ready after {timeout_s:g} s: {_last_line(self.log)}"
                )
            time.sleep(_POLL_S)


@contextmanager
def local_server(
    *,
    model_name: str | None = None,
    model_base_path: str | Path | None = None,
    model_config_file: str | Path | None = None,
    log_path: str | Path | None = None,
    start_timeout_s: float | None = 120.0,
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
        start_timeout_s: how long loading may take; None: it is not waited for.
        extra_flags: further flags of the server, as ``--name=value``.

    Yields:
        The server, ready to answer if it was waited for.

    Raises:
        LocalServerFailed: as `LocalServer.wait`.
    """
    # Here, as only systems that the server runs on have what it imports.
    from whisker_ml.files import scratch_folder

    with scratch_folder("server-") as scratch:
        ports_file = scratch / "ports.json"
        log = Path(log_path or scratch / "server.log")
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
            server = LocalServer(process, ports_file, log)
            if start_timeout_s is not None:
                server.wait(start_timeout_s)
            yield server


@contextmanager
def _running(command: list[str], output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        # A process that is killed ends no block.
        env={**os.environ, PARENT_PROCESS: str(os.getpid())},
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


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
