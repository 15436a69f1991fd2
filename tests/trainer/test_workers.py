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
from trainer.cluster import Cluster
from trainer.config import Config
from trainer.errors import WorkersError
from trainer.pipeline import run

ROOT = Path(__file__).parents[2]
EPOCHS, STEPS = 6, 5
DEADLINE_S = 120
# A machine that goes away gives 25 s. It takes 1 s where nothing else runs.
STOP_S = 20

# The trainer's own entry point, without chance: each worker draws numbers of its own.
TRAINER = """
from whisker_ml import cli
cli.import_tensorflow()
import dataclasses
from trainer.variants import VARIANTS, models
models._DROPOUT = 0.0
VARIANTS["preprocessed"] = dataclasses.replace(VARIANTS["preprocessed"], augmented=False)
from trainer.task import main
main()
"""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    pictures = write_pictures(tmp_path_factory.mktemp("workers") / "pictures", per_class=60)
    return [
        f"--data={pictures}",
        "--variant=preprocessed",
        # Two sums of half precision differ by more than two of float32.
        "--mixed_precision=none",
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

    def __init__(self, arguments, folder, count, trainer=TRAINER):
        workers = free_addresses(count)
        self.folders = [folder / f"worker{index}" for index in range(count)]
        self.processes = []
        for index, own in enumerate(self.folders):
            own.mkdir(exist_ok=True)
            task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            with (own / "log").open("w") as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-c", trainer, *arguments],
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
            assert all(process.poll() is None for process in self.processes), self.log(
                0
            ) + self.log(1)
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


def kill_one(arguments, folder, victim, epoch=1):
    """Two workers of which one is killed after an epoch; gives the last line of the other."""
    with Processes(arguments, folder, 2) as workers:
        workers.wait_for_epoch(epoch)
        workers.processes[victim].kill()
        codes = workers.exit_codes(40)
    # 75: the same commands may succeed when they are given again.
    assert (codes[victim], codes[1 - victim]) == (-signal.SIGKILL, 75)
    return workers.log(1 - victim).splitlines()[-1]


@pytest.fixture(scope="module")
def together(arguments, tmp_path_factory):
    """Two workers, one of which is killed, and the same commands again; and the other's last line
    of before.
    """
    folder = tmp_path_factory.mktemp("together")
    last = kill_one(arguments, folder, 0, epoch=2)
    with Processes(arguments, folder, 2) as again:
        assert again.exit_codes(DEADLINE_S) == [0, 0], again.log(0) + again.log(1)
    again.last_of_before = last
    return again


def step_losses(run):
    losses = {}
    for file in sorted(
        (run / "tensorboard").glob("events*"), key=lambda file: file.stat().st_mtime
    ):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                if value.tag == "step/loss":
                    losses[event.step] = tf.make_ndarray(value.tensor).item()
    return [losses[step] for step in sorted(losses)]


def test_first_lines_say_who_is_there(together):
    assert "worker 1 of 2 (127.0.0.1:" in together.log(1)
    assert (
        "devices worker 0 CPU:0, worker 1 CPU:0; 2 replicas (MultiWorkerMirroredStrategy)"
        in together.log(0)
    )


def told_who_died(line, victim):
    return f"worker {victim} (127.0.0.1:" in line and line.endswith(
        "give the same command again everywhere to resume from the last checkpoint"
    )


def test_worker_whose_chief_dies_ends_in_one_line(together):
    assert told_who_died(together.last_of_before, 0)


def test_same_commands_go_on_where_a_worker_died(together):
    assert "resuming after epoch" in together.log(0)


def test_two_workers_take_the_steps_of_one(together, alone):
    one, two = step_losses(alone), step_losses(together.folders[0] / "run")
    assert len(one) == EPOCHS * STEPS >= 20
    np.testing.assert_allclose(two, one, atol=1e-4)


def test_two_workers_end_with_the_weights_of_one(together, alone):
    models = [
        keras.models.load_model(run / "model.keras") for run in (alone, together.folders[0] / "run")
    ]
    for one, two in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5)


def test_only_the_chief_writes(together):
    run = together.folders[0] / "run"
    assert json.loads((run / "state.json").read_text())["state"] == "done"
    assert (run / "export" / "saved_model.pb").is_file()
    assert [path.name for path in together.folders[1].iterdir()] == ["log"]


def test_run_whose_second_worker_never_comes_ends_and_begins_nothing(
    arguments, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    addresses = tuple(free_addresses(2))
    with pytest.raises(
        WorkersError, match=rf"worker 1 \({addresses[1]}\) did not connect within 0.2 s"
    ):
        run(
            Config(data=arguments[0].partition("=")[2]),
            cluster=Cluster(addresses, 0, start_s=0.2),
        )
    assert not list(tmp_path.iterdir())


# TensorFlow misses the second worker only after 10 s without a heartbeat.
@pytest.mark.long
def test_chief_whose_worker_dies_ends_in_one_line(arguments, tmp_path):
    arguments = [*arguments, "--epochs=1000", "--early_stopping=0"]
    assert told_who_died(kill_one(arguments, tmp_path, 1), 1)
    state = json.loads((tmp_path / "worker0" / "run" / "state.json").read_text())
    assert state["state"] == "incomplete"


# The second worker is alive, and does nothing from its first epoch's end on.
HANGING = """
import dataclasses, time
import trainer.cluster
from trainer.training.observers import Observers
parse = trainer.cluster.parse
def parse_with_a_short_deadline(text):
    cluster = dataclasses.replace(parse(text), stall_s=5.0)
    if not cluster.is_chief:
        Observers.epoch = lambda *_: time.sleep(600)
    return cluster
trainer.cluster.parse = parse_with_a_short_deadline
"""


@pytest.mark.long
def test_worker_that_hangs_ends_the_others_in_one_line(arguments, tmp_path):
    with Processes(arguments, tmp_path, 2, HANGING + TRAINER) as workers:
        assert workers.processes[0].wait(DEADLINE_S) == 75
    assert (
        "error: another worker has kept this one waiting for 5 s; its own log says why"
        in workers.log(0)
    )


@pytest.mark.long
def test_random_streams_go_on_where_they_were_on_every_worker(arguments, tmp_path):
    trainer = TRAINER.replace("models._DROPOUT", "_").replace("models.augmentation_layers", "_")
    arguments = [*arguments, "--learning_rate=0.001", "--deterministic"]
    for name, stops in (("untouched", 0), ("stopped", 1)):
        (tmp_path / name).mkdir()
        for _ in range(stops):
            with Processes(arguments, tmp_path / name, 2, trainer) as workers:
                workers.wait_for_epoch(2)
                workers.processes[0].send_signal(signal.SIGTERM)
                assert workers.exit_codes(STOP_S) == [143, 143]
                assert "stopped after step" in workers.log(0)
        with Processes(arguments, tmp_path / name, 2, trainer) as workers:
            assert workers.exit_codes(DEADLINE_S) == [0, 0], workers.log(0) + workers.log(1)
    one, other = (tmp_path / name / "worker0" / "run" for name in ("untouched", "stopped"))
    assert (one / "predictions.jsonl").read_bytes() == (other / "predictions.jsonl").read_bytes()
