"""Real trainer processes that train together over loopback, beside one that trains alone."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trained_model import write_pictures

ROOT = Path(__file__).parents[3]
EPOCHS, STEPS = 6, 5
DEADLINE_S = 120

# The trainer's own entry point, without chance: each worker draws numbers of its own.
TRAINER = """
from serving import command_line
command_line.import_tensorflow()
from trainer.variants import models
models._DROPOUT = 0.0
models.augmentation_layers = lambda seed: []
from trainer.task import main
main()
"""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    pictures = write_pictures(tmp_path_factory.mktemp("workers") / "pictures", per_class=60)
    return [
        f"--data={pictures}",
        "--variant=preprocessed",
        "--image_size=32",
        "--batch_size=16",
        f"--epochs={EPOCHS}",
        "--learning_rate=plateau:0.0001",
        "--early_stopping=5",
        "--run_dir=run",
    ]


def free_addresses(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


class Processes:
    """Workers of one run, each in a folder of its own; ended when the block is left."""

    def __init__(self, arguments, folder, count):
        workers = free_addresses(count)
        self.folders = [folder / f"worker{index}" for index in range(count)]
        self.processes = []
        for index, own in enumerate(self.folders):
            own.mkdir(exist_ok=True)
            task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            with (own / "log").open("w") as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-c", TRAINER, *arguments],
                        cwd=own,
                        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CONFIG": json.dumps(task)},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def log(self, index):
        return (self.folders[index] / "log").read_text()

    def wait_for_epoch(self, epoch):
        metrics = self.folders[0] / "run" / "metrics.jsonl"
        deadline = time.monotonic() + DEADLINE_S
        while not metrics.exists() or len(metrics.read_text().splitlines()) < epoch:
            assert all(process.poll() is None for process in self.processes), self.log(0) + self.log(1)
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def exit_codes(self, within_s):
        deadline = time.monotonic() + within_s
        return [process.wait(max(deadline - time.monotonic(), 0)) for process in self.processes]


@pytest.fixture(scope="module")
def alone(arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    with Processes(arguments, folder, 1) as process:
        assert process.exit_codes(DEADLINE_S) == [0], process.log(0)
    return folder / "worker0" / "run"


@pytest.fixture(scope="module")
def together(arguments, tmp_path_factory):
    """Two workers, one of which is asked to stop, and the same commands again."""
    folder = tmp_path_factory.mktemp("together")
    with Processes(arguments, folder, 2) as stopped:
        stopped.wait_for_epoch(2)
        stopped.processes[1].send_signal(signal.SIGTERM)
        assert stopped.exit_codes(10) == [143, 143], stopped.log(0) + stopped.log(1)
        assert "stopped after step" in stopped.log(0)
    with Processes(arguments, folder, 2) as again:
        assert again.exit_codes(DEADLINE_S) == [0, 0], again.log(0) + again.log(1)
    return again


def step_losses(run):
    losses = {}
    for file in sorted((run / "tensorboard").glob("events*"), key=lambda file: file.stat().st_mtime):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                if value.tag == "step/loss":
                    losses[event.step] = tf.make_ndarray(value.tensor).item()
    return [losses[step] for step in sorted(losses)]


def test_first_lines_say_who_is_there(together):
    assert "worker 1 of 2 (127.0.0.1:" in together.log(1)
    assert "devices worker 0 CPU:0, worker 1 CPU:0; 2 replicas (MultiWorkerMirroredStrategy)" in together.log(0)


def test_stopped_workers_go_on_at_the_very_batch(together):
    assert "going on after epoch" in together.log(0)


def test_two_workers_take_the_steps_of_one(together, alone):
    one, two = step_losses(alone), step_losses(together.folders[0] / "run")
    assert len(one) == EPOCHS * STEPS >= 20
    np.testing.assert_allclose(two, one, atol=1e-4)


def test_two_workers_end_with_the_weights_of_one(together, alone):
    models = [keras.models.load_model(run / "model.keras") for run in (alone, together.folders[0] / "run")]
    for one, two in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5)


def test_only_the_chief_writes(together):
    run = together.folders[0] / "run"
    assert json.loads((run / "state.json").read_text())["state"] == "done"
    assert (run / "export" / "saved_model.pb").is_file()
    assert [path.name for path in together.folders[1].iterdir()] == ["log"]


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_worker_whose_company_dies_ends_in_one_line(arguments, tmp_path, victim):
    with Processes([*arguments, "--epochs=1000", "--early_stopping=0"], tmp_path, 2) as workers:
        workers.wait_for_epoch(1)
        workers.processes[victim].kill()
        codes = workers.exit_codes(40)
    assert (codes[victim], codes[1 - victim]) == (-signal.SIGKILL, 2)
    last = workers.log(1 - victim).splitlines()[-1]
    assert f"worker {victim} (127.0.0.1:" in last
    assert last.endswith("give the same command again everywhere to go on from the last checkpoint")
