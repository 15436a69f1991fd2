"""Epochs: training passes, each judged on the validation pictures; the learning rate; early
stopping; resuming after a stop.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.config import LearningRate
from trainer.data.batches import Examples
from trainer.errors import RunStopped, TrainingError
from trainer.training.checkpoints import Checkpoints
from trainer.training.features import FeatureExamples
from trainer.training.loop import Loop
from trainer.training.observers import Observers

logger = logging.getLogger(__name__)

# What a machine that goes away without a word may cost at most, besides the step that it was in.
_CHECKPOINT_EVERY_S = 60.0

# Share of all steps in which the cosine schedule rises from 0 to its peak.
_WARM_UP = 0.1
# Keras' own defaults for ReduceLROnPlateau are 0.1 after 10 epochs, for runs of hundreds; runs here
# have tens.
_PLATEAU_FACTOR = 0.5
_PLATEAU_PATIENCE = 3


# Where batches come from.
Batches = Examples | FeatureExamples


@dataclass(frozen=True)
class Plan:
    """How long and in what order to train.

    Attributes:
        epochs: passes over the training pictures at most.
        batch_size: pictures per step over all replicas.
        seed: of the order of pictures.
        patience: epochs without a lower validation loss after which training ends, with the best
            epoch's weights; 0: train all epochs and keep the last one's.
        since: number, from 1, of the first epoch that may be the best.
        plateau: whether the learning rate is halved where the validation loss no longer falls.
    """

    epochs: int
    batch_size: int
    seed: int
    patience: int = 0
    since: int = 1
    plateau: bool = False

    def steps(self, batches: Batches) -> int:
        """Training steps in an epoch."""
        return -(-len(batches.indices("train")) // self.batch_size)


@dataclass
class History:
    """What training measured, one number an epoch.

    Attributes:
        accuracy: share of training pictures that were right, as they were seen: augmented, with
            dropout.
        loss: mean cross-entropy of the same, in nats.
        validation_accuracy: share of validation pictures that are right after the epoch.
        validation_loss: mean cross-entropy of the same, in nats.
        learning_rate: at the end of the epoch.
        seconds: of the training pass alone.
    """

    accuracy: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def rows(self) -> list[dict[str, float]]:
        """The same by epoch: one mapping each."""
        columns = asdict(self)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def best_epoch(self, since: int = 1) -> int:
        """Number, from 1, of the epoch with the lowest validation loss, of those from `since`
        on.
        """
        return int(np.argmin(self.validation_loss[since - 1 :])) + since


@dataclass
class _Progress:
    """Where training stands; what a checkpoint keeps besides variables."""

    epoch: int = 0  # whole epochs done
    batch: int = 0  # batches done of the one after them
    step: int = 0  # steps done in all
    # Of the epoch so far, as `Loop.train` gives them.
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)
    seconds: float = 0.0  # spent in it
    history: dict[str, list[float]] = field(default_factory=lambda: asdict(History()))


class _Adam(keras.optimizers.Adam):
    """Keras' Adam, each variable in one operation instead of a dozen."""

    def update_step(
        self, gradient: tf.Tensor, variable: Any, learning_rate: keras.KerasTensor
    ) -> None:
        """Computes what Keras' own does."""
        index = self._get_variable_index(variable)
        moments = self._momentums[index], self._velocities[index]
        step = tf.cast(self.iterations.value + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=moments[0].value.handle,
            v=moments[1].value.handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


def make_optimizer(rate: LearningRate, steps: int) -> keras.optimizers.Optimizer:
    """Makes Adam with the schedule that `--learning_rate` names.

    Args:
        rate: schedule and peak. `train` lowers the rate of ``plateau``.
        steps: of the whole run.
    """
    if rate.schedule != "cosine":
        return _Adam(rate.peak)
    warm_up = max(1, round(_WARM_UP * steps))
    return _Adam(
        keras.optimizers.schedules.CosineDecay(
            0.0, decay_steps=max(1, steps - warm_up), warmup_target=rate.peak, warmup_steps=warm_up
        )
    )


def lower_on_plateau(
    optimizer: keras.optimizers.Optimizer, validation_loss: Sequence[float]
) -> None:
    """Halves the learning rate after three epochs without a lower validation loss.

    What it does depends on the history alone, so that a resumed run does the same.

    Args:
        optimizer: with a plain learning rate.
        validation_loss: of every epoch so far.
    """
    best = min(range(len(validation_loss)), key=validation_loss.__getitem__)
    waited = len(validation_loss) - 1 - best
    if waited and waited % _PLATEAU_PATIENCE == 0:
        optimizer.learning_rate = (
            keras.ops.convert_to_numpy(optimizer.learning_rate) * _PLATEAU_FACTOR
        )


def train(
    loop: Loop,
    batches: Batches,
    plan: Plan,
    *,
    checkpoints: Checkpoints,
    observers: Observers,
    stop: Callable[[], bool],
    before: History | None = None,
) -> History:
    """Trains, from the newest checkpoint on where there is one.

    Args:
        loop: the model and how to step it.
        batches: where pictures come from.
        plan: how long and in what order.
        checkpoints: of this run.
        observers: show steps and epochs.
        stop: looked at between calls; true ends training with a checkpoint.
        before: what an earlier stage measured; epochs are counted on from there.

    Returns:
        The history; the model has the weights that the plan asks for.

    Raises:
        RunStopped: `stop` said so; a checkpoint is written.
        TrainingError: a loss or gradient is no finite number (the text names epoch and step), or a
            device is out of memory (it names the batch size to try).
        RunError: a checkpoint can be neither written nor read.
    """
    progress = _resume(loop, checkpoints) or _begin(plan, batches, checkpoints, before)
    history = History(**progress.history)
    while progress.epoch < plan.epochs:
        waited = progress.epoch and progress.epoch - history.best_epoch(plan.since)
        if plan.patience and waited >= plan.patience:
            break
        _train_epoch(loop, batches, plan, progress, checkpoints, observers, stop)
        for name, value in _judge(loop, batches, plan, progress).items():
            getattr(history, name).append(value)
        progress = _Progress(epoch=progress.epoch + 1, step=progress.step, history=asdict(history))
        if plan.plateau:
            lower_on_plateau(loop.optimizer, history.validation_loss)
        if plan.patience and history.best_epoch(plan.since) == progress.epoch:
            checkpoints.save_best(progress.epoch)
        observers.epoch(progress.epoch, history.rows())
        checkpoints.save(progress.step, asdict(progress))
    if plan.patience and (best := history.best_epoch(plan.since)) != len(history.loss):
        # Only the chief has checkpoints.
        if loop.workers.is_chief:
            checkpoints.restore_best(best)
        loop.workers.take_from_chief(loop.model.variables)
        logger.info("keeping epoch %d, which has the lowest validation loss", best)
    return history


def _resume(loop: Loop, checkpoints: Checkpoints) -> _Progress | None:
    restored = checkpoints.restore()
    # Only the chief's checkpoints count, and only it needs to have them.
    restored = json.loads(loop.workers.chiefs_text(json.dumps(restored)))
    if not restored:
        return None
    progress = _Progress(**restored)
    loop.workers.take_from_chief([*loop.model.variables, *loop.optimizer.variables])
    logger.info(
        "resuming after epoch %d, batch %d (step %d)",
        progress.epoch,
        progress.batch,
        progress.step,
    )
    return progress


def _begin(
    plan: Plan, batches: Batches, checkpoints: Checkpoints, before: History | None
) -> _Progress:
    if before is None:
        return _Progress()
    if plan.patience:
        checkpoints.save_best(plan.since)
    epochs = len(before.loss)
    return _Progress(epoch=epochs, step=epochs * plan.steps(batches), history=asdict(before))


def _train_epoch(
    loop: Loop,
    batches: Batches,
    plan: Plan,
    progress: _Progress,
    checkpoints: Checkpoints,
    observers: Observers,
    stop: Callable[[], bool],
) -> None:
    """Trains to the end of an epoch, and counts in `progress`."""
    dataset = batches.training_batches(
        plan.batch_size,
        seed=plan.seed,
        epoch=progress.epoch,
        full=loop.replicas > 1,
        start=progress.batch,
        part=loop.workers.part,
    )
    saved_at, start = time.monotonic(), time.perf_counter()
    try:
        for sums in loop.train(dataset):
            progress.seconds += time.perf_counter() - start
            _require_finite(sums, progress)
            progress.batch += len(sums)
            progress.step += len(sums)
            progress.sums = (np.array(progress.sums) + sums.sum(axis=0, dtype=np.float64)).tolist()
            observers.steps(progress.epoch, progress.step, sums)
            # One worker that is asked to stop stops all; the chief's clock says when a checkpoint
            # is due.
            stopping, due = loop.workers.gather(
                [stop(), time.monotonic() - saved_at > _CHECKPOINT_EVERY_S]
            ).T
            if stopping.any() or due[0]:
                checkpoints.save(progress.step, asdict(progress))
                saved_at = time.monotonic()
            if stopping.any():
                raise RunStopped(
                    f"stopped after step {progress.step} with a checkpoint; the same command"
                    " resumes from there"
                )
            start = time.perf_counter()
    except tf.errors.ResourceExhaustedError as error:
        smaller = max(plan.batch_size // 2, 1)
        raise TrainingError(
            f"--batch_size={plan.batch_size}: a device is out of memory"
            f" ({error.message.splitlines()[0]}); try --batch_size={smaller}, or a smaller"
            " --image_size"
        ) from error


def _require_finite(sums: np.ndarray, progress: _Progress) -> None:
    for quantity, column in (("training loss", 0), ("gradient", 3)):
        broken = np.flatnonzero(~np.isfinite(sums[:, column]))
        if len(broken):
            raise TrainingError(
                f"the {quantity} is {sums[broken[0], column]} at step"
                f" {progress.step + broken[0] + 1} (epoch {progress.epoch + 1}): lower"
                " --learning_rate; the checkpoint before it is kept"
            )


def _judge(loop: Loop, batches: Batches, plan: Plan, progress: _Progress) -> dict[str, float]:
    labels = tf.constant(batches.labels(batches.indices("validation")))
    logits = tf.constant(loop.logits(batches.evaluation_batches("validation", plan.batch_size)))
    if progress.epoch == 0 and len(logits) > 1 and not np.ptp(logits, axis=0).any():
        logger.warning(
            "warning: every validation picture gets the same answer: the units are dead and will"
            " not learn any more; try another --seed, a lower --learning_rate, or scaled inputs"
            " (--variant=preprocessed)"
        )
    loss, right, pictures, _ = progress.sums
    row = {
        "accuracy": right / pictures,
        "loss": loss / pictures,
        "validation_accuracy": float(
            tf.reduce_mean(tf.cast(loop.objective.predictions(logits) == labels, tf.float32))
        ),
        "validation_loss": float(tf.reduce_mean(loop.objective.loss(labels, logits))),
        "learning_rate": loop.learning_rate,
        "seconds": progress.seconds,
    }
    # Machines may differ in the last bit; what follows from these numbers has to be the same
    # everywhere.
    row = dict(zip(row, loop.workers.chiefs(list(row.values())).tolist(), strict=True))
    if not math.isfinite(row["validation_loss"]):
        raise TrainingError(
            f"the validation loss is {row['validation_loss']} after epoch {progress.epoch + 1}:"
            " lower --learning_rate; the checkpoint before it is kept"
        )
    return row
