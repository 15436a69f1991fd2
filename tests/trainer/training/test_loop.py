import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trained_model import draw
from trainer.config import Config
from trainer.devices import prepare
from trainer.training.loop import Loop
from trainer.variants import models
from trainer.variants.objective import Objective
from trainer.variants.preprocessing import decode_and_resize

PICTURES, BATCH, SIZE = 37, 16, 32


@pytest.fixture
def without_chance(monkeypatch):
    monkeypatch.setattr(models, "_DROPOUT", 0.0)
    monkeypatch.setattr(models, "augmentation_layers", lambda *_, **__: [])


def batches(full):
    labels = (np.arange(PICTURES) % 3).astype(np.int32)
    encoded = [
        draw(("cats", "dogs", "others")[label], number) for number, label in enumerate(labels)
    ]
    pixels = np.stack([decode_and_resize(tf.constant(each), SIZE) for each in encoded])
    rows = np.resize(np.arange(PICTURES), 48 if full else PICTURES)
    weights = (np.arange(len(rows)) < PICTURES).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((pixels[rows], labels[rows], weights)).batch(BATCH)


def sums(loop, full):
    return np.concatenate(list(loop.train(batches(full))))


def loop_on(replicas, optimizer, variant="plain", **options):
    devices = prepare(Config(logical_replicas=replicas, batch_size=BATCH))
    assert devices.replicas == replicas
    keras.utils.set_random_seed(0)
    with devices.strategy.scope():
        model = models.build(variant, SIZE, Objective(3), seed=0)
        return Loop(model, Objective(3), optimizer(), devices.strategy, **options)


@pytest.mark.usefixtures("without_chance")
@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_take_the_same_steps_as_one_device_uneven_last_batch_included(replicas):
    # Plain gradient descent shows a gradient as it is; pixels of 0…255 make gradients large, hence
    # the small rate.
    def optimizer():
        return keras.optimizers.SGD(1e-5)

    one, several = loop_on(1, optimizer), loop_on(replicas, optimizer)
    np.testing.assert_allclose(
        sums(several, full=True)[:, :3], sums(one, full=False)[:, :3], rtol=1e-5
    )
    for alone, shared in zip(
        one.model.trainable_variables, several.model.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(shared.value.numpy(), alone.value.numpy(), atol=1e-5)


@pytest.mark.usefixtures("without_chance")
def test_weights_move_the_loss_and_the_step_and_leave_the_accuracy_alone():
    # Nothing is learnt, so that both loops see the same model at every step.
    plain, weighted = (loop_on(1, lambda: keras.optimizers.SGD(0.0)) for _ in range(2))
    heavy = np.array([0.5, 2.0, 1.0], np.float32)
    batches_of = batches(full=False)
    rows = np.concatenate(list(plain.train(batches_of)))
    heavier = batches_of.map(
        lambda pixels, labels, weights: (pixels, labels, weights * tf.gather(heavy, labels))
    )
    other = np.concatenate(list(weighted.train(heavier)))
    np.testing.assert_array_equal(other[:, 1:3], rows[:, 1:3])
    assert not np.isclose(other[:, 0], rows[:, 0]).any()
    assert not np.isclose(other[:, 3], rows[:, 3]).any()
    pixels, labels, _ = next(iter(batches_of))
    losses = Objective(3).loss(labels, plain.model(tf.cast(pixels, tf.float32), training=False))
    assert other[0, 0] == pytest.approx(
        float(tf.reduce_sum(losses * tf.gather(heavy, labels))), rel=1e-4
    )


@pytest.mark.usefixtures("without_chance")
@pytest.mark.parametrize("replicas", [2, pytest.param(4, marks=pytest.mark.long)])
def test_replicas_follow_the_same_curve_over_twenty_steps_of_adam(replicas):
    one, two = (loop_on(count, keras.optimizers.Adam, "preprocessed") for count in (1, replicas))
    for _ in range(7):
        alone, shared = sums(one, full=False), sums(two, full=True)
        np.testing.assert_allclose(
            shared[:, 0] / shared[:, 2], alone[:, 0] / alone[:, 2], atol=1e-4
        )


def test_training_learns_what_can_be_learnt():
    loop = loop_on(1, keras.optimizers.Adam)
    losses = [sums(loop, full=False)[:, 0].sum() for _ in range(30)]
    assert losses[-1] < losses[0] / 2


def test_logits_are_given_once_for_every_picture_in_order():
    loop = loop_on(2, keras.optimizers.Adam)
    pixels = np.concatenate([batch.numpy() for batch, _, _ in batches(full=False)])
    given = loop.logits(batches(full=False).map(lambda pixels, labels, _: (pixels, labels)))
    np.testing.assert_allclose(
        given, loop.model(pixels.astype(np.float32)).numpy(), rtol=1e-4, atol=1e-4
    )


# A process of its own: another test may have asked this one for deterministic operations, which XLA
# lacks.
COMPILED = """
from whisker_ml.cli import import_tensorflow
import_tensorflow()
import keras, numpy as np, tensorflow as tf
from trainer.training.loop import Loop
from trainer.variants import models
from trainer.variants.objective import Objective
models._DROPOUT, models.augmentation_layers = 0.0, lambda *_, **__: []
generator = np.random.default_rng(0)
pixels = generator.integers(0, 256, (48, 32, 32, 3)).astype(np.uint8)
labels, weights = generator.integers(0, 3, 48).astype(np.int32), np.ones(48, np.float32)
losses = []
for jit in (False, True):
    keras.utils.set_random_seed(0)
    model = models.build("preprocessed", 32, Objective(3), seed=0)
    loop = Loop(model, Objective(3), keras.optimizers.Adam(), tf.distribute.get_strategy(), jit=jit)
    batches = tf.data.Dataset.from_tensor_slices((pixels, labels, weights)).batch(16)
    losses.append(np.concatenate([sums[:, 0] for _ in range(3) for sums in loop.train(batches)]))
assert loop._compiled_step.experimental_get_tracing_count() > 0, "the step is a compiled function"
np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
"""


@pytest.mark.long
def test_step_compiled_by_xla_is_the_same_step():
    ended = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
