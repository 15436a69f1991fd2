"""Real trainer processes, killed at any moment, against one that nobody touched."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.trained_model import write_pictures

EPOCHS = 20
DEADLINE_S = 120


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    pictures = write_pictures(tmp_path_factory.mktemp("resume") / "pictures", per_class=60)
    return [
        sys.executable,
        "-m",
        "trainer.task",
        f"--data={pictures}",
        "--image_size=32",
        "--batch_size=4",
        f"--epochs={EPOCHS}",
        "--learning_rate=cosine:0.0001",
        "--deterministic",
    ]


def run(arguments, folder):
    return subprocess.run(
        [*arguments, f"--run_dir={folder}"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def untouched(arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume") / "untouched"
    ended = run(arguments, folder)
    assert ended.returncode == 0, ended.stderr
    return folder


def epochs_done(folder):
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def end_after(arguments, folder, epoch, number):
    """Starts a run, and sends it a signal once it has done so many epochs; gives its exit code."""
    process = subprocess.Popen(
        [*arguments, f"--run_dir={folder}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while epochs_done(folder) < epoch:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(number)
        return process.wait(10)
    finally:
        process.kill()
        process.wait()


def assert_same_run(folder, untouched):
    assert (folder / "predictions.jsonl").read_bytes() == (
        untouched / "predictions.jsonl"
    ).read_bytes()
    one, other = (
        json.loads((path / "result.json").read_text())["history"] for path in (folder, untouched)
    )
    for name in ("accuracy", "loss", "validation_accuracy", "validation_loss", "learning_rate"):
        assert one[name] == other[name], name


def kill_again_and_again(arguments, untouched, folder, kills, seed):
    generator = random.Random(seed)
    for epoch in sorted(generator.randrange(1, EPOCHS - 1) for _ in range(kills)):
        assert end_after(arguments, folder, epoch, signal.SIGKILL) == -signal.SIGKILL
    ended = run(arguments, folder)
    assert ended.returncode == 0, ended.stderr
    assert "resuming after epoch" in ended.stdout
    assert_same_run(folder, untouched)


@pytest.mark.long
def test_twenty_kills_change_nothing(arguments, untouched, tmp_path):
    kill_again_and_again(arguments, untouched, tmp_path / "run", kills=20, seed=1)


def test_a_kill_changes_nothing(arguments, untouched, tmp_path):
    kill_again_and_again(arguments, untouched, tmp_path / "run", kills=1, seed=2)


@pytest.mark.long
def test_sigterm_changes_nothing(arguments, untouched, tmp_path):
    folder = tmp_path / "run"
    assert end_after(arguments, folder, 5, signal.SIGTERM) == 143
    state = json.loads((folder / "state.json").read_text())
    assert state["state"] == "incomplete"
    assert state["reason"].startswith("stopped after step ")
    ended = run(arguments, folder)
    assert ended.returncode == 0, ended.stderr
    assert_same_run(folder, untouched)
