"""What is trained, in which order: the model or its head; then, where asked for, the top of its
backbone.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from trainer.config import Config, LearningRate
from trainer.data.input import Examples
from trainer.data.ledger import Ledger
from trainer.training.checkpoints import Checkpoints
from trainer.training.devices import Devices
from trainer.training.extractor import split
from trainer.training.features import extract
from trainer.training.fit import Batches, History, Plan, train
from trainer.training.loop import Loop
from trainer.training.observers import Observers
from trainer.training.schedule import make_optimizer
from trainer.variants.backbone import unfreeze_top
from trainer.variants.head import Head

# Fine-tuning changes weights that are good already.
_FINE_TUNE_RATE = 0.1


class Stages:
    """Trains one model in one or two stages, each of which goes on where it was stopped.

    Args:
        config: what to do.
        devices: what to do it on.
        model: made under the strategy; what it has learnt is in it afterwards.
        head: loss and predictions of its logits.
        examples: the pictures.
        checkpoints: folder of checkpoints.
        saved: called after each checkpoint.
        observers: are told of steps and epochs.
        stop: asked between calls; true ends training with a checkpoint.
    """

    def __init__(
        self,
        config: Config,
        devices: Devices,
        model: keras.Model,
        head: Head,
        examples: Examples,
        *,
        checkpoints: Path,
        saved: Callable[[], None],
        observers: Observers,
        stop: Callable[[], bool],
    ) -> None:
        self._config = config
        self._devices = devices
        self._model = model
        self._head = head
        self._examples = examples
        self._checkpoints = checkpoints
        self._saved = saved
        self._observers = observers
        self._stop = stop

    def features(self, ledger: Ledger, cache_folder: Path) -> Batches:
        """Computes what the head is trained on, or finds it computed.

        Args:
            ledger: the pictures' digests.
            cache_folder: keeps features from run to run.

        Raises:
            RunError: the cache cannot be read or written.
        """
        with self._devices.strategy.scope():
            extractor, _ = split(self._model)
        return extract(
            self._examples,
            ledger,
            extractor,
            views=self._config.feature_views,
            seed=self._config.seed,
            cache_folder=cache_folder,
            say=self._observers.say,
        )

    def train(self, features: Batches | None) -> History:
        """Trains the model on pixels, or its head on features.

        Raises:
            WhiskerError: as `trainer.training.fit.train`.
        """
        config = self._config
        plan = Plan(config.epochs, config.batch_size, config.seed, config.early_stopping)
        if features is None:
            return self._stage(self._model, self._examples, config.rate, plan)
        with self._devices.strategy.scope():
            _, head_model = split(self._model)
        return self._stage(head_model, features, config.rate, plan, dtype=tf.float32)

    def fine_tune(self, history: History, kept: int) -> History:
        """Trains the top of the backbone too, on pixels; the model keeps what it had where that was
        better.

        Args:
            history: of what came before.
            kept: number, from 1, of the epoch whose weights the model has.

        Returns:
            The history of all epochs.

        Raises:
            WhiskerError: as `trainer.training.fit.train`.
        """
        config = self._config
        unfreeze_top(self._model)
        rate = LearningRate("cosine", config.rate.peak * _FINE_TUNE_RATE)
        epochs = len(history.loss) + config.fine_tune_epochs
        # Patience for all of them: the best one is kept, or what was there before.
        plan = Plan(epochs, config.batch_size, config.seed, patience=epochs - kept, since=kept)
        return self._stage(self._model, self._examples, rate, plan, before=history)

    def steps(self, history: History) -> int:
        """Training steps in all epochs."""
        return len(history.loss) * Plan(0, self._config.batch_size, 0).steps(self._examples)

    def _stage(
        self,
        model: keras.Model,
        batches: Batches,
        rate: LearningRate,
        plan: Plan,
        *,
        before: History | None = None,
        dtype: tf.DType = tf.uint8,
    ) -> History:
        epochs = plan.epochs - len(before.loss if before else [])
        with self._devices.strategy.scope():
            optimizer, plateau = make_optimizer(rate, epochs * plan.steps(batches))
        devices = self._devices
        loop = Loop(
            model,
            self._head,
            optimizer,
            devices.strategy,
            dtype,
            devices.workers,
            jit=self._config.jit,
        )
        return train(
            loop,
            batches,
            self._head,
            plan,
            checkpoints=Checkpoints(
                self._checkpoints,
                model,
                optimizer,
                prefix="fine-tune-" if before else "",
                saved=self._saved,
            ),
            plateau=plateau,
            observers=self._observers,
            stop=self._stop,
            before=before,
        )
