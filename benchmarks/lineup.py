"""Which servers are measured against one another, how each is set up, and how it is asked."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving.client import tensors
from serving.config import batching
from serving.protos import message
from whisker_ml import contract

OURS = ("whisker", "whisker_batching", "whisker_xnnpack")
PEERS = ("fastapi", "litserve", "litserve_batching", "bentoml", "bentoml_batching")
CONTENDERS = (*OURS, "echo", *PEERS)
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
