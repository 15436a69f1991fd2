"""Clients that send half of something, read nothing or vanish: the others are answered all the
while.
"""

import socket
import struct
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.serving.server.asking import request, silent_calls, wait_until

HEAD = b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
BODY = b'{"instances": [[1.0]]}'
CONNECTIONS = 200


@pytest.fixture
def connect(server):
    """Makes connections to the REST port; all are closed in the end."""
    with ExitStack() as stack:
        port = server.ports["rest_api_port"]
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))


def answered(server):
    one = request("half", {"x": np.ones((1, 1), np.float32)})
    return server.client.predict(one, timeout_s=20).model_spec.version.value == 2 and (
        server.client.http("/v1/models/half:predict", BODY) == (200, {"predictions": [[3.5]]})
    )


def status(server, name):
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def test_calls_that_never_send_their_message_leave_the_others_alone(server):
    before = status(server, "Threads")
    with silent_calls(server, 3, 150):
        # A connection may have 128 calls at a time.
        wait_until(lambda: status(server, "Threads") >= before + 3 * 128 - 16)
        assert status(server, "Threads") <= before + 3 * 128 + 16
        assert answered(server)
    assert answered(server)


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /v1/mod", HEAD % 100 + b'{"inst'],
    ids=["nothing", "half a head", "half a body"],
)
def test_connections_that_stop_in_the_middle_leave_the_others_alone(server, connect, sent):
    for _ in range(CONNECTIONS):
        connect().sendall(sent)
    before = status(server, "Threads")
    assert answered(server)
    assert status(server, "Threads") <= before + 16


def test_gRPC_connections_that_say_nothing_or_nonsense_leave_the_others_alone(server):  # noqa: N802
    with ExitStack() as stack:
        for number in range(CONNECTIONS):
            address = ("127.0.0.1", server.ports["port"])
            one = stack.enter_context(socket.create_connection(address, timeout=20))
            one.sendall((b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00\xff" * 100)[number % 3])
        assert answered(server)
    assert answered(server)


def test_half_closed_connection_is_let_go_and_a_reset_one_too(server, connect):
    connections = [connect() for _ in range(20)]
    for number, one in enumerate(connections):
        one.sendall(HEAD % len(BODY) + BODY[:5])
        if number % 2:
            one.shutdown(socket.SHUT_WR)
            # The server has seen the end: it answers what it made of this, or closes.
            one.makefile("rb").read()
        else:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
    assert answered(server)


def test_clients_that_read_no_answer_cost_no_more_than_what_is_sent_to_them(server, connect):
    rows = b",".join([b"1.0"] * 300_000)
    body = b'{"signature_name": "add", "inputs": {"left": [%s], "right": [%s]}}' % (rows, rows)
    head = (HEAD % len(body)).replace(b"models/half", b"models/probe")
    before = status(server, "VmRSS")
    readers = [connect() for _ in range(4)]
    for one in readers:
        one.sendall(head + body)
    assert answered(server)
    # The last in the queue: when its answer begins, those of the others are made.
    for one in readers:
        assert one.recv(15) == b"HTTP/1.1 200 OK"
    assert answered(server)
    # 4 answers of 1.5 MB are nothing beside the limit, which guards against keeping what was
    # parsed.
    assert status(server, "VmRSS") - before < 200_000
