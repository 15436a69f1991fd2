"""What asking costs the one who asks: Whisker's client, tensorflow-serving-api, and REST with the
standard library.

  python -m benchmarks.bench_client

Each side runs in a fresh process of its own, in turn, and asks a server that does nothing: it gives
the answers that a real one gave once.
"""

import base64
import contextlib
import json
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
from absl import flags

from benchmarks.bench_serving import export_model
from benchmarks.client_peers import PEERS, PICTURE_BYTES, PIXELS
from benchmarks.load import PREDICT, echo
from benchmarks.measurement import define_output, in_turn, record, run_python, spread
from benchmarks.servers import Server
from serving.client.local_server import local_server
from serving.protos import message
from whisker_ml import cli, contract

_OURS = "whisker"
_MEASURES = ("import_s", "memory_mb", "bytes_cpu_ms", "pixels_cpu_ms")
# Times less than the peer's. REST asks for the standard library alone, so that only its requests
# are compared.
_TARGETS = {
    "tensorflow_serving_api": dict(zip(_MEASURES, (20.0, 8.0, 1.0, 1.0), strict=True)),
    "rest": {"bytes_cpu_ms": 1.0, "pixels_cpu_ms": 1.0},
}
_PACKAGES = ("grpcio", "protobuf", "tensorflow", "tensorflow-serving-api", "numpy")
_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
_TIMEOUT_S = 30.0

Row = Mapping[str, Any]


def main() -> None:
    """Entry point."""
    cli.define("repeats", 5, "processes of each side", minimum=1)
    cli.define("count", 500, "requests of each kind in a process", minimum=1)
    define_output("client")
    cli.run(_run)


def _run(_: Sequence[str]) -> None:
    options = flags.FLAGS
    rows = []
    with _echo() as addresses:
        for repeat, side in in_turn(PEERS, options.repeats):
            command = (f"--side={side}", f"--address={addresses[side]}", f"--count={options.count}")
            measured = json.loads(run_python("-m", "benchmarks.client_peers", *command))
            rows.append({"repeat": repeat, "side": side, **measured})
            print(rows[-1], flush=True)
    record(
        "one that asks, in a fresh process: seconds of importing and opening a client, resident"
        " memory after that, and milliseconds of its processor time per request, one after the"
        " other, about a picture's bytes and about float32 pixels, to a server that does nothing;"
        f" targets: the peer's over {_OURS}'s, repeat by repeat",
        ["repeats", "count"],
        ["summary", "targets"],
        picture={"bytes": PICTURE_BYTES, "pixels": PIXELS},
        versions={package: version(package) for package in _PACKAGES},
        summary=summarize(rows),
        targets=compare(rows),
        runs=rows,
    )


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """Gives each measure of each side as {`median`, `min`, `max`} over the repeats."""
    return {
        side: {
            name: spread([row[name] for row in rows if row["side"] == side]) for name in _MEASURES
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
            times_less = spread(
                [at[peer, repeat][name] / at[_OURS, repeat][name] for repeat in repeats]
            )
            met = times_less["median"] >= target
            found.setdefault(peer, {})[name] = {
                "times_less": times_less,
                "target": target,
                "met": met,
            }
    return found


@contextlib.contextmanager
def _echo() -> Iterator[dict[str, str]]:
    """Runs the server that does nothing; gives its address for each side."""
    answers, rest_answer = _real_answers()
    server, port = echo(answers, "127.0.0.1:0")
    rest = ThreadingHTTPServer(("127.0.0.1", 0), _rest_handler(rest_answer))
    Thread(target=rest.serve_forever, daemon=True).start()
    addresses = dict.fromkeys(PEERS, f"127.0.0.1:{port}")
    try:
        yield addresses | {"rest": f"127.0.0.1:{rest.server_port}"}
    finally:
        server.stop(None)
        rest.shutdown()


def _real_answers() -> tuple[dict[str, bytes], bytes]:
    """What a server answers about one picture and about signatures, by method, and over REST."""
    from trainer.data.sample import unseen_pictures

    picture = unseen_pictures(0, 1)[0][1]
    metadata = message("tensorflow.serving.GetModelMetadataRequest")()
    metadata.model_spec.name = contract.DEFAULT_MODEL_NAME
    metadata.metadata_field.append("signature_def")
    requests = {
        PREDICT: Server([], "").request(picture),
        _METADATA: metadata.SerializeToString(),
    }
    instance = {contract.INPUT_BYTES: {"b64": base64.b64encode(picture).decode()}}
    body = json.dumps({"instances": [instance]}).encode()
    with tempfile.TemporaryDirectory(prefix="whisker-bench-") as folder:
        export_model(Path(folder, "1"))
        name = contract.DEFAULT_MODEL_NAME
        with local_server(model_name=name, model_base_path=folder) as server:
            channel = grpc.insecure_channel(f"localhost:{server.port}")
            answers = {
                path: channel.unary_unary(path)(request, timeout=_TIMEOUT_S)
                for path, request in requests.items()
            }
            url = f"http://localhost:{server.rest_api_port}/v1/models/{name}:predict"
            with urllib.request.urlopen(url, body, timeout=_TIMEOUT_S) as response:
                return answers, response.read()


def _rest_handler(answer: bytes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


if __name__ == "__main__":
    main()
