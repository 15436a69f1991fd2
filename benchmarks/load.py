"""Loads a server from a process of its own: each of N clients asks again as soon as it is answered.

  python -m benchmarks.load --address=127.0.0.1:8500 --requests=folder --concurrency=8

Requests are sent as they lie in the files of the folder: nothing is built or parsed while time is
taken. With --echo=file it is instead the server that does nothing, which answers every request with
the bytes of that file: what is left of a request's time is gRPC in Python.
"""

import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import quantiles
from typing import Any

import grpc
from absl import app, flags

PREDICT = "/tensorflow.serving.PredictionService/Predict"
_ECHO_THREADS = 32  # as many as clients at most
_TIMEOUT_S = 60.0
_WARM_UP = 3  # requests of each client, about, that are not measured

# Sends one request and gives the body of its answer.
Client = Callable[[bytes], bytes]


def main() -> None:
    """Entry point."""
    flags.DEFINE_string("address", None, "host:port of the server", required=True)
    flags.DEFINE_string("content_type", "", "of a request to /predict over HTTP; empty: gRPC")
    flags.DEFINE_string("requests", None, "folder of requests, a file each")
    flags.DEFINE_integer("concurrency", 1, "clients", lower_bound=1)
    flags.DEFINE_integer("count", 300, "answers to measure", lower_bound=2)
    flags.DEFINE_float("seconds", 10, "to measure, at most", lower_bound=0)
    flags.DEFINE_string("echo", None, "file of the answer: be the server of that address")
    app.run(_run)


def _run(_: Sequence[str]) -> None:
    values = flags.FLAGS
    if values.echo:
        server, _port = echo({PREDICT: Path(values.echo).read_bytes()}, values.address)
        server.wait_for_termination()
        return
    messages = [path.read_bytes() for path in sorted(Path(values.requests).iterdir())]
    clients = connect(values.address, values.content_type, values.concurrency)
    print(json.dumps(closed_loop(clients, messages, values.count, values.seconds)))


def echo(answers: Mapping[str, bytes], address: str) -> tuple[grpc.Server, int]:
    """Starts a gRPC server that neither reads nor builds messages.

    Args:
        answers: path of a method to what it answers.
        address: host:port; port 0: a free one.

    Returns:
        The server and its port.
    """
    handlers = {
        path: grpc.unary_unary_rpc_method_handler(lambda *_, answer=answer: answer)
        for path, answer in answers.items()
    }

    class Handler(grpc.GenericRpcHandler):
        def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            return handlers.get(call.method)

    server = grpc.server(ThreadPoolExecutor(_ECHO_THREADS), handlers=[Handler()])
    port = server.add_insecure_port(address)
    server.start()
    return server, port


def connect(address: str, content_type: str, count: int) -> list[Client]:
    """Makes clients; those of gRPC share a channel, as threads of a program do, those of HTTP have
    a connection each.

    Args:
        address: host:port.
        content_type: of the body, over HTTP; empty: gRPC.
        count: how many clients.
    """
    if not content_type:
        call = grpc.insecure_channel(address).unary_unary(PREDICT)
        return [lambda message: call(message, timeout=_TIMEOUT_S)] * count

    def client() -> Client:
        connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)

        def ask(message: bytes) -> bytes:
            connection.request("POST", "/predict", message, {"Content-Type": content_type})
            response = connection.getresponse()
            body = response.read()
            if response.status != http.client.OK:
                raise RuntimeError(f"{address} answered {response.status}: {body[:200]!r}")
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
        RuntimeError: fewer than two answers came in time.
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
        raise RuntimeError(
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
