import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trained_model import load_examples, logged, write_pictures
from trainer.config import Config, LearningRate
from trainer.devices import prepare
from trainer.errors import RunError, RunStopped, TrainingError
from trainer.training.checkpoints import Checkpoints
from trainer.training.fit import History, Plan, lower_on_plateau, make_optimizer, train
from trainer.training.loop import Loop
from trainer.training.observers import Observers
from trainer.variants.models import build
from trainer.variants.objective import Objective

SIZE = 32
PLAN = Plan(epochs=3, batch_size=7, seed=0)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = write_pictures(tmp_path_factory.mktemp("fit") / "pictures", per_class=25)
    return load_examples(folder, SIZE)[0]


class Run:
    """One process' worth of training: everything new but the folder."""

    def __init__(self, folder, *, rate=1e-3, profile=""):
        self.lines = []
        self.folder = folder
        devices = prepare(Config())
        keras.utils.set_random_seed(0)
        with devices.strategy.scope():
            self.model = build("preprocessed", SIZE, Objective(2), seed=0)
            optimizer = make_optimizer(LearningRate("constant", rate), 100)
        self.loop = Loop(self.model, Objective(2), optimizer, devices.strategy)
        self.checkpoints = Checkpoints(folder / "checkpoints", self.model, optimizer)
        folder.mkdir(exist_ok=True)
        self.observers = Observers(Config(epochs=3, profile_steps=profile), 30, folder)

    def train(self, examples, plan=PLAN, *, stop=lambda: False):
        with logged(self.lines):
            return train(
                self.loop,
                examples,
                plan,
                checkpoints=self.checkpoints,
                observers=self.observers,
                stop=stop,
            )

    def weights(self):
        return [variable.value.numpy() for variable in self.model.variables]


@pytest.fixture(scope="module")
def whole(examples, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("whole"))
    return run, run.train(examples)


def stop_after(calls):
    asked = iter(range(calls))
    return lambda: next(asked, None) is None


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_stopped_run_resumes_at_the_very_batch(examples, whole, tmp_path, calls):
    first = Run(tmp_path)
    with pytest.raises(
        RunStopped, match="stopped after step .* with a checkpoint; the same command resumes"
    ):
        first.train(examples, stop=stop_after(calls))
    second = Run(tmp_path)
    history = second.train(examples)
    assert second.lines[0].startswith("resuming after epoch ")
    assert_same(second.weights(), whole[0].weights())
    for name in ("accuracy", "loss", "validation_accuracy", "validation_loss"):
        assert getattr(history, name) == getattr(whole[1], name)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [PLAN.steps(examples) * number for number in (1, 2, 3)]
    assert all(row["pictures_per_second"] > 0 for row in rows)


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(examples, whole, tmp_path):
    run = Run(tmp_path)
    run.train(examples)
    newest = max((tmp_path / "checkpoints").glob("step-*.data*"))
    newest.write_bytes(newest.read_bytes()[:1000])
    again = Run(tmp_path)
    again.train(examples)
    assert f"checkpoint {newest.name.split('.')[0]} is damaged" in again.lines[0]
    assert "trying the one before" in again.lines[0]
    assert_same(again.weights(), whole[0].weights())


def test_run_whose_checkpoints_are_all_damaged_says_so(examples, tmp_path):
    Run(tmp_path).train(examples)
    for file in (tmp_path / "checkpoints").glob("step-*.data*"):
        file.write_bytes(b"")
    with pytest.raises(
        RunError,
        match="none of the 3 checkpoints can be read; remove the run folder to begin again",
    ):
        Run(tmp_path).train(examples)


def test_only_the_newest_three_checkpoints_are_kept(whole):
    names = {path.name.split(".")[0] for path in (whole[0].folder / "checkpoints").glob("step-*")}
    assert len(names) == 3


def test_run_killed_between_its_best_epoch_and_the_checkpoint_has_the_one_before(tmp_path):
    killed = Run(tmp_path)
    killed.checkpoints.save_best(1)
    killed.checkpoints.save(5, {"epoch": 1})
    before = killed.weights()
    killed.model.variables[0].assign_add(killed.model.variables[0])
    killed.checkpoints.save_best(2)
    folder = tmp_path / "checkpoints"
    # As TensorFlow leaves them where it is killed.
    for name in ("best-00003_temp", "step-000000009_temp"):
        (folder / name).mkdir()
        (folder / name / "part-00000-of-00001.tempstate1").touch()
    again = Run(tmp_path)
    assert again.checkpoints.restore() == {"epoch": 1}
    again.checkpoints.restore_best(1)
    assert_same(again.weights(), before)
    again.checkpoints.save_best(4)
    again.checkpoints.save(9, {})
    assert {path.name.split(".")[0] for path in folder.iterdir()} == {
        "best-00004",
        "step-000000005",
        "step-000000009",
    }


def test_checkpoint_that_cannot_be_written_is_told_and_the_one_before_kept(examples, tmp_path):
    run = Run(tmp_path)
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(
        RunError, match="the checkpoint of step .* cannot be written .*; the one before it is kept"
    ):
        run.train(examples)


@tf.custom_gradient
def relu_without_gradient(x):
    """A relu whose gradient is NaN while the loss is finite, whatever kernels a processor has."""
    return tf.nn.relu(x), lambda upstream: upstream * np.nan


@pytest.mark.parametrize("quantity", ["training loss", "gradient"])
def test_number_that_is_not_finite_stops_training_at_its_step(examples, tmp_path, quantity):
    run = Run(tmp_path)
    if quantity == "gradient":
        run.model.get_layer("dense").activation = relu_without_gradient
    else:
        kernel = run.model.get_layer("logits").kernel
        kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(
        TrainingError, match=rf"the {quantity} is nan at step 1 \(epoch 1\): lower --learning_rate"
    ):
        run.train(examples)


def test_dead_units_are_told_after_the_first_epoch(examples, tmp_path):
    run = Run(tmp_path, rate=1e-9)
    bias = run.model.get_layer("dense").bias
    bias.assign(np.full(bias.shape, -1e6))
    run.train(examples)
    assert [line for line in run.lines if "the units are dead" in line] == [run.lines[0]]
    assert "try another --seed, a lower --learning_rate" in run.lines[0]


def test_device_out_of_memory_says_which_batch_size_to_try(examples, tmp_path):
    run = Run(tmp_path)

    def allocate(*_):
        # What TensorFlow raises; a machine that is really brought there may take the tests with it.
        raise tf.errors.ResourceExhaustedError(
            None, None, "OOM when allocating tensor with shape[32,160]"
        )

    run.loop._train_steps = allocate
    with pytest.raises(
        TrainingError, match=r"--batch_size=7: a device is out of memory \(.*\); try --batch_size=3"
    ):
        run.train(examples)


def test_early_stopping_keeps_the_best_epoch(examples, tmp_path):
    # A rate that destroys what the first epoch has learnt.
    run = Run(tmp_path, rate=3.0)
    history = run.train(examples, Plan(epochs=9, batch_size=7, seed=0, patience=2))
    assert len(history.loss) < 9
    assert run.loop.learning_rate == 3.0, "a constant rate is not lowered"
    assert len(history.loss) - history.best_epoch() == 2
    logits = run.loop.logits(examples.evaluation_batches("validation", 7))
    labels = tf.constant(examples.labels(examples.indices("validation")))
    assert float(tf.reduce_mean(Objective(2).loss(labels, tf.constant(logits)))) == pytest.approx(
        min(history.validation_loss), rel=1e-5
    )
    assert (
        f"keeping epoch {history.best_epoch()}, which has the lowest validation loss" in run.lines
    )


def test_plateau_halves_the_rate_after_three_epochs_without_a_lower_loss():
    optimizer = keras.optimizers.Adam(0.1)
    rates = []
    losses = [1.0, 0.9, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.5, 0.6]
    for epoch in range(1, len(losses) + 1):
        lower_on_plateau(optimizer, losses[:epoch])
        rates.append(round(float(optimizer.learning_rate), 6))
    assert rates == [0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025, 0.025, 0.025]


def test_cosine_rises_over_a_tenth_of_the_steps_and_falls_to_zero():
    optimizer = make_optimizer(LearningRate("cosine", 0.5), steps=100)
    optimizer.build([keras.Variable(np.zeros(1, np.float32))])
    rates = []
    for step in (0, 5, 10, 55, 100):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0.25, 0], atol=1e-6)


def test_tensorboard_gets_scalars_and_the_profile_of_the_steps_asked_for(examples, tmp_path):
    run = Run(tmp_path, profile="2,4")
    run.train(examples, Plan(epochs=2, batch_size=7, seed=0))
    tags = {
        value.tag
        for file in (tmp_path / "tensorboard").glob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    assert tags >= {"step/loss", "epoch/loss", "epoch/validation_accuracy", "epoch/learning_rate"}
    assert list((tmp_path / "tensorboard").rglob("*.xplane.pb"))


def test_history_knows_its_best_epoch():
    assert History(validation_loss=[0.7, 0.5, 0.5, 0.6]).best_epoch() == 2
    assert History(validation_loss=[0.1, 0.7, 0.5, 0.6]).best_epoch(since=2) == 3


def test_optimizer_steps_as_keras_own_adam():
    values = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    found = []
    for optimizer in (
        make_optimizer(LearningRate("cosine", 0.01), 20),
        keras.optimizers.Adam(make_optimizer(LearningRate("cosine", 0.01), 20)._learning_rate),
    ):
        variable = keras.Variable(values[0])
        for _ in range(10):
            for gradient in values[1:]:
                optimizer.apply([tf.constant(gradient)], [variable])
        found.append(np.array(variable.value))
    np.testing.assert_allclose(*found, atol=1e-5)
    assert np.abs(found[0] - values[0]).min() > 1e-3
