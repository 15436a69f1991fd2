"""What `make run` starts: the whole way in processes of its own, from an empty folder."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.data.ledger import Ledger
from trainer.evaluation.judge import PARTS, covered, importance, log_odds
from trainer.variants.objective import Objective
from trainer.variants.preprocessing import decode_and_resize

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """What the command printed, and the folder that it was given in."""
    folder = tmp_path_factory.mktemp("quickstart")
    ended = subprocess.run(
        [sys.executable, "-m", "trainer.quickstart", "--epochs=8", "--image_size=64"],
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return ended, folder


def test_whole_way_from_nothing_ends_with_answers_of_the_server(quickstart):
    ended, tmp_path = quickstart
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(
        r"^accuracy  0\.\d{3} of 200 test pictures \(95 % interval", ended.stdout, re.MULTILINE
    )
    assert f"version   1, published to {tmp_path}/sample_models/whisker/1\n" in ended.stdout
    # README's next commands publish the user's own classes there; a store takes those of one model.
    assert not (tmp_path / "models").exists()
    (report,) = re.findall(r"^report    (.+)$", ended.stdout, re.MULTILINE)
    assert (tmp_path / report).is_file()
    line = re.compile(
        r"drawn as (cats|dogs)\s+answered (cats|dogs)\s+[01]\.\d\d  (right|wrong)$", re.MULTILINE
    )
    answers = line.findall(ended.stdout)
    assert [true for true, _, _ in answers] == ["cats"] * 3 + ["dogs"] * 3
    assert all((true == said) == (verdict == "right") for true, said, verdict in answers)
    # Nothing of TensorFlow's chatter reaches someone who tries Whisker for the first time.
    assert ended.stderr == ""
    state = json.loads((tmp_path / report).with_name("state.json").read_text())
    assert state["state"] == "done"
    (command,) = re.findall(r"^try it .*\n +(.+)$", ended.stdout, re.MULTILINE)
    assert b"Choose a picture" in page_of(
        command.replace("--rest_api_port=8501", "--ports_file=ports.json"), tmp_path
    )


def test_parts_that_answers_rest_on_take_more_certainty_than_others(quickstart):
    _, folder = quickstart
    (run,) = (folder / "runs").iterdir()
    (sample,) = (folder / ".cache" / "whisker").glob("sample-*")
    model, objective = keras.models.load_model(run / "model.keras"), Objective(2)
    classify = tf.function(
        lambda pixels: model(pixels, training=False),
        input_signature=[tf.TensorSpec([None, 64, 64, 3])],
    )
    ledger = Ledger.read(run / "ledger.json")
    generator = np.random.default_rng(0)
    takes = []
    for picture in (each for each in ledger.pictures if each.split == "test"):
        encoded = (sample / picture.path).read_bytes()
        pixels = decode_and_resize(tf.constant(encoded), 64).numpy().astype(np.float32)
        answer = int(objective.predictions(classify(pixels[np.newaxis]))[0])
        if ledger.classes[answer] == picture.label:
            found = importance(lambda some: classify(some).numpy(), objective, pixels)
            maps = [found, generator.random(found.shape)]
            parts = np.stack([each >= np.sort(each, axis=None)[-PARTS] for each in maps])
            certainty = log_odds(objective, classify(covered(pixels, parts)).numpy(), answer)
            takes.append(certainty[0] < certainty[1])
    assert len(takes) > 100
    assert np.mean(takes) >= 0.9


def page_of(command, folder):
    """Runs a server's command, and gives what it has at /."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(shlex.split(command), cwd=folder, env=environment) as server:
        try:
            deadline = time.monotonic() + 120
            while not (folder / "ports.json").exists():
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            port = json.loads((folder / "ports.json").read_text())["rest_api_port"]
            with urllib.request.urlopen(f"http://localhost:{port}/", timeout=30) as response:
                return response.read()
        finally:
            server.kill()
