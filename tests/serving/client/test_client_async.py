import asyncio

import grpc
import pytest

from serving.client import errors
from serving.client.async_client import AsyncPredictClient
from serving.client.predict_client import Prediction


def run(stand_in, ask, **arguments):
    """Runs a coroutine function with a client of the stand-in."""

    async def session():
        async with AsyncPredictClient(stand_in.address, **arguments) as client:
            return await ask(client)

    return asyncio.run(session())


async def collect(outcomes):
    return [outcome async for outcome in outcomes]


def test_predict_gives_what_the_other_client_gives(stand_in, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"dogs 0.75")

    async def ask(client):
        return [await client.predict(picture) for picture in (b"dogs 0.75", path)]

    assert (
        run(stand_in, ask)
        == [Prediction("dogs", 0.75, {"cats": 0.25, "dogs": 0.75}, 3, unsure=False)] * 2
    )


def test_predict_many_keeps_order_and_gives_every_item_its_outcome(stand_in, tmp_path):
    pictures = [f"dogs {1 - number / 128}".encode() for number in range(64)]
    pictures[10], pictures[20] = b"rubbish", tmp_path / "missing.jpg"
    outcomes = run(stand_in, lambda client: collect(client.predict_many(pictures, concurrency=5)))
    assert type(outcomes.pop(20)) is errors.UnreadablePicture
    assert type(outcomes.pop(10)) is errors.NotAPicture
    expected = [1 - number / 128 for number in range(64) if number not in (10, 20)]
    assert [outcome.probability for outcome in outcomes] == expected
    assert stand_in.metadata == 1


def test_predict_many_asks_as_many_as_the_concurrency_at_a_time_and_reads_no_further(stand_in):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield b"slow" if taken == 1 else b"cats 0.5"

    async def ask(client):
        outcomes = client.predict_many(endless(), concurrency=3)
        first = asyncio.ensure_future(anext(outcomes))
        arrived = await asyncio.to_thread(stand_in.arrived, 3)
        stand_in.released.set()
        assert (await first).label == "cats"
        assert (await anext(outcomes)).label == "cats"
        await outcomes.aclose()
        return arrived

    assert run(stand_in, ask)
    assert taken == 4


def test_failure_has_the_type_that_the_other_client_gives_it(stand_in):
    async def ask(client):
        with pytest.raises(errors.DeadlineExceeded) as caught:
            await client.predict(b"slow")
        assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(errors.InvalidRequest, match="no signature 'other one': the model has"):
            await client.predict_raw({"x": [1.0]}, signature="other one")

    run(stand_in, ask, timeout_s=0.2)


def test_lost_answer_is_asked_for_again_also_for_a_large_picture(stand_in):
    stand_in.failures.extend([(grpc.StatusCode.UNAVAILABLE, "queue full")] * 2)
    answer = run(stand_in, lambda client: client.predict(b"dogs 0.75 " + bytes(600_000)))
    assert answer.label == "dogs"
    assert len(stand_in.requests) == 3


def test_wait_until_ready_goes_on_until_a_version_is_available(stand_in):
    stand_in.failures.append(
        (grpc.StatusCode.NOT_FOUND, "Could not find any versions of model whisker")
    )
    stand_in.states.extendleft([{3: "LOADING"}, {}])
    run(stand_in, lambda client: client.wait_until_ready(10))
    assert stand_in.statuses == 4
    assert run(stand_in, lambda client: client.model_versions()) == {3: "AVAILABLE"}


def test_call_under_way_when_the_client_closes_fails_with_one_line(stand_in):
    async def ask(client):
        asking = asyncio.ensure_future(client.predict(b"slow"))
        assert await asyncio.to_thread(stand_in.arrived, 1)
        await client.close()
        with pytest.raises(errors.ClientError, match="closed before the answer came"):
            await asking
        with pytest.raises(errors.InvalidRequest, match="closed: make another"):
            await client.predict(b"dogs 0.75")

    run(stand_in, ask)


def test_client_outside_of_an_event_loop_is_refused():
    with pytest.raises(errors.InvalidRequest, match="inside a coroutine"):
        AsyncPredictClient()


def test_interceptors_of_the_caller_see_every_call(stand_in):
    seen = []

    class Watch(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, details, request):
            seen.append(details)
            return await continuation(details, request)

    run(stand_in, lambda client: client.predict(b"dogs 0.75"), interceptors=[Watch()])
    assert len(seen) == 2
