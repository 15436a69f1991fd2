"""What is measured against one another, each started in processes of its own.

What is not being measured is stopped (SIGSTOP), so that all can stay loaded without disturbing one
another.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from benchmarks.lineup import Server
from benchmarks.load import connect
from whisker_ml.errors import WhiskerError

_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.2


class Contender:
    """Something that is running, and stopped unless it is being measured."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Takes the process that started all others of it."""
        self._process = process

    def sleep(self) -> None:
        """Stops it until it is measured."""
        self._signal(signal.SIGSTOP)

    @contextmanager
    def _awake(self) -> Iterator[None]:
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.sleep()

    def _cpu_s(self) -> float:
        return sum(_family(self._process.pid).values()) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """Ends its processes."""
        family = _family(self._process.pid)
        self._signal(signal.SIGCONT)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT_S)
        for process in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        for process in _family(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


class ServerContender(Contender):
    """A server under load."""

    def __init__(self, name: str, server: Server, folder: Path, pictures: Sequence[bytes]) -> None:
        """Starts it and waits until it answers.

        Args:
            name: for errors, and of the files in `folder`.
            server: see there.
            folder: for its log and its requests.
            pictures: to ask about.

        Raises:
            WhiskerError: it ended, or did not answer in time.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._server, self._address = server, f"127.0.0.1:{port}"
        self._requests = folder / f"{name}-requests"
        self._requests.mkdir()
        for number, picture in enumerate(pictures):
            (self._requests / f"{number:03d}").write_bytes(server.request(picture))
        log = folder / f"{name}.log"
        with log.open("w") as output:
            super().__init__(
                subprocess.Popen(
                    [part.format(port=port) for part in server.command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **server.environment},
                    text=True,
                )
            )
        try:
            self.first = self._wait(name, pictures[0], log)
        except BaseException:
            self.end()
            raise

    def measure(self, concurrency: int, count: int, seconds: float) -> dict[str, float]:
        """Loads it from another process.

        Args:
            concurrency: clients.
            count: requests to measure.
            seconds: to measure, at most.

        Returns:
            What `load.closed_loop` gives, and `server_cpu_ms`: processor time of the server per
            request.
        """
        load = (
            f"--protocol={self._server.protocol}",
            f"--address={self._address}",
            f"--content_type={self._server.content_type}",
            f"--requests={self._requests}",
            f"--concurrency={concurrency}",
            f"--count={count}",
            f"--seconds={seconds}",
        )
        with self._awake():
            before = self._cpu_s()
            found = _output("benchmarks.load", *load)
            return found | {"server_cpu_ms": (self._cpu_s() - before) / found["sent"] * 1e3}

    def _wait(self, name: str, picture: bytes, log: Path) -> bytes:
        end = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                (ask,) = connect(
                    self._server.protocol, self._address, "/predict", self._server.content_type, 1
                )
                return ask(self._server.request(picture))
            except (OSError, grpc.RpcError, http.client.HTTPException, WhiskerError) as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    lines = log.read_text(errors="replace").split("\n")
                    last = next(
                        (line for line in reversed(lines) if line.strip()), "its log is empty"
                    )
                    raise WhiskerError(f"{name} did not start: {error}; {last}") from error
            time.sleep(_POLL_S)


class LoopContender(Contender):
    """The model alone."""

    def __init__(self, model: Path, pictures: Path, *, xnnpack: bool) -> None:
        """Starts `benchmarks.model_loop` and waits until the model is loaded.

        Args:
            model: folder of the SavedModel.
            pictures: folder of them.
            xnnpack: see there.
        """
        command = [
            sys.executable,
            "-m",
            "benchmarks.model_loop",
            f"--model={model}",
            f"--requests={pictures}",
        ]
        process = subprocess.Popen(
            [*command, f"--xnnpack={xnnpack}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        super().__init__(process)
        self.first: tuple[str, float] = tuple(self._read())

    def measure(self, threads: int, rows: int, count: int, seconds: float) -> dict[str, float]:
        """Runs the loop; see `benchmarks.model_loop`."""
        wanted = {"threads": threads, "rows": rows, "count": count, "seconds": seconds}
        with self._awake():
            self._process.stdin.write(json.dumps(wanted) + "\n")
            self._process.stdin.flush()
            return self._read()

    def _read(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise WhiskerError(f"benchmarks.model_loop ended with exit code {self._process.wait()}")
        return json.loads(line)


def _output(module: str, *arguments: str) -> dict[str, float]:
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise WhiskerError(
            f"{module}: exit code {ended.returncode}: {(ended.stderr.splitlines() or [''])[-1]}"
        )
    return json.loads(ended.stdout)


def _family(leader: int) -> dict[int, int]:
    """A process and all that come from it, with the processor time of each in ticks."""
    parents, ticks = {}, {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        # It may have ended meanwhile. The name, in parentheses, may hold anything; man 5 proc has
        # the rest in order: the parent is the 4th value of all, utime and stime are the 14th and
        # 15th.
        with contextlib.suppress(OSError):
            values = entry.read_text().rpartition(")")[2].split()
            number = int(entry.parent.name)
            parents[number], ticks[number] = int(values[1]), int(values[11]) + int(values[12])
    family = {leader} & set(ticks)
    while more := {one for one, parent in parents.items() if parent in family} - family:
        family |= more
    return {one: ticks[one] for one in family}
