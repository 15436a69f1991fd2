"""Real pictures through the real server by the real client, on a model that was really trained."""

import asyncio
import base64
import csv
import json
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

import numpy as np
import pytest
from tensorflow.core.protobuf.config_pb2 import ConfigProto
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from serving.client.async_client import AsyncPredictClient
from serving.client.errors import ClientError, NotAPicture
from serving.client.local_server import local_server
from serving.client.predict_client import PredictClient
from serving.server import loading
from tests.trained_model import draw, encode
from whisker_ml import contract, storage

CLIENTS = 32


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    """A server that waits until 32 requests have come, or a second is over, and then executes them
    as one.
    """
    parameters = tmp_path_factory.mktemp("server") / "batching.txt"
    parameters.write_text("max_batch_size { value: 32 }\nbatch_timeout_micros { value: 1000000 }\n")
    with local_server(
        model_config_file=trained.store / "models.config",
        extra_flags=["--enable_batching=true", f"--batching_parameters_file={parameters}"],
    ) as running:
        yield running


@pytest.mark.parametrize(
    ("given", "passes"), [(RewriterConfig.DEFAULT_NUM_ITERS, "ONE"), (RewriterConfig.TWO, "TWO")]
)
def test_graph_is_rewritten_in_one_pass_unless_the_session_is_told_otherwise(
    trained, given, passes
):
    options = ConfigProto()
    options.graph_options.rewrite_options.meta_optimizer_iterations = given
    model = loading.load_saved_model(1, str(trained.store / "whisker" / "1"), options)
    rewriting = model.session._config.graph_options.rewrite_options
    model.close()
    assert rewriting.NumIterationsType.Name(rewriting.meta_optimizer_iterations) == passes
    assert options.graph_options.rewrite_options.meta_optimizer_iterations == given


def rows(trained):
    ledger = json.loads((trained.run / "ledger.json").read_text())
    path = {row["sha256"]: row["path"] for row in ledger["pictures"]}
    for line in (trained.run / "predictions.jsonl").read_text().splitlines():
        row = json.loads(line)
        yield (
            (trained.pictures / path[row["sha256"]]).read_bytes(),
            row["logits"][0] / trained.result["calibration"]["temperature"],
        )


def sigmoid(logit):
    return 1 / (1 + 2.718281828459045**-logit)


def test_one_bad_picture_in_a_batch_of_strangers_leaves_31_right_answers(server, trained):
    pictures = list(islice(cycle(rows(trained)), CLIENTS - 1))
    with PredictClient(f"localhost:{server.port}", label="stable", timeout_s=30) as client:
        client.predict(
            pictures[0][0]
        )  # Class names are asked for with the first answer; then all ask for the same.

        def ask(encoded):
            try:
                return client.predict(encoded)
            except ClientError as error:
                return error

        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(ask, [b"rubbish", *(encoded for encoded, _ in pictures)]))
    assert isinstance(answers[0], NotAPicture)
    for answer, (_, logit) in zip(answers[1:], pictures, strict=True):
        assert answer.model_version == 1
        assert answer.probabilities["dogs"] == pytest.approx(sigmoid(logit), abs=1e-5)
        assert answer.label == ("dogs" if logit > 0 else "cats")


def test_rest_gives_the_answers_of_grpc(server):
    picture = draw("dogs", 1234)
    body = json.dumps({"instances": [{"b64": base64.b64encode(picture).decode()}]}).encode()
    url = f"http://localhost:{server.rest_api_port}/v1/models/whisker/labels/stable:predict"
    with urllib.request.urlopen(url, body, timeout=30) as response:
        (answer,) = json.load(response)["predictions"]
    with PredictClient(f"localhost:{server.port}", timeout_s=30) as client:
        asked = client.predict(picture)
    assert answer["label"] == asked.label
    assert dict(zip(answer["classes"], answer["probabilities"], strict=True)) == pytest.approx(
        asked.probabilities
    )
    assert answer["valid"] is True


def test_pixels_get_the_answer_of_the_picture_that_they_are_of(server):
    # A PNG of the model's size loses nothing on its way through decoding and resizing.
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)

    async def ask():
        async with AsyncPredictClient(f"localhost:{server.port}", timeout_s=30) as client:
            pictures = [encode(picture, "PNG") for picture in pixels]
            of_pictures = [
                outcome async for outcome in client.predict_many([*pictures, b"rubbish"])
            ]
            return of_pictures, await client.predict_batch(pixels)

    (*of_pictures, of_rubbish), of_pixels = asyncio.run(ask())
    assert isinstance(of_rubbish, NotAPicture)
    for one, other in zip(of_pictures, of_pixels, strict=True):
        assert one.label == other.label
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_command_serves_a_store_for_the_while_and_lists_what_failed(trained, tmp_path):
    (tmp_path / "good.jpg").write_bytes(draw("cats", 99))
    (tmp_path / "text.jpg").write_text("no picture")
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "serving.predict",
            f"--model_dir={trained.store}",
            "--format=json",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 4, ended.stderr
    good, bad = map(json.loads, ended.stdout.splitlines())
    assert (good["path"], good["label"], good["model_version"]) == (
        str(tmp_path / "good.jpg"),
        "cats",
        1,
    )
    assert set(good["probabilities"]) == {"cats", "dogs"}
    assert bad["path"] == str(tmp_path / "text.jpg")
    assert bad["error"]
    assert str(tmp_path / "text.jpg") in ended.stderr


@pytest.mark.long
def test_command_serves_a_store_in_a_bucket_for_the_while(trained, bucket):
    config = (trained.store / contract.MODELS_CONFIG).read_text()
    address = f"gs://{bucket}/store"
    storage.upload_folder(trained.store / "whisker" / "1", f"{address}/whisker/1")
    storage.write(
        f"{address}/{contract.MODELS_CONFIG}",
        config.replace(str(trained.store), address).encode(),
        0,
    )
    picture = str(trained.pictures / "cats" / "0.jpg")
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "serving.predict",
            f"--model_dir={address}",
            "--label=stable",
            "--format=csv",
            picture,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    (row,) = csv.DictReader(ended.stdout.splitlines())
    assert (row["path"], row["model_version"]) == (picture, "1")
