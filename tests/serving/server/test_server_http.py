"""What a connection may do to the REST port of a real server process, and bodies that nobody
thought of.
"""

import contextlib
import http.client
import json
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.server.asking import request, wait_until
from tests.serving.server.bodies import bodies, first_object

TIMEOUT_S = 30
HALF = "/v1/models/half:predict"
ONE = b'{"instances": [[1.0]]}'
QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module")
def more_flags():
    return ["--rest_api_num_threads=2"]


@pytest.fixture
def wire(server):
    """Gives raw connections."""
    host, port = server.client.rest.removeprefix("http://").split(":")
    opened = []

    def connect():
        opened.append(socket.create_connection((host, int(port)), timeout=TIMEOUT_S))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def post(body, path=HALF, *headers):
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def answers(connection, number=1):
    """Reads that many answers; gives code and JSON of each."""
    found = []
    with connection.makefile("rb") as file:
        for _ in range(number):
            code = int(file.readline().split()[1])
            length = int(http.client.parse_headers(file)["Content-Length"])
            found.append((code, file.read(length)))
    return found


def threads(server):
    return len(list(Path(f"/proc/{server.pid}/task").iterdir()))


def alive(wire):
    connection = wire()
    connection.sendall(post(ONE))
    return answers(connection) == [(200, b'{"predictions": [[3.5]]}')]


def test_answers_keep_the_connection_and_come_in_order(wire):
    connection = wire()
    connection.sendall(post(ONE) + post(b"{") + post(b'{"inputs": 4}'))
    codes = answers(connection, 3)
    assert [code for code, _ in codes] == [200, 400, 200]
    assert codes[2][1] == b'{"outputs": 5.0}'


@pytest.mark.parametrize("origin", ["http://localhost:8501", "HTTPS://[::1]", "http://"])
def test_target_in_absolute_form_is_that_of_its_path(wire, origin):
    connection = wire()
    targets = [HALF, "/v1/models/half/versions/1", "/healthz", "/readyz", "/v2", "?x", ""]
    connection.sendall(post(ONE, origin + HALF) + post(ONE))
    connection.sendall(b"".join(f"GET {origin}{one} HTTP/1.1\r\n\r\n".encode() for one in targets))
    found = answers(connection, 2 + len(targets))
    assert found[:2] == [(200, b'{"predictions": [[3.5]]}')] * 2
    assert [code for code, _ in found[2:]] == [400, 200, 200, 200, 404, 404, 404]
    # An address inside of a path is a part of it.
    connection.sendall(f"GET /v1/models/http:{origin}{HALF} HTTP/1.1\r\n\r\n".encode())
    assert answers(connection)[0][0] == 400


def test_probe_in_absolute_form_has_the_threads_of_probes(wire, server):
    # Both threads of models are held by calls that wait for each other.
    waiting = [wire() for _ in range(2)]
    body = b'{"signature_name": "wait", "instances": [1.0]}'
    for one in waiting:
        one.sendall(post(body, "http://x/v1/models/probe:predict"))
    connection = wire()
    connection.sendall(b"GET http://x/healthz HTTP/1.1\r\n\r\n")
    assert answers(connection) == [(200, b'{"status": "ok"}')]
    release = request("probe", {"seconds": np.zeros(1, np.float32)}, "release")
    server.client.predict(release)
    assert [answers(one)[0][0] for one in waiting] == [200, 200]


def test_half_closed_connection_is_answered(wire):
    connection = wire()
    connection.sendall(post(ONE))
    connection.shutdown(socket.SHUT_WR)
    assert answers(connection) == [(200, b'{"predictions": [[3.5]]}')]


def test_chunked_body_and_expectation_are_understood(wire):
    connection = wire()
    connection.sendall(
        f"POST {HALF} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect:"
        " 100-continue\r\n\r\n".encode()
    )
    assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(b"".join(b"1\r\n%c\r\n" % byte for byte in ONE) + b"0\r\n\r\n")
    assert answers(connection) == [(200, b'{"predictions": [[3.5]]}')]


def test_body_that_is_too_large_is_refused_before_it_is_read(wire):
    connection = wire()
    connection.sendall(
        f"POST {HALF} HTTP/1.1\r\nHost: x\r\nContent-Length: {2**60}\r\n\r\n{{".encode()
    )
    assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "head",
    [
        b"\x00\xff\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /v1/models/half:predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/models/half:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /v1/models/half:predict HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 60_000 + b"\r\n",
    ],
    ids=["bytes", "no path", "length", "chunk", "transfer", "headers"],
)
def test_request_that_is_no_http_is_refused_and_the_connection_closed(wire, head):
    connection = wire()
    connection.sendall(head)
    ((code, _),) = answers(connection)
    assert 400 <= code <= 501
    # With a reset where more came than was read.
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b""


def test_slow_and_silent_connections_hold_no_thread(wire, server):
    before = threads(server)
    slow = [wire() for _ in range(200)]
    for connection in slow:
        connection.sendall(post(ONE)[:-1])
    # All of them are accepted, and others are answered meanwhile.
    assert alive(wire)
    assert threads(server) == before
    for connection in slow:
        connection.sendall(ONE[-1:])
    assert [answers(connection)[0][0] for connection in slow] == [200] * 200


def test_client_that_does_not_read_its_answer_holds_no_thread(wire):
    body = json.dumps({"instances": [[0.333333333]] * 200_000}).encode()
    deaf = [wire() for _ in range(3)]
    senders = [
        threading.Thread(target=connection.sendall, args=(post(body),)) for connection in deaf
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    for connection in deaf:
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
    assert all(alive(wire) for _ in range(20))


def test_client_that_leaves_is_forgotten(wire, server):
    for _ in range(50):
        connection = wire()
        connection.sendall(post(ONE)[:-1])
        connection.close()
    assert alive(wire)
    wait_until(lambda: len(list(Path(f"/proc/{server.pid}/fd").iterdir())) < 100)
    assert "Traceback" not in server.log.read_text()


class Talker:
    """One connection, opened anew where the server closed it."""

    def __init__(self, wire):
        self.wire = wire
        self.connection = wire()

    def ask(self, request):
        try:
            self.connection.sendall(request)
            return answers(self.connection)[0]
        except (OSError, IndexError):
            self.connection = self.wire()
            self.connection.sendall(request)
            return answers(self.connection)[0]


def halved(value):
    """What the model makes of a value, computed without the server."""
    return np.asarray(value, np.float32) / np.float32(2) + np.float32(3)


def check_answer(body, code, answer):
    """Every refusal says why; every answer has the numbers of the model's function."""
    if code != 200:
        assert code in (400, 501), (code, answer)
        assert list(json.loads(answer)) == ["error"]
        return
    document = first_object(body)
    if "instances" in document:
        rows = [row["x"] if isinstance(row, dict) else row for row in document["instances"]]
        expected, found = halved(rows), json.loads(answer)["predictions"]
    else:
        value = document["inputs"]
        expected, found = (
            halved(value["x"] if isinstance(value, dict) else value),
            json.loads(answer)["outputs"],
        )
    assert np.array_equal(np.asarray(found, np.float32), expected, equal_nan=True)


def fuzz(wire, number, derandomize):
    talker = Talker(wire)

    @settings(
        max_examples=number,
        deadline=None,
        derandomize=derandomize,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(bodies(("x",)))
    def run(body):
        check_answer(body, *talker.ask(post(body)))

    run()


def test_no_body_crashes_the_server_or_gets_wrong_numbers(wire, server):
    fuzz(wire, 400, derandomize=True)
    assert alive(wire)
    assert "Traceback" not in server.log.read_text()


@pytest.mark.long
def test_no_body_of_very_many_crashes_the_server_or_gets_wrong_numbers(wire, server):
    fuzz(wire, 20_000, derandomize=False)
    assert alive(wire)
    assert "Traceback" not in server.log.read_text()


@settings(max_examples=100, derandomize=True, **QUIET)
@given(place=st.integers(0, 10**6), junk=st.binary(max_size=8), cut=st.integers(0, 20))
def test_request_with_bytes_out_of_place_is_refused_or_answered(wire, place, junk, cut):
    request = post(ONE, HALF, "Connection: close")
    place %= len(request)
    connection = wire()
    connection.sendall(request[:place] + junk + request[place + cut :])
    connection.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionResetError), connection.makefile("rb") as file:
        line = file.readline()
        # Nothing at all, where the request never ended.
        assert line == b"" or 200 <= int(line.split()[1]) <= 501
        assert b" 500 " not in line
    connection.close()


def test_server_is_alive_after_all_this(wire, server):
    assert alive(wire)
    assert server.poll() is None
