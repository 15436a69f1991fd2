import socket
import threading

import grpc
import pytest

from serving.client import errors
from serving.client.predict_client import PredictClient, Prediction
from whisker_ml import contract


@pytest.fixture
def client(stand_in):
    with PredictClient(stand_in.address) as client:
        yield client


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_predict_gives_label_probabilities_in_class_order_and_version(client):
    expected = Prediction("dogs", 0.75, {"cats": 0.25, "dogs": 0.75}, 3, unsure=False)
    assert client.predict(b"dogs 0.75") == expected
    assert list(client.predict(b"dogs 0.75").probabilities) == ["cats", "dogs"]


def test_answer_says_whether_the_model_is_sure(client, stand_in):
    asked = [b"dogs 0.75 unsure", b"dogs 0.75", b"cats 0.5 unsure"]
    assert [client.predict(picture).unsure for picture in asked] == [True, False, True]
    assert contract.OUTPUT_UNSURE in stand_in.requests[-1].output_filter


def test_version_of_before_does_not_say_whether_it_is_sure(client, stand_in, monkeypatch):
    monkeypatch.setattr(stand_in, "outputs", contract.FIRST_OUTPUTS)
    for _ in range(2):
        assert client.predict(b"dogs 0.5 unsure").unsure is None
    assert len(stand_in.requests) == 2, "its signature says what may be asked for"


def test_server_that_rolls_back_to_a_version_of_before_goes_on_answering(
    client, stand_in, monkeypatch
):
    assert client.predict(b"dogs 0.5 unsure").unsure
    monkeypatch.setattr(stand_in, "outputs", contract.FIRST_OUTPUTS)
    stand_in.version = 2
    stand_in.classes[2] = stand_in.classes[3]
    assert client.predict(b"dogs 0.75") == Prediction("dogs", 0.75, {"cats": 0.25, "dogs": 0.75}, 2)


def test_other_refusals_are_not_asked_twice(client, stand_in):
    client.predict(b"dogs 0.75")
    stand_in.failures.append((grpc.StatusCode.INVALID_ARGUMENT, "the batch is too large"))
    with pytest.raises(errors.InvalidRequest, match="too large"):
        client.predict(b"dogs 0.75")
    assert len(stand_in.requests) == 2


def test_predict_reads_the_file_of_a_path(client, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"cats 0.5")
    assert client.predict(path).label == client.predict(str(path)).label == "cats"


def test_request_carries_model_signature_and_version(stand_in):
    stand_in.version, stand_in.classes[7] = 7, stand_in.classes[3]
    with PredictClient(stand_in.address, version=7, signature="other") as client:
        client.predict(b"dogs 0.75")
    (request,) = stand_in.requests
    assert request.model_spec.name == contract.DEFAULT_MODEL_NAME
    assert request.model_spec.signature_name == "other"
    assert request.model_spec.version.value == 7
    assert request.inputs[contract.INPUT_BYTES].tensor_shape.dim[0].size == 1


def test_request_carries_label_and_no_version(stand_in):
    with PredictClient(stand_in.address, label="stable") as client:
        client.predict(b"dogs 0.75")
    assert stand_in.requests[0].model_spec.WhichOneof("version_choice") == "version_label"


def test_class_names_are_asked_for_once(client, stand_in):
    for _ in range(3):
        client.predict(b"dogs 0.75")
    assert [contract.OUTPUT_CLASSES in request.output_filter for request in stand_in.requests] == [
        False
    ] * 3
    assert [bool(request.output_filter) for request in stand_in.requests] == [False, True, True]


def test_class_names_are_asked_for_once_more_when_another_version_answers(client, stand_in):
    client.predict(b"dogs 0.75")
    stand_in.version, stand_in.classes[4] = 4, ("birds", "dogs")
    for _ in range(2):
        assert client.predict(b"dogs 0.75") == Prediction(
            "dogs", 0.75, {"birds": 0.25, "dogs": 0.75}, 4, unsure=False
        )
    assert [bool(request.output_filter) for request in stand_in.requests] == [
        False,
        True,
        False,
        True,
    ]
    # Back to a version that is known: nothing is asked twice.
    stand_in.version = 3
    assert client.predict(b"dogs 0.75").probabilities == {"cats": 0.25, "dogs": 0.75}
    assert len(stand_in.requests) == 5


def test_bytes_that_are_no_picture_raise_not_a_picture(client):
    with pytest.raises(errors.NotAPicture, match="JPEG, PNG, GIF, BMP or WebP"):
        client.predict(b"rubbish")
    assert client.predict(b"dogs 0.75").label == "dogs"


@pytest.mark.parametrize(
    ("make", "reason"), [(None, "No such file or directory"), ("mkdir", "Is a directory")]
)
def test_file_that_cannot_be_read_raises_before_anything_is_sent(
    client, stand_in, tmp_path, make, reason
):
    path = tmp_path / "a.jpg"
    if make:
        getattr(path, make)()
    with pytest.raises(errors.UnreadablePicture, match=f"cannot be read: {reason}"):
        client.predict(path)
    assert stand_in.requests == []


def test_answer_after_the_deadline_raises_deadline_exceeded(stand_in):
    with (
        PredictClient(stand_in.address, timeout_s=0.2) as client,
        pytest.raises(errors.DeadlineExceeded) as caught,
    ):
        client.predict(b"slow")
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "give more time" in str(caught.value)
    assert stand_in.seconds_left[0] < 1


def test_unknown_model_raises_model_not_found(stand_in):
    with PredictClient(stand_in.address, "lions") as client:
        with pytest.raises(errors.ModelNotFound, match=r"Latest\(lions\).*check name and version"):
            client.predict(b"dogs 0.75")
        with pytest.raises(errors.ModelNotFound, match="any versions of model lions"):
            client.model_versions()


def test_no_server_raises_server_unavailable():
    with (
        PredictClient(f"127.0.0.1:{free_port()}") as client,
        pytest.raises(errors.ServerUnavailable, match="gRPC port"),
    ):
        client.predict(b"dogs 0.75")


@pytest.mark.parametrize(
    "leave_out", [contract.OUTPUT_VALID, contract.OUTPUT_CLASSES, contract.OUTPUT_LABEL]
)
def test_answer_without_an_output_of_the_contract_raises_unexpected_reply(
    client, stand_in, monkeypatch, leave_out
):
    # The stand-in answers with what the filter names, so a shorter contract makes a model that is
    # not ours.
    monkeypatch.setattr(
        stand_in, "outputs", [name for name in contract.OUTPUTS if name != leave_out]
    )
    with pytest.raises(
        errors.UnexpectedReply,
        match=f"version 3 of model whisker answers with no output '{leave_out}'",
    ):
        client.predict(b"dogs 0.75")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"version": 1, "label": "stable"}, "version 1 and label 'stable'"),
        ({"timeout_s": 0}, "above 0 seconds"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments, text):
    with pytest.raises(errors.InvalidRequest, match=text):
        PredictClient(**arguments)


def test_predict_many_keeps_order_and_gives_every_item_its_outcome(client, stand_in, tmp_path):
    pictures = [
        b"cats 0.5" if number % 2 else f"dogs {1 - number / 128}".encode() for number in range(64)
    ]
    pictures[10], pictures[20] = b"rubbish", tmp_path / "missing.jpg"
    outcomes = list(client.predict_many(pictures, concurrency=5))
    assert type(outcomes.pop(20)) is errors.UnreadablePicture
    assert type(outcomes.pop(10)) is errors.NotAPicture
    answered = [number for number in range(64) if number not in (10, 20)]
    expected = [0.5 if number % 2 else 1 - number / 128 for number in answered]
    assert [outcome.probability for outcome in outcomes] == expected
    assert len(stand_in.requests) == 63


def test_predict_many_gives_a_refused_request_as_outcome_and_goes_on(client, stand_in):
    stand_in.failures.append((grpc.StatusCode.INTERNAL, "no memory"))
    outcomes = list(client.predict_many([b"cats 0.5"] * 3, concurrency=1))
    assert [type(outcome) for outcome in outcomes] == [errors.ServerError, Prediction, Prediction]


def test_predict_many_reads_no_further_ahead_than_the_concurrency(client):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield b"cats 0.5"

    outcomes = client.predict_many(endless(), concurrency=3)
    for number in range(1, 6):
        assert next(outcomes).label == "cats"
        assert taken == number + 2
    outcomes.close()


def test_predict_many_has_as_many_requests_on_their_way_as_the_concurrency(client, stand_in):
    answers = []
    asking = threading.Thread(
        target=lambda: answers.extend(
            client.predict_many([b"slow", *[b"cats 0.5"] * 9], concurrency=4)
        )
    )
    asking.start()
    arrived = stand_in.arrived(4)
    stand_in.released.set()
    asking.join(10)
    assert arrived
    assert len(answers) == 10


def test_predict_many_refuses_a_concurrency_below_one(client):
    with pytest.raises(errors.InvalidRequest, match="concurrency is 0"):
        next(client.predict_many([b"cats 0.5"], concurrency=0))


def test_threads_share_one_client(client):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(client.predict(b"cats 0.5").label))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == ["cats"] * 8


def test_model_versions_gives_states_by_version(client, stand_in):
    stand_in.states[0] = {3: "END", 4: "AVAILABLE"}
    assert client.model_versions() == {3: "END", 4: "AVAILABLE"}


def test_wait_until_ready_goes_on_until_a_version_is_available(client, stand_in):
    # Four attempts make one question.
    stand_in.failures.extend([(grpc.StatusCode.UNAVAILABLE, "starting")] * 4)
    stand_in.failures.append(
        (grpc.StatusCode.NOT_FOUND, "Could not find any versions of model whisker")
    )
    stand_in.states.extendleft([{3: "LOADING"}, {}])
    client.wait_until_ready(10)
    assert stand_in.statuses == 8


def test_wait_until_ready_finds_a_server_that_starts_later(stand_in_class):
    port = free_port()
    with PredictClient(f"127.0.0.1:{port}") as client:
        with pytest.raises(errors.ServerUnavailable):
            client.model_versions()
        later = stand_in_class(port)
        later.start()
        try:
            client.wait_until_ready(20)
            assert client.predict(b"cats 0.5").label == "cats"
        finally:
            later.stop()


def test_wait_until_ready_gives_up_with_the_last_answer(client, stand_in):
    stand_in.states[0] = {3: "LOADING"}
    with pytest.raises(
        errors.ModelNotReady,
        match=r"whisker on .* not available after 0.1 s: versions \{3: 'LOADING'\}",
    ):
        client.wait_until_ready(0.1)


def test_wait_until_ready_raises_at_once_what_waiting_does_not_mend(client, stand_in):
    stand_in.failures.append((grpc.StatusCode.UNIMPLEMENTED, "Method not found!"))
    with pytest.raises(errors.ServerError, match="TensorFlow Serving server"):
        client.wait_until_ready(60)
    assert stand_in.statuses == 1
