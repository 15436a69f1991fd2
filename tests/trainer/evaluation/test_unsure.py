"""When an answer is not sure."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.evaluation.unsure import TARGET, Doubt, judge_unsure, learn_familiarity


def features(generator, n, directions):
    return (generator.normal(size=(n, len(directions))) @ directions + 3).astype(np.float32)


@pytest.fixture(scope="module")
def world():
    generator = np.random.default_rng(0)
    own, others = np.linalg.qr(generator.normal(size=(200, 40)))[0].T.reshape(2, 20, 200)
    return generator, own, others


def test_strangers_are_less_familiar_than_pictures_like_those_that_were_learnt(world):
    generator, own, others = world
    familiarity = learn_familiarity(features(generator, 300, own))
    known = familiarity.of(features(generator, 100, own)).numpy()
    strange = familiarity.of(features(generator, 100, others)).numpy()
    assert strange.max() < known.min() <= known.max() <= 1 + 1e-5
    assert strange.min() >= 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_training_pictures_have_a_familiarity_too(world, n):
    generator, own, _ = world
    few = features(generator, n, own)
    found = learn_familiarity(few).of(few).numpy()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("known", [False, True])
def test_at_most_the_target_of_pictures_alike_is_not_sure(known):
    generator = np.random.default_rng(1)
    shares = []
    for _ in range(200):
        scores = generator.uniform(0.5, 1, (4, 300)).astype(np.float32)
        kinds = 2 if known else 1
        found = judge_unsure(scores[:kinds], scores[2 : 2 + kinds], np.ones(300, bool))
        assert found["sure"] + found["unsure"] == 300
        shares.append(found["unsure"] / 300)
    assert 0.8 * TARGET < np.mean(shares) <= 1.02 * TARGET


@pytest.mark.parametrize(("known", "needed"), [(False, 19), (True, 39)])
def test_with_too_few_validation_pictures_everything_is_sure(known, needed):
    kinds = 2 if known else 1
    for n in (needed - 1, needed):
        scores = [np.linspace(0.5, 1, n, dtype=np.float32)] * kinds
        found = judge_unsure(scores, [np.zeros(3, np.float32)] * kinds, np.zeros(3, bool))
        assert found["pictures_needed"] == needed
        assert (found["lowest_probability"] > 0) == (n == needed)
        assert found["unsure"] == (3 if n == needed else 0)


def test_counts_are_of_what_is_right():
    scores = np.linspace(0.5, 1, 19, dtype=np.float32)
    test = np.array([0.1, 0.2, 0.9, 0.95], np.float32)
    found = judge_unsure([scores], [test], np.array([True, False, True, True]))
    counts = [found[name] for name in ("sure", "sure_correct", "unsure", "unsure_correct")]
    assert counts == [2, 2, 2, 1]
    assert found["lowest_familiarity"] is None


def test_array_and_graph_decide_alike():
    doubt = Doubt(0.6, 0.3)
    probability = np.array([0.5, 0.6, 0.9, 0.9], np.float32)
    familiarity = np.array([0.9, 0.9, 0.2, 0.3], np.float32)
    expected = [True, False, True, False]
    assert doubt.unsure(probability, familiarity).tolist() == expected
    in_graph = tf.function(doubt.unsure)(tf.constant(probability), tf.constant(familiarity))
    assert in_graph.numpy().tolist() == expected
    assert doubt.unsure(probability).tolist() == [True, False, False, False]
    assert doubt.unsure(probability, familiarity, slack=0.11).tolist() == [False] * 4
