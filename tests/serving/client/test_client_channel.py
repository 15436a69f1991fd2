import threading

import grpc
import pytest

from serving.client import channel
from serving.client.errors import ClientError, InvalidRequest, ServerUnavailable
from serving.client.predict_client import PredictClient

BUSY = (grpc.StatusCode.UNAVAILABLE, "queue full")


def test_unavailable_is_retried_for_a_large_picture(stand_in):
    stand_in.failures.extend([BUSY, BUSY])
    with PredictClient(stand_in.address) as client:
        assert client.predict(b"dogs 0.75 " + bytes(600_000)).label == "dogs"
    assert len(stand_in.requests) == 3


def test_unavailable_is_given_up_after_four_attempts(stand_in):
    stand_in.failures.extend([BUSY] * 10)
    with (
        PredictClient(stand_in.address) as client,
        pytest.raises(ServerUnavailable, match="queue full") as caught,
    ):
        client.predict(b"dogs 0.75")
    assert len(stand_in.requests) == 4
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("rounds", [4, pytest.param(50, marks=pytest.mark.long)])
def test_replica_that_stops_loses_no_request(stand_in_class, rounds):
    stays, goes = stand_in_class(), stand_in_class()
    for replica in (stays, goes):
        replica.start()
    ended, failures = threading.Event(), []

    def ask():
        while not ended.is_set():
            try:
                client.predict(b"dogs 0.75 " + bytes(20_000))
            except ClientError as error:
                failures.append(error)

    with PredictClient([stays.address, goes.address]) as client:
        threads = [threading.Thread(target=ask) for _ in range(64)]
        for thread in threads:
            thread.start()
        for _ in range(rounds):
            # Both are at work, with as many requests under way as there are threads.
            assert goes.arrived(150)
            goes._server.stop(20).wait()
            goes = stand_in_class(goes.port)
            goes.start()
        ended.set()
        for thread in threads:
            thread.join(20)
    for replica in (stays, goes):
        replica.stop()
    assert failures == []


def test_other_statuses_are_not_retried(stand_in):
    stand_in.failures.append(
        (grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error: image_bytes")
    )
    with (
        PredictClient(stand_in.address) as client,
        pytest.raises(InvalidRequest, match="tensor parsing error"),
    ):
        client.predict(b"dogs 0.75")
    assert len(stand_in.requests) == 1


def test_answer_above_four_mebibytes_is_received(stand_in):
    stand_in.classes[3] = ("dogs", "x" * 5_000_000)
    with PredictClient(stand_in.address) as client:
        answer = client.predict_raw({"image_bytes": [b"dogs 0.75"]})
    assert answer["classes"] == [[b"dogs", b"x" * 5_000_000]]


def test_every_client_has_a_connection_of_its_own(stand_in):
    with PredictClient(stand_in.address) as one, PredictClient(stand_in.address) as other:
        for client in (one, other, one):
            client.predict(b"dogs 0.75")
    assert len(stand_in.peers) == 2


def test_nothing_is_retried_for_a_server_that_fails_again_and_again(stand_in):
    stand_in.failures.extend([BUSY] * 1000)
    with PredictClient(stand_in.address) as client:
        outcomes = list(client.predict_many([b"dogs 0.75"] * 150, concurrency=50))
    assert {type(outcome) for outcome in outcomes} == {ServerUnavailable}
    # Four attempts each would be 600.
    assert 150 <= len(stand_in.requests) < 300


def test_pings_are_neither_too_many_for_servers_nor_too_few_for_google_cloud():
    # gRPC servers close connections that ping within 300 s; Google Cloud forgets those that are
    # idle for 600 s.
    assert 300_000 < dict(channel._OPTIONS)["grpc.keepalive_time_ms"] < 600_000
