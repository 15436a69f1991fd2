"""The servers that are measured beside one another: how each is set up, started and asked."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from benchmarks.load import connect
from serving.client import tensors
from serving.config import batching
from serving.protos import message
from whisker_ml import contract
from whisker_ml.errors import WhiskerError

# Which servers are measured against one another, how each is set up, and how it is asked.

OURS = ("whisker", "whisker_batching", "whisker_xnnpack")
PEERS = ("fastapi", "litserve", "litserve_batching", "bentoml", "bentoml_batching")
MEASURED = (*OURS, "echo", *PEERS)
# One batch of all clients at most; no waiting, as runs that are under way let the next batch
# gather.
_BATCHING = {"max_batch_size": 32, "batch_timeout_micros": 0, "max_enqueued_batches": 100}
_BOUNDARY = "picture-boundary"


@dataclass(frozen=True)
class Server:
    """A server, and how it is asked.

    Attributes:
        command: that starts it; ``{port}`` in it stands for where it is to listen.
        says: how it is set up, in words.
        protocol: grpc or http.
        form: name of the form's field that holds the picture; empty: the body is the picture.
        environment: variables that it is started with.
    """

    command: Sequence[str]
    says: str
    protocol: str = "grpc"
    form: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def content_type(self) -> str:
        """Of a request's body, for http."""
        return f"multipart/form-data; boundary={_BOUNDARY}" if self.form else "image/jpeg"

    def request(self, picture: bytes) -> bytes:
        """What is sent to have a picture classified."""
        if self.protocol == "grpc":
            request = message("tensorflow.serving.PredictRequest")()
            request.model_spec.name = contract.DEFAULT_MODEL_NAME
            request.inputs[contract.INPUT_BYTES].CopyFrom(tensors.encode([picture]))
            return request.SerializeToString()
        if not self.form:
            return picture
        head = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{self.form}";'
            ' filename="picture.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        )
        return b"".join((head.encode(), picture, f"\r\n--{_BOUNDARY}--\r\n".encode()))

    def answer(self, body: bytes) -> tuple[str, float]:
        """Label and probability of an answer."""
        if self.protocol == "grpc":
            outputs = message("tensorflow.serving.PredictResponse").FromString(body).outputs
            (label,) = tensors.decode(outputs[contract.OUTPUT_LABEL])
            (probability,) = tensors.decode(outputs[contract.OUTPUT_PROBABILITY])
            return label.decode(), probability
        found = json.loads(body)
        one = found[0] if isinstance(found, list) else found
        return one["label"], one["probability"]


def servers_of(folder: Path, versions: Path, peers_python: str) -> dict[str, Server]:
    """Gives every one of `CONTENDERS`.

    Args:
        folder: for files that servers read; the echo expects its `answer` there.
        versions: folder that holds the SavedModel as version 1.
        peers_python: the Python that has the other servers.
    """
    parameters = folder / "batching.config"
    batching.write(parameters, batching.make(**_BATCHING))
    whisker = [
        *(sys.executable, "-m", "serving.server", "--port={port}"),
        f"--model_name={contract.DEFAULT_MODEL_NAME}",
        f"--model_base_path={versions}",
    ]
    batched = [*whisker, "--enable_batching", f"--batching_parameters_file={parameters}"]
    bento = [
        peers_python,
        "-m",
        "bentoml",
        "serve",
        "--host=127.0.0.1",
        "--port={port}",
        "--quiet",
        "--do-not-track",
    ]
    bentos = "benchmarks.peers.bentoml_server"
    lit = [peers_python, "-m", "benchmarks.peers.litserve_server", "--port={port}"]
    fast = [
        peers_python,
        "-m",
        "uvicorn",
        "benchmarks.peers.fastapi_server:app",
        "--port={port}",
        "--no-access-log",
    ]
    model = {"MODEL": str(versions / "1"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    form = ": the picture in a form"
    return {
        "whisker": Server(whisker, "gRPC, as it starts"),
        "whisker_batching": Server(
            batched, f"gRPC, --enable_batching with {json.dumps(_BATCHING)}"
        ),
        "whisker_xnnpack": Server([*whisker, "--xnnpack"], "gRPC, --xnnpack"),
        "echo": Server(
            [
                sys.executable,
                "-m",
                "benchmarks.echo",
                "--port={port}",
                f"--answer={folder / 'answer'}",
            ],
            "gRPC, empty: the same requests, and answers of the same size",
        ),
        "fastapi": Server(
            fast,
            "a plain function under one uvicorn, no access log: the picture as it is",
            "http",
            "",
            model,
        ),
        "litserve": Server(
            lit, f"one worker, no batches{form}", "http", "picture", {**model, "BATCH": "1"}
        ),
        "litserve_batching": Server(
            lit,
            f"one worker, max_batch_size 8, batch_timeout 0.01 s{form}",
            "http",
            "picture",
            {**model, "BATCH": "8"},
        ),
        "bentoml": Server(
            [*bento, f"{bentos}:Classifier"], "one worker: the picture as it is", "http", "", model
        ),
        "bentoml_batching": Server(
            [*bento, f"{bentos}:BatchClassifier"],
            f"one worker, batchable, max_batch_size 32, max_latency_ms 1000{form}",
            "http",
            "pictures",
            model,
        ),
    }


# What is measured against one another, each started in processes of its own.
#
# What is not being measured is stopped (SIGSTOP), so that all can stay loaded without disturbing
# one another.

_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.2


class Measured:
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


class RunningServer(Measured):
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


class Loop(Measured):
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
