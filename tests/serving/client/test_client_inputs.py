import io
import os

import grpc
import numpy as np
import pytest

from serving.client import errors
from serving.client.predict_client import PredictClient, Prediction
from whisker_ml import contract

FLOAT, STRING = 1, 7


@pytest.fixture
def client(stand_in):
    with PredictClient(stand_in.address) as client:
        yield client


def pixels(*chances, size=4):
    """Pictures that the stand-in is so sure to be cats, in percent."""
    return np.stack([np.full((size, size, 3), chance, np.uint8) for chance in chances])


def test_file_that_is_open_is_read(client, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"dogs 0.75")
    with (tmp_path / "a.jpg").open("rb") as file:
        assert client.predict(file).label == "dogs"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_pipe_or_device_is_never_opened(client, tmp_path):
    os.mkfifo(tmp_path / "cam.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("cam.jpg", "zero.jpg"):
        with pytest.raises(errors.UnreadablePicture, match="not a regular file"):
            client.predict(tmp_path / name)


@pytest.mark.parametrize(
    ("picture", "kind", "text"),
    [
        (io.StringIO("dogs 0.75"), errors.UnreadablePicture, "opened in binary mode"),
        ("a\0b", errors.UnreadablePicture, "cannot be read: embedded null byte"),
        (7, errors.InvalidRequest, "a picture is a int: expected bytes, a path"),
    ],
    ids=["text", "zero_byte", "number"],
)
def test_what_gives_no_bytes_is_refused_before_anything_is_sent(
    client, stand_in, picture, kind, text
):
    with pytest.raises(kind, match=text):
        client.predict(picture)
    assert stand_in.requests == []


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_pixels_go_to_their_signature_in_its_type(client, stand_in, dtype):
    (picture,) = pixels(50).astype(dtype)
    assert client.predict(picture) == Prediction(
        "cats", 0.5, {"cats": 0.5, "dogs": 0.5}, 3, unsure=False
    )
    (request,) = stand_in.requests
    assert request.model_spec.signature_name == contract.SIGNATURE_PIXELS
    tensor = request.inputs[contract.INPUT_PIXELS]
    assert (tensor.dtype, len(tensor.tensor_content)) == (FLOAT, 4 * 4 * 3 * 4)


def test_batch_of_pixels_is_one_request(client, stand_in):
    for _ in range(2):
        outcomes = client.predict_batch(pixels(75, 50))
        assert outcomes == [
            Prediction("cats", chance, {"cats": chance, "dogs": 1 - chance}, 3, unsure=False)
            for chance in (0.75, 0.5)
        ]
    assert len(stand_in.requests) == 2


def test_batch_of_no_pixels_is_not_sent(client, stand_in):
    assert client.predict_batch(np.zeros((0, 4, 4, 3))) == []
    assert stand_in.metadata == 0


def test_many_pixels_and_pictures_go_side_by_side(client):
    outcomes = client.predict_many([*pixels(75, 50), b"dogs 0.75"])
    assert [outcome.probability for outcome in outcomes] == [0.75, 0.5, 0.75]


@pytest.mark.parametrize(
    ("picture", "text"),
    [
        (pixels(25, size=5)[0], r"pictures of shape \[1, 5, 5, 3\]: expected \[\?, 4, 4, 3\]"),
        (pixels(25)[0][0], r"pixels of shape \[1, 4, 3\]: expected arrays of \[height, width, 3\]"),
    ],
    ids=["size", "rank"],
)
def test_pixels_of_another_shape_are_refused_before_anything_is_sent(
    client, stand_in, picture, text
):
    with pytest.raises(errors.InvalidRequest, match=text):
        client.predict(picture)
    assert stand_in.requests == []


def test_signatures_are_asked_for_once_per_version(client, stand_in):
    for _ in range(3):
        client.predict(b"dogs 0.75")
    assert stand_in.metadata == 1
    stand_in.version, stand_in.classes[4] = 4, ("birds", "dogs")
    for _ in range(3):
        client.predict(b"dogs 0.75")
    assert stand_in.metadata == 2


def test_signature_that_only_a_newer_version_has_is_found(client, stand_in):
    client.predict(b"dogs 0.75")
    stand_in.version, stand_in.classes[4] = 4, ("birds", "dogs")
    stand_in.signatures[4] = {"newer": {contract.INPUT_BYTES: (STRING, [-1])}}
    answer = client.predict_raw({contract.INPUT_BYTES: [b"dogs 0.75"]}, signature="newer")
    assert (answer["label"], answer["probabilities"]) == ([b"dogs"], [[0.25, 0.75]])


@pytest.mark.parametrize("state", ["START", "LOADING"])
def test_model_that_is_still_loading_is_told_from_one_that_is_not_there(client, stand_in, state):
    stand_in.failures.append(
        (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(whisker)")
    )
    stand_in.states[0] = {3: state}
    with pytest.raises(
        errors.ModelNotReady, match=rf"still loading \(versions \{{3: '{state}'\}}\).*wait"
    ) as caught:
        client.predict(b"dogs 0.75")
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert caught.value.details.startswith("Servable not found")


def test_interceptors_of_the_caller_see_every_call(stand_in):
    seen = []

    class Watch(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, details, request):
            seen.append(details.method.rpartition("/")[2])
            return continuation(details, request)

    with PredictClient(stand_in.address, interceptors=[Watch()]) as client:
        client.predict(b"dogs 0.75")
    assert seen == ["GetModelMetadata", "Predict"]


def test_client_that_is_closed_says_so(client):
    client.close()
    with pytest.raises(errors.InvalidRequest, match="closed: make another"):
        client.predict(b"dogs 0.75")


def test_picture_above_the_limit_of_the_server_is_told_as_that(stand_in_class):
    server = stand_in_class(receive_limit=4 << 20)
    server.start()
    try:
        with (
            PredictClient(server.address) as client,
            pytest.raises(
                errors.MessageTooLarge, match=r"larger than max .*smaller picture, or raise"
            ) as caught,
        ):
            client.predict(bytes(100_000_000))
    finally:
        server.stop()
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
