"""What asking costs the one who asks: Whisker's client, tensorflow-serving-api, and REST with the
standard library.

  python -m benchmarks.bench_client

Each side runs in a fresh process of its own, in turn, and asks a server that does nothing
(`benchmarks.echo`).
"""

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from absl import flags

from benchmarks import machine
from benchmarks.client_peers import PEERS, PICTURE_BYTES, PIXELS
from serving.client.errors import ServerError
from serving.client.predict_client import PredictClient
from serving.client.tensors import encode
from serving.protos import message
from trainer.run_folder import commit
from whisker_ml import cli, contract
from whisker_ml.errors import WhiskerError

RESULTS = Path(__file__).parent / "results" / "client.json"
_OURS = "whisker"
_MEASURES = ("import_s", "memory_mb", "bytes_cpu_ms", "pixels_cpu_ms")
# Times less than the peer's. REST asks for the standard library alone, so that only its requests
# are compared.
_TARGETS = {
    "tensorflow_serving_api": {
        "import_s": 20.0,
        "memory_mb": 8.0,
        "bytes_cpu_ms": 1.0,
        "pixels_cpu_ms": 1.0,
    },
    "rest": {"bytes_cpu_ms": 1.0, "pixels_cpu_ms": 1.0},
}
_OUTPUTS: dict[str, Any] = {
    contract.OUTPUT_LABEL: "cats",
    contract.OUTPUT_PROBABILITY: 0.75,
    contract.OUTPUT_PROBABILITIES: [0.75, 0.25],
    contract.OUTPUT_CLASSES: ["cats", "dogs"],
    contract.OUTPUT_VALID: True,
}
_OUTPUT_TYPES = {
    contract.OUTPUT_LABEL: ("DT_STRING", (-1,)),
    contract.OUTPUT_PROBABILITY: ("DT_FLOAT", (-1,)),
    contract.OUTPUT_PROBABILITIES: ("DT_FLOAT", (-1, 2)),
    contract.OUTPUT_CLASSES: ("DT_STRING", (-1, 2)),
    contract.OUTPUT_VALID: ("DT_BOOL", (-1,)),
}
_START_TIMEOUT_S = 30.0

Row = Mapping[str, Any]


def main() -> None:
    """Entry point."""
    cli.define("repeats", 5, "processes of each side", minimum=1)
    cli.define("count", 500, "requests of each kind in a process", minimum=1)
    cli.define("output", str(RESULTS), "JSON file to write")
    cli.run(_run)


def _run(_: Sequence[str]) -> None:
    options = flags.FLAGS
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="whisker-bench-") as folder,
        _echo(Path(folder)) as addresses,
    ):
        for repeat in range(options.repeats):
            # In turn, and each first as often as last: a machine that slows down hits all.
            for side in PEERS if repeat % 2 == 0 else reversed(PEERS):
                rows.append({"repeat": repeat, "side": side, **_measure(side, addresses[side])})
                print(rows[-1], flush=True)
    measured = machine.write(
        Path(options.output),
        "one that asks, in a fresh process: seconds of importing and opening a client, resident"
        " memory after that, and milliseconds of its processor time per request, one after the"
        " other, about a picture's bytes and about float32 pixels, to a server that does nothing;"
        f" targets: the peer's over {_OURS}'s, repeat by repeat",
        f"python -m benchmarks.bench_client --repeats={options.repeats} --count={options.count}",
        commit=commit(),
        picture={"bytes": PICTURE_BYTES, "pixels": PIXELS},
        versions={
            package: version(package)
            for package in ("grpcio", "protobuf", "tensorflow", "tensorflow-serving-api", "numpy")
        },
        summary=summarize(rows),
        targets=compare(rows),
        runs=rows,
    )
    print(json.dumps({name: measured[name] for name in ("summary", "targets")}, indent=1))


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """Gives each measure of each side as {`median`, `min`, `max`} over the repeats."""
    return {
        side: {
            name: _spread([row[name] for row in rows if row["side"] == side]) for name in _MEASURES
        }
        for side in dict.fromkeys(row["side"] for row in rows)
    }


def compare(rows: Sequence[Row]) -> dict[str, Any]:
    """Puts our client beside the peers, repeat by repeat.

    Args:
        rows: `repeat`, `side` and the measures of each process.

    Returns:
        By peer and measure: `times_less` as {`median`, `min`, `max`}, the `target`, and whether the
            median `met` it.
    """
    at = {(row["side"], row["repeat"]): row for row in rows}
    repeats = sorted({row["repeat"] for row in rows})
    found: dict[str, Any] = {}
    for peer, targets in _TARGETS.items():
        for name, target in targets.items():
            times_less = _spread(
                [at[peer, repeat][name] / at[_OURS, repeat][name] for repeat in repeats]
            )
            met = times_less["median"] >= target
            found.setdefault(peer, {})[name] = {
                "times_less": times_less,
                "target": target,
                "met": met,
            }
    return found


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def _measure(side: str, address: str) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.client_peers",
        f"--side={side}",
        f"--address={address}",
    ]
    ended = subprocess.run(
        [*command, f"--count={flags.FLAGS.count}"], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise WhiskerError(
            f"{side}: exit code {ended.returncode}: {(ended.stderr.splitlines() or [''])[-1]}"
        )
    return json.loads(ended.stdout)


@contextlib.contextmanager
def _echo(folder: Path) -> Iterator[dict[str, str]]:
    """Runs the server that does nothing; gives its address for each side."""
    answers = {"answer": _answer(), "metadata": _metadata()}
    for name, response in answers.items():
        Path(folder, name).write_bytes(response.SerializeToString())
    Path(folder, "rest_answer").write_text(json.dumps({"predictions": [_OUTPUTS]}))
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        port, rest_port = (free.getsockname()[1] for free in (one, other))
    command = [
        sys.executable,
        "-m",
        "benchmarks.echo",
        f"--port={port}",
        f"--rest_api_port={rest_port}",
    ]
    with subprocess.Popen(
        [*command, *(f"--{name}={folder / name}" for name in (*answers, "rest_answer"))],
        stdin=subprocess.DEVNULL,
    ) as process:
        try:
            with PredictClient(f"127.0.0.1:{port}") as client, contextlib.suppress(ServerError):
                # It answers no question about models; that it says so is enough.
                client.wait_until_ready(_START_TIMEOUT_S)
            yield {side: f"127.0.0.1:{rest_port if side == 'rest' else port}" for side in PEERS}
        finally:
            process.terminate()


def _answer() -> Any:
    response = message("tensorflow.serving.PredictResponse")()
    response.model_spec.name = contract.DEFAULT_MODEL_NAME
    response.model_spec.version.value = 1
    for name, value in _OUTPUTS.items():
        # Of one picture: one value, or one row of them.
        response.outputs[name].CopyFrom(encode(value if isinstance(value, list) else [value]))
        if isinstance(value, list):
            del response.outputs[name].tensor_shape.dim[:]
            for size in (1, len(value)):
                response.outputs[name].tensor_shape.dim.add(size=size)
    return response


def _metadata() -> Any:
    signatures = message("tensorflow.serving.SignatureDefMap")()
    for signature, name, shape, dtype in (
        (contract.SIGNATURE_BYTES, contract.INPUT_BYTES, (-1,), "DT_STRING"),
        (contract.SIGNATURE_PIXELS, contract.INPUT_PIXELS, (-1, *PIXELS[1:]), "DT_FLOAT"),
    ):
        tensors = {name: (dtype, shape)}
        _describe(signatures.signature_def[signature].inputs, tensors)
        _describe(signatures.signature_def[signature].outputs, _OUTPUT_TYPES)
    response = message("tensorflow.serving.GetModelMetadataResponse")()
    response.model_spec.name = contract.DEFAULT_MODEL_NAME
    response.model_spec.version.value = 1
    response.metadata["signature_def"].Pack(signatures)
    return response


def _describe(tensors: Any, described: Mapping[str, tuple[str, Sequence[int]]]) -> None:
    for name, (dtype, shape) in described.items():
        tensors[name].dtype = dtype
        for size in shape:
            tensors[name].tensor_shape.dim.add(size=size)


if __name__ == "__main__":
    main()
