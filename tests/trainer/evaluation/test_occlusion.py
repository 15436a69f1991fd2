"""Which parts of a picture an answer rests on."""

import numpy as np
import pytest

from trainer.evaluation.occlusion import PARTS, covered, importance, log_odds
from trainer.variants.objective import Objective

SIZE = 40


def white_at(row, column):
    """Logits of a model that counts white in one part of 25."""
    part = SIZE // PARTS

    def classify(pixels):
        seen = pixels[:, row * part : (row + 1) * part, column * part : (column + 1) * part]
        return seen.mean((1, 2, 3))[:, np.newaxis].astype(np.float32) / 255 - 0.1

    return classify


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3), (4, 4)])
def test_part_that_the_answer_rests_on_is_the_most_important(row, column):
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    part = SIZE // PARTS
    inside = (
        slice(row * part + 2, (row + 1) * part - 2),
        slice(column * part + 2, (column + 1) * part - 2),
    )
    picture[inside] = 255
    found = importance(white_at(row, column), Objective(2), picture)
    assert found.shape == (PARTS, PARTS)
    assert np.unravel_index(found.argmax(), found.shape) == (row, column)
    assert found.max() > 0


def test_evidence_against_the_answer_has_a_negative_importance():
    picture = np.full((SIZE, SIZE, 3), 255, np.uint8)
    picture[::2] = 0
    black = importance(lambda pixels: -white_at(1, 1)(pixels) + 1.0, Objective(2), picture)
    white = importance(white_at(1, 1), Objective(2), picture)
    assert np.allclose(black, -white, atol=1e-5)


def test_covering_nothing_changes_nothing_and_covering_all_blurs_all():
    picture = np.random.default_rng(0).uniform(0, 255, (SIZE, SIZE, 3)).astype(np.float32)
    none, every = covered(picture, np.stack([np.zeros((PARTS, PARTS)), np.ones((PARTS, PARTS))]))
    assert np.array_equal(none, picture)
    assert np.abs(np.diff(every, axis=0)).mean() < 0.2 * np.abs(np.diff(picture, axis=0)).mean()


def test_log_odds_are_those_of_the_probabilities():
    for classes in (2, 5):
        objective = Objective(classes)
        logits = np.random.default_rng(0).normal(size=(7, objective.units)).astype(np.float32)
        probability = objective.probabilities(logits).numpy()[:, 1]
        expected = np.log(probability / (1 - probability))
        assert np.allclose(log_odds(objective, logits, 1), expected, atol=1e-5)
