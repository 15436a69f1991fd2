"""What one client may ask of a real server process, and what it may keep from others."""

import contextlib
import http.client
import socket
import struct
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from tensorflow_serving.apis import predict_pb2

from serving.server.handlers import Limits
from serving.server.status import StatusError
from tests.serving.server.asking import refusal, request, silent_calls, wait_until

BODY = b'{"instances": [[1.0]]}'
HEAD = b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
MOST_BYTES, MOST_JSON, MOST_PIXELS, ARRIVAL_S = 1_000_000, 10_000, 100_000, 5
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 100, 200)


@pytest.fixture(scope="module")
def more_flags():
    return [
        f"--max_request_bytes={MOST_BYTES}",
        f"--max_json_bytes={MOST_JSON}",
        f"--max_pixels={MOST_PIXELS}",
        f"--request_arrival_timeout_in_ms={ARRIVAL_S * 1000}",
        "--max_connections_per_peer=64",
        "--rest_api_num_threads=1",
        "--enable_grpc_healthcheck_service",
    ]


def repeated(model, name, dtype, shape, value=None, signature=""):
    """A request whose one value, or none, stands for all elements of a shape."""
    message = predict_pb2.PredictRequest(model_spec={"name": model, "signature_name": signature})
    tensor = message.inputs[name]
    tensor.dtype = dtype.as_datatype_enum
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    if value is not None:
        tensor.string_val.append(value)
    return message


def answered(server):
    one = request("half", {"x": np.ones((1, 1), np.float32)})
    return server.client.predict(one, timeout_s=20).model_spec.version.value == 2 and (
        server.client.http("/v1/models/half:predict", BODY) == (200, {"predictions": [[3.5]]})
    )


def resident(server):
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (repeated("probe", "s", tf.string, [1001], b""), "1001 rows: at most 1000"),
        (repeated("probe", "s", tf.string, [100_000], b"x"), "6500000 bytes: at most 1000000"),
        (repeated("probe", "s", tf.string, [900], b"x" * 2000), "1857600 bytes: at most 1000000"),
        (repeated("probe", "s", tf.string, [6], PNG), "120000 pixels: at most 100000"),
        (repeated("half", "x", tf.float32, [2**28, 1]), "1073741824 bytes: at most 1000000"),
        (repeated("half", "x", tf.float32, [2**40, 2**20]), "tensor parsing error: x"),
        (repeated("half", "x", tf.float32, [1001, 1, 1, 1]), "1001 rows: at most 1000"),
    ],
    ids=["rows", "many", "long", "pixels", "bytes", "overflow", "pictures"],
)
def test_few_bytes_that_ask_for_much_are_refused_at_once(server, message, what):
    before = resident(server)
    code, details = refusal(server.client.predict, message)
    assert code == "INVALID_ARGUMENT"
    assert what in details
    assert resident(server) - before < 50_000
    assert answered(server)


def test_what_is_within_the_bounds_is_answered(server):
    rows = np.ones((200_000, 1), np.float32)
    assert (
        len(server.client.predict(request("half", {"x": rows})).outputs["y"].float_val) == 200_000
    )
    strings = repeated("probe", "s", tf.string, [5], PNG)
    assert list(server.client.predict(strings).outputs["length"].int_val) == [len(PNG)] * 5


@pytest.mark.parametrize("shape", [(), (0,), (0, 3, 2)], ids=str)
def test_input_without_rows_is_within_every_bound(shape):
    Limits(rows=1, nbytes=100, pixels=0).check({"x": np.zeros(shape, np.float32)})
    Limits(rows=1, nbytes=100, pixels=0).check({"x": np.full(shape, b"", object)})


def test_rows_given_by_flag_bound_numbers_too():
    with pytest.raises(StatusError, match="3 rows: at most 2 .--max_request_rows"):
        Limits(rows=2, nbytes=100, pixels=0).check({"x": np.zeros(3, np.float32)})


def test_message_and_body_that_are_too_long_are_refused_before_they_are_read(server):
    code, details = refusal(
        server.client.predict, request("half", {"x": np.ones((MOST_BYTES, 1), np.float32)})
    )
    assert (code, "larger than max" in details) == ("RESOURCE_EXHAUSTED", True)
    connection = http.client.HTTPConnection("127.0.0.1", server.ports["rest_api_port"], timeout=20)
    connection.putrequest("POST", "/v1/models/half:predict")
    connection.putheader("Content-Length", str(MOST_JSON + 1))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert b"more than 10000 bytes (--max_json_bytes of this server)" in response.read()
    connection.close()
    fits = BODY.ljust(MOST_JSON)
    assert server.client.http("/v1/models/half:predict", fits)[0] == 200


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /v1/mod", HEAD % 100 + b'{"inst'],
    ids=["idle", "half a head", "half a body"],
)
def test_probes_are_answered_beside_600_connections_that_dribble(server, sent):
    with ExitStack() as stack:
        address = ("127.0.0.1", server.ports["rest_api_port"])
        crowd = [
            stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(600)
        ]
        for one in crowd:
            # Those that were closed already may refuse.
            with contextlib.suppress(OSError):
                one.sendall(sent)
        assert server.client.http("/healthz") == (200, {"status": "ok"})
        assert answered(server)
        # None but the last 64 are left.
        for one in crowd[:-64]:
            assert _closed(one)


def test_request_that_dribbles_is_cut_off(server):
    address = ("127.0.0.1", server.ports["rest_api_port"])
    with socket.create_connection(address, timeout=20) as one:
        one.settimeout(0.2)
        end = time.monotonic() + 4 * ARRIVAL_S
        for byte in HEAD % 100 + b'{"inst' + b" " * 1000:
            try:
                one.sendall(bytes([byte]))
                if one.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
            finally:
                assert time.monotonic() < end
        else:
            pytest.fail("the server waits for ever")
    assert answered(server)


def test_probe_is_answered_while_every_thread_of_rest_is_at_work(server):
    wait = b'{"signature_name": "wait", "instances": [1.0]}'
    asked = threading.Thread(
        target=server.client.http, args=("/v1/models/probe:predict", wait), daemon=True
    )
    asked.start()
    try:
        wait_until(lambda: _arrived(server) == 1)
        assert server.client.http("/healthz") == (200, {"status": "ok"})
        assert server.client.http("/readyz") == (200, {"status": "ok"})
        assert asked.is_alive()
    finally:
        server.client.predict(request("probe", {"seconds": np.float32([0])}, "release"))
        asked.join(20)


def _arrived(server):
    answer = server.client.predict(request("probe", {"x": np.float32([0])}, "arrived"))
    return answer.outputs["count"].float_val[0]


def test_calls_that_never_send_their_message_end_and_others_are_answered(server):
    check = server.client.channel.unary_unary(
        "/grpc.health.v1.Health/Check", StringValue.SerializeToString, Int32Value.FromString
    )
    with silent_calls(server, 9, 128) as calls:
        # Of more than 512 the oldest end at once.
        wait_until(lambda: sum(call.done() for call in calls) >= 9 * 128 - 512)
        assert check(StringValue(), timeout=10).value == 1
        assert answered(server)
        wait_until(lambda: all(call.done() for call in calls))
        assert {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}
    assert answered(server)


def _closed(one):
    try:
        return one.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True
