import grpc
import pytest

from serving.client.errors import InvalidRequest, ServerUnavailable
from serving.client.predict_client import PredictClient

BUSY = (grpc.StatusCode.UNAVAILABLE, "queue full")


def test_unavailable_is_retried_for_a_large_picture(stand_in):
    stand_in.failures.extend([BUSY, BUSY])
    with PredictClient(stand_in.address) as client:
        assert client.predict(b"dogs 0.75 " + bytes(600_000)).label == "dogs"
    assert len(stand_in.requests) == 3


def test_unavailable_is_given_up_after_four_attempts(stand_in):
    stand_in.failures.extend([BUSY] * 10)
    with PredictClient(stand_in.address) as client, pytest.raises(ServerUnavailable, match="queue full") as caught:
        client.predict(b"dogs 0.75")
    assert len(stand_in.requests) == 4
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_other_statuses_are_not_retried(stand_in):
    stand_in.failures.append((grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error: image_bytes"))
    with PredictClient(stand_in.address) as client, pytest.raises(InvalidRequest, match="tensor parsing error"):
        client.predict(b"dogs 0.75")
    assert len(stand_in.requests) == 1


def test_answer_above_four_mebibytes_is_received(stand_in):
    stand_in.classes[3] = ("dogs", "x" * 5_000_000)
    with PredictClient(stand_in.address) as client:
        assert list(client.predict(b"dogs 0.75").probabilities) == ["dogs", "x" * 5_000_000]
