"""What the built-in sample promises, over three seeds: learnable, not trivial, and overfitted by
the plain variant.
"""

import pytest

from trainer.config import Config
from trainer.pipeline import run

SEEDS = (0, 1, 2)


def train(variant, seed, folder):
    config = Config(
        data="sample", variant=variant, seed=seed, run_dir=str(folder / f"{variant}-{seed}")
    )
    return run(config, downloads=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sample")


@pytest.mark.long
def test_preprocessed_reaches_three_quarters_and_leaves_room(folder):
    accuracies = [train("preprocessed", seed, folder)["test"]["accuracy"] for seed in SEEDS]
    assert all(0.75 <= accuracy <= 0.97 for accuracy in accuracies), accuracies


@pytest.mark.long
def test_plain_overfits(folder):
    histories = [train("plain", seed, folder)["history"] for seed in SEEDS]
    gaps = [history["accuracy"][-1] - history["validation_accuracy"][-1] for history in histories]
    assert all(gap >= 0.10 for gap in gaps), gaps
