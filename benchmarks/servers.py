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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc

from benchmarks.load import connect
from benchmarks.measurement import run_python
from serving.client import tensors
from serving.config import batching
from serving.protos import message
from whisker_ml import contract
from whisker_ml.errors import WhiskerError

OURS = ("whisker", "whisker_batching", "whisker_xnnpack")
PEERS = ("fastapi", "litserve", "litserve_batching", "bentoml", "bentoml_batching")
MEASURED = (*OURS, "echo", *PEERS)
# One batch of all clients at most; no waiting, as runs that are under way let the next batch
# gather.
_BATCHING = {"max_batch_size": 32, "batch_timeout_micros": 0, "max_enqueued_batches": 100}
_BOUNDARY = "picture-boundary"
_START_TIMEOUT_S, _STOP_TIMEOUT_S, _POLL_S = 180.0, 10.0, 0.2


class Server(NamedTuple):
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
    environment: Mapping[str, str] = {}

    @property
    def content_type(self) -> str:
        """Of a request's body over HTTP; empty: gRPC."""
        if self.protocol == "grpc":
            return ""
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
        first = found[0] if isinstance(found, list) else found
        return first["label"], first["probability"]


def servers_of(folder: Path, peers_python: str) -> dict[str, Server]:
    """Gives every one of `MEASURED`; the echo expects its `answer` in the folder."""
    parameters = folder / "batching.config"
    batching.write(parameters, batching.make(**_BATCHING))
    module = (sys.executable, "-m")
    whisker = [*module, "serving.server", "--port={port}"]
    whisker += [f"--model_name={contract.DEFAULT_MODEL_NAME}"]
    whisker += [f"--model_base_path={folder / 'models'}"]
    batched = [*whisker, "--enable_batching", f"--batching_parameters_file={parameters}"]
    echo = [*module, "benchmarks.load", "--address=127.0.0.1:{port}"]
    peer, form = "benchmarks.serving_peers", ": the picture in a form"
    fastapi = ("uvicorn", "--factory", f"{peer}:fastapi_app", "--port={port}", "--no-access-log")
    bentoml = ("bentoml", "serve", "--host=127.0.0.1", "--port={port}", "--quiet", "--do-not-track")

    def http_peer(arguments: Sequence[str], says: str, form: str = "", **more: str) -> Server:
        variables = {"MODEL": str(folder / "models" / "1"), "TF_CPP_MIN_LOG_LEVEL": "3", **more}
        return Server([peers_python, "-m", *arguments], says, "http", form, variables)

    return {
        "whisker": Server(whisker, "gRPC, as it starts"),
        "whisker_batching": Server(
            batched, f"gRPC, --enable_batching with {json.dumps(_BATCHING)}"
        ),
        "whisker_xnnpack": Server([*whisker, "--xnnpack"], "gRPC, --xnnpack"),
        "echo": Server(
            [*echo, f"--echo={folder / 'answer'}"],
            "gRPC, empty: the same requests, and answers of the same size",
        ),
        "fastapi": http_peer(
            fastapi, "a plain function under one uvicorn, no access log: the picture as it is"
        ),
        "litserve": http_peer(
            [peer, "{port}"], f"one worker, no batches{form}", "picture", PEER="litserve", BATCH="1"
        ),
        "litserve_batching": http_peer(
            [peer, "{port}"],
            f"one worker, max_batch_size 8, batch_timeout 0.01 s{form}",
            "picture",
            PEER="litserve",
            BATCH="8",
        ),
        "bentoml": http_peer(
            [*bentoml, f"{peer}:Classifier"], "one worker: the picture as it is", PEER="bentoml"
        ),
        "bentoml_batching": http_peer(
            [*bentoml, f"{peer}:BatchClassifier"],
            f"one worker, batchable, max_batch_size 32, max_latency_ms 1000{form}",
            "pictures",
            PEER="bentoml",
        ),
    }


class Running:
    """A server under load; whoever has it stops it (SIGSTOP) until it is measured."""

    def __init__(self, name: str, server: Server, folder: Path, pictures: Sequence[bytes]) -> None:
        """Starts it and waits until it answers; log and requests go to the folder.

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
            self._process = subprocess.Popen(
                [part.format(port=port) for part in server.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **server.environment},
            )
        try:
            self.first = self._wait(name, server.request(pictures[0]), log)
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
        self.signal(signal.SIGCONT)
        try:
            before = self._cpu_ms()
            printed = run_python(
                "-m",
                "benchmarks.load",
                f"--address={self._address}",
                f"--content_type={self._server.content_type}",
                f"--requests={self._requests}",
                f"--concurrency={concurrency}",
                f"--count={count}",
                f"--seconds={seconds}",
            )
            found = json.loads(printed)
            return found | {"server_cpu_ms": (self._cpu_ms() - before) / found["sent"]}
        finally:
            self.signal(signal.SIGSTOP)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all its processes."""
        for process in _family(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def end(self) -> None:
        """Ends its processes."""
        family = _family(self._process.pid)
        self.signal(signal.SIGCONT)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT_S)
        for process in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()

    def _cpu_ms(self) -> float:
        return sum(_family(self._process.pid).values()) / os.sysconf("SC_CLK_TCK") * 1e3

    def _wait(self, name: str, request: bytes, log: Path) -> bytes:
        end = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                (ask,) = connect(self._address, self._server.content_type, 1)
                return ask(request)
            except (OSError, grpc.RpcError, http.client.HTTPException, RuntimeError) as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    lines = [line for line in log.read_text(errors="replace").split("\n") if line]
                    last = lines[-1] if lines else "its log is empty"
                    raise WhiskerError(f"{name} did not start: {error}; {last}") from error
            time.sleep(_POLL_S)


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
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return {process: ticks[process] for process in family}
