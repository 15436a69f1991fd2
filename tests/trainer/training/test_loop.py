import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.config import Config
from trainer.training.devices import prepare
from trainer.training.loop import Loop
from trainer.variants import models
from trainer.variants.head import Head

PICTURES, BATCH, SIZE = 37, 16, 32


@pytest.fixture
def without_dropout(monkeypatch):
    monkeypatch.setattr(models, "_DROPOUT", 0.0)


def batches(full):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (PICTURES, SIZE, SIZE, 3)).astype(np.uint8)
    labels = generator.integers(0, 3, PICTURES).astype(np.int32)
    rows = np.resize(np.arange(PICTURES), 48 if full else PICTURES)
    weights = (np.arange(len(rows)) < PICTURES).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((pixels[rows], labels[rows], weights)).batch(BATCH)


def loop_on(replicas, optimizer):
    devices = prepare(Config(logical_replicas=replicas, batch_size=BATCH))
    assert devices.replicas == replicas
    keras.utils.set_random_seed(0)
    with devices.strategy.scope():
        model = models.build("plain", SIZE, Head(3), seed=0)
        return Loop(model, Head(3), optimizer(), devices.strategy)


@pytest.mark.usefixtures("without_dropout")
@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_take_the_same_steps_as_one_device_uneven_last_batch_included(replicas):
    # Plain gradient descent shows a gradient as it is; pixels of 0…255 make gradients large, hence the small rate.
    def optimizer():
        return keras.optimizers.SGD(1e-5)

    one, several = loop_on(1, optimizer), loop_on(replicas, optimizer)
    measured_by_one = one.train_epoch(batches(full=False))
    measured_by_several = several.train_epoch(batches(full=True))
    assert measured_by_several == pytest.approx(measured_by_one, rel=1e-5)
    for alone, shared in zip(one.model.trainable_variables, several.model.trainable_variables, strict=True):
        np.testing.assert_allclose(shared.value.numpy(), alone.value.numpy(), atol=1e-5)


@pytest.mark.usefixtures("without_dropout")
def test_replicas_see_the_same_losses_under_adam():
    one = loop_on(1, keras.optimizers.Adam)
    two = loop_on(2, keras.optimizers.Adam)
    for _ in range(3):
        loss, _ = one.train_epoch(batches(full=False))
        assert two.train_epoch(batches(full=True))[0] == pytest.approx(loss, rel=1e-4)


def test_training_learns_what_can_be_learnt():
    loop = loop_on(1, keras.optimizers.Adam)
    losses = [loop.train_epoch(batches(full=False))[0] for _ in range(30)]
    assert losses[-1] < losses[0] / 2


def test_logits_are_given_once_for_every_picture_in_order():
    loop = loop_on(2, keras.optimizers.Adam)
    pixels = np.concatenate([batch.numpy() for batch, _, _ in batches(full=False)])
    given = loop.logits(batches(full=False).map(lambda pixels, labels, _: (pixels, labels)))
    np.testing.assert_allclose(given, loop.model(pixels.astype(np.float32)).numpy(), rtol=1e-4, atol=1e-4)
