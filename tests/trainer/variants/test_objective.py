import numpy as np
import pytest
import tensorflow as tf

from trainer.variants.objective import Objective


@pytest.mark.parametrize("classes", [2, 3, 200])
def test_probabilities_sum_to_one_and_agree_with_loss_and_prediction(classes):
    objective = Objective(classes)
    generator = np.random.default_rng(classes)
    logits = tf.constant(generator.normal(0, 3, (50, objective.units)), tf.float32)
    labels = tf.constant(generator.integers(0, classes, 50), tf.int32)
    probabilities = objective.probabilities(logits).numpy()
    assert probabilities.shape == (50, classes)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        objective.loss(labels, logits), -np.log(probabilities[np.arange(50), labels]), rtol=1e-4
    )
    np.testing.assert_array_equal(objective.predictions(logits), probabilities.argmax(axis=1))


def test_two_classes_share_one_logit():
    assert (Objective(2).units, Objective(3).units) == (1, 3)
    # 0.5 is the border in probability, which is 0 in logits: a logit of 0.3 is class 1.
    assert Objective(2).predictions(tf.constant([[0.3], [-0.3], [0.0]])).numpy().tolist() == [
        1,
        0,
        0,
    ]


@pytest.mark.parametrize("classes", [2, 3])
def test_temperature_divides_logits_and_leaves_answers_as_they_are(classes):
    logits = (
        np.random.default_rng(0).normal(0, 3, (50, Objective(classes).units)).astype(np.float32)
    )
    plain, warm = Objective(classes), Objective(classes, temperature=2.5)
    np.testing.assert_allclose(
        warm.probabilities(logits), plain.probabilities(logits / 2.5), rtol=1e-6
    )
    labels = tf.zeros(50, tf.int32)
    np.testing.assert_allclose(
        warm.loss(labels, logits), plain.loss(labels, logits / 2.5), rtol=1e-6
    )
    np.testing.assert_array_equal(warm.predictions(logits), plain.predictions(logits))
