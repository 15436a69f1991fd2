"""Whisker's client and a real server process, with connections between that do not hold."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from serving.client.async_client import AsyncPredictClient
from serving.client.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    ServerUnavailable,
    WrongProtocol,
)
from serving.client.predict_client import PredictClient
from tests.serving.proxy import FAULTS, FaultyProxy

VALUES = 4000  # 16 kB a request
TIMEOUT_S = 5.0
CONCURRENCY = 8


@pytest.fixture
def address(server):
    return f"127.0.0.1:{server.ports['port']}"


def inputs(number):
    return {"x": np.full((VALUES, 1), number, np.float32)}


def outcomes_of_threads(address, count):
    def ask(number):
        try:
            return client.predict_raw(inputs(number))
        except ClientError as error:
            return error

    with (
        PredictClient(address, "half", timeout_s=TIMEOUT_S) as client,
        ThreadPoolExecutor(CONCURRENCY) as pool,
    ):
        return list(pool.map(ask, range(count)))


def outcomes_of_tasks(address, count):
    async def ask(client, slots, number):
        async with slots:
            try:
                return await client.predict_raw(inputs(number))
            except ClientError as error:
                return error

    async def ask_all():
        slots = asyncio.Semaphore(CONCURRENCY)
        async with AsyncPredictClient(address, "half", timeout_s=TIMEOUT_S) as client:
            return await asyncio.gather(*(ask(client, slots, number) for number in range(count)))

    return asyncio.run(ask_all())


@pytest.mark.parametrize("outcomes_of", [outcomes_of_threads, outcomes_of_tasks])
@pytest.mark.parametrize("count", [100, pytest.param(5000, marks=pytest.mark.long)])
def test_every_request_is_answered_right_or_fails_with_its_type_where_connections_do_not_hold(
    server, outcomes_of, count
):
    # One fault in what 10 requests and their answers take; which bytes come together is chance.
    with FaultyProxy(server.ports["port"], seed=8, bytes_per_fault=10 * 2 * VALUES * 4) as proxy:
        outcomes = outcomes_of(proxy.address, count)
    failed = [outcome for outcome in outcomes if isinstance(outcome, ClientError)]
    assert len(outcomes) == count
    assert sum(proxy.faults.values()) > count / 1000
    assert {type(error) for error in failed} <= {ServerUnavailable, DeadlineExceeded}
    # Most faults cost nobody anything: the lost requests were asked again.
    assert len(failed) <= count / 10
    for number, outcome in enumerate(outcomes):
        if not isinstance(outcome, ClientError):
            assert set(outcome["y"].ravel()) == {number / 2 + 3}
    assert count < 1000 or set(proxy.faults) == set(FAULTS)


def test_any_signature_answers_in_the_types_of_the_inputs(address):
    values = {"f": [1.5, -2.0], "i": [1 << 40, -1], "b": [True, False], "s": [b"\xff", b""]}
    with PredictClient(address, "probe") as client:
        lists = client.predict_raw(values, signature="echo", output_filter=["f", "i", "b", "s"])
        arrays = client.predict_raw(
            {
                name: np.array(value, object if name == "s" else None)
                for name, value in values.items()
            },
            signature="echo",
        )
    assert lists == values
    assert {name: array.tolist() for name, array in arrays.items()} == {
        **values,
        "s_bytes": values["s"],
    }
    # float64 was sent as the float32 that the signature states.
    assert arrays["f"].dtype == np.float32


def test_numbers_of_every_type_come_back(address):
    values = {name: [1.5, -2.0] for name in ("float16", "bfloat16", "float32", "float64")}
    values |= {name: [1.5 - 2j, 3.0] for name in ("complex64", "complex128")}
    values |= {f"int{bits}": [-(1 << bits - 1), (1 << bits - 1) - 1] for bits in (8, 16, 32, 64)}
    values |= {f"uint{bits}": [0, (1 << bits) - 1] for bits in (8, 16, 32, 64)}
    # NumPy has no bfloat16: float32 goes there, and comes back.
    kinds = {name: "float32" if name == "bfloat16" else name for name in values}
    arrays = {name: np.array(values[name], kind) for name, kind in kinds.items()}
    with PredictClient(address, "probe") as client:
        lists = client.predict_raw(values, signature="numbers")
        found = client.predict_raw(arrays, signature="numbers")
    assert lists == values
    assert {name: array.dtype.name for name, array in found.items()} == kinds
    assert {name: array.tolist() for name, array in found.items()} == values


@pytest.mark.parametrize(
    ("inputs", "signature", "outputs", "text"),
    [
        ({"x": [[1.0]]}, "half", (), r"no signature 'half': the model has '.*', 'serving_default'"),
        (
            {"y": [[1.0]]},
            None,
            (),
            r"inputs 'y': signature 'serving_default' takes x float32 \[\?, 1\]",
        ),
        (
            {"x": [["one"]]},
            None,
            (),
            r"input 'x' is values that are not float32: .* takes x float32",
        ),
        (
            {"x": np.zeros((1, 1), complex)},
            None,
            (),
            r"input 'x' is an array of complex128 for",
        ),
        ({"x": [[1.0], [1.0, 2.0]]}, None, (), r"input 'x' is lists of different lengths"),
        (
            {"x": [[1.0]]},
            None,
            ["z"],
            r"outputs 'z': signature 'serving_default' answers y float32",
        ),
    ],
    ids=["signature", "name", "type", "array", "ragged", "output"],
)
def test_request_that_the_signature_does_not_take_is_refused_before_it_is_sent(
    address, inputs, signature, outputs, text
):
    sent = []

    class Watch(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, details, request):
            sent.append(details.method.rpartition("/")[2])
            return continuation(details, request)

    with (
        PredictClient(address, "half", interceptors=[Watch()]) as client,
        pytest.raises(InvalidRequest, match=text),
    ):
        client.predict_raw(inputs, signature=signature, output_filter=outputs)
    assert set(sent) == {"GetModelMetadata"}


def test_picture_for_the_signature_of_another_model_is_refused_before_it_is_sent(address):
    with (
        PredictClient(address, "half") as client,
        pytest.raises(
            InvalidRequest,
            match=r"inputs 'image_bytes': signature 'serving_default' takes x float32",
        ),
    ):
        client.predict(b"a picture")


def test_port_of_rest_is_named_as_such(server):
    address = f"127.0.0.1:{server.ports['rest_api_port']}"
    with (
        PredictClient(address) as client,
        pytest.raises(WrongProtocol, match="not a gRPC port") as caught,
    ):
        client.wait_until_ready(60)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
