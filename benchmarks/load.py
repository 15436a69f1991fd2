"""Loads a server from a process of its own: each of N clients asks again as soon as it is answered.

  python -m benchmarks.load --protocol=grpc --address=127.0.0.1:8500 --requests=folder \\
    --concurrency=8

Requests are sent as they lie in the files of the folder: nothing is built or parsed while time is
taken.
"""

import http.client
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import quantiles
from typing import Any

import grpc
from absl import flags

from whisker_ml import cli
from whisker_ml.errors import WhiskerError

GRPC_METHOD = "/tensorflow.serving.PredictionService/Predict"
PROTOCOLS = ("grpc", "http")
_TIMEOUT_S = 60.0
_WARM_UP = 3  # requests of each client, about, that are not measured

# Sends one request and gives the body of its answer.
Client = Callable[[bytes], bytes]


def main() -> None:
    """Entry point."""
    here = sys.argv[0]
    flags.DEFINE_enum(
        "protocol", "grpc", list(PROTOCOLS), "what the server speaks", module_name=here
    )
    flags.DEFINE_string("address", None, "host:port of the server", required=True, module_name=here)
    flags.DEFINE_string("path", "/predict", "of the URL, for http", module_name=here)
    flags.DEFINE_string("content_type", "image/jpeg", "for http", module_name=here)
    flags.DEFINE_string(
        "requests", None, "folder of requests, a file each", required=True, module_name=here
    )
    flags.DEFINE_integer("concurrency", 1, "clients", lower_bound=1, module_name=here)
    flags.DEFINE_integer("count", 300, "answers to measure", lower_bound=2, module_name=here)
    flags.DEFINE_float("seconds", 10, "to measure, at most", lower_bound=0, module_name=here)
    cli.run(_run)


def _run(_: Sequence[str]) -> None:
    values = flags.FLAGS
    messages = [path.read_bytes() for path in sorted(Path(values.requests).iterdir())]
    clients = connect(
        values.protocol, values.address, values.path, values.content_type, values.concurrency
    )
    print(json.dumps(closed_loop(clients, messages, values.count, values.seconds)))


def connect(protocol: str, address: str, path: str, content_type: str, count: int) -> list[Client]:
    """Makes clients; those of gRPC share a channel, as threads of a program do, those of HTTP have
    a connection each.

    Args:
        protocol: in `PROTOCOLS`.
        address: host:port.
        path: of the URL, for http.
        content_type: of the body, for http.
        count: how many clients.
    """
    if protocol == "grpc":
        call = grpc.insecure_channel(address).unary_unary(GRPC_METHOD)
        return [lambda message: call(message, timeout=_TIMEOUT_S)] * count

    def client() -> Client:
        connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)

        def ask(message: bytes) -> bytes:
            connection.request("POST", path, message, {"Content-Type": content_type})
            response = connection.getresponse()
            body = response.read()
            if response.status != http.client.OK:
                raise WhiskerError(f"{address}{path} answered {response.status}: {body[:200]!r}")
            return body

        return ask

    return [client() for _ in range(count)]


def closed_loop(
    clients: Sequence[Callable[[Any], object]], messages: Sequence[Any], count: int, seconds: float
) -> dict[str, float]:
    """Keeps every client busy until so many answers have come, and takes the time of each.

    The first few are not measured, and clients go on until the last one that is: beginning and end
    are as busy as the rest.

    Args:
        clients: each is used by one thread.
        messages: sent in turn; each client begins with another one.
        count: answers to measure, two or more.
        seconds: to measure, at most.

    Returns:
        `requests` that are measured, `seconds`, `per_second`, `p50_ms`, `p99_ms`; `sent`: requests
        in all, and `client_cpu_ms`: processor time of this process for each of them.

    Raises:
        WhiskerError: fewer than two answers came in time.
    """
    answered: list[tuple[float, float]] = []
    unmeasured = _WARM_UP * len(clients)

    def work(number: int) -> None:
        turn = number
        while len(answered) < unmeasured + count:
            began = time.perf_counter()
            clients[number](messages[turn % len(messages)])
            end = time.perf_counter()
            answered.append((end, end - began))
            turn += 1
            if len(answered) > unmeasured and end > answered[unmeasured - 1][0] + seconds:
                break

    processor = time.process_time()
    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(work, range(len(clients))))
    processor = time.process_time() - processor
    start, _ = answered[unmeasured - 1]
    # What came later met a server with less to do.
    measured = answered[unmeasured : unmeasured + count]
    if len(measured) < 2:
        raise WhiskerError(
            f"{len(measured)} answers in {seconds:g} s: expected 2 or more; give it more time"
        )
    percentiles = quantiles([latency for _, latency in measured], n=100, method="inclusive")
    took = measured[-1][0] - start
    return {
        "requests": len(measured),
        "seconds": took,
        "per_second": len(measured) / took,
        "p50_ms": percentiles[49] * 1e3,
        "p99_ms": percentiles[98] * 1e3,
        "sent": len(answered),
        "client_cpu_ms": processor / len(answered) * 1e3,
    }


if __name__ == "__main__":
    main()
