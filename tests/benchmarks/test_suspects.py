import numpy as np

from benchmarks.suspects import FIRST, found


def test_planted_labels_of_pictures_that_are_told_apart_are_found():
    labels = np.arange(400) % 2
    noise = np.random.default_rng(0).normal(0, 0.1, (400, 4))
    features = np.eye(4)[labels] + noise
    assert found(features, labels, 2, 0.05, 0) == (1.0, FIRST)
    # Nothing to tell them by: as many as by chance.
    recall, first = found(noise, labels, 2, 0.05, 0)
    assert recall < 0.5
    assert first < FIRST / 2
