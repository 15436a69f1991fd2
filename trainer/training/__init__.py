"""Training: the model or its head, then, where asked for, the top of its backbone.

`train` is the front door. Epochs are in `fit`, the step on one device and on many in `loop`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.config import Config, LearningRate
from trainer.data.batches import Examples
from trainer.data.dataset import Dataset
from trainer.session import Session
from trainer.training import fit
from trainer.training.checkpoints import Checkpoints
from trainer.training.features import (
    FeatureExamples,
    extract,
    fast_extractor,
    split_backbone,
)
from trainer.training.fit import Batches, History, Plan, make_optimizer
from trainer.training.loop import Loop, inference
from trainer.training.observers import Observers
from trainer.variants import HEADS, VARIANTS
from trainer.variants.models import (
    build,
    copy_variables,
    describe_layers,
    trainable_parameters,
    unfreeze_top,
)
from trainer.variants.objective import Objective

logger = logging.getLogger(__name__)

# Fine-tuning changes weights that are good already.
_FINE_TUNE_RATE = 0.1


# Answers about untouched pictures, by their positions in the ledger, int64 [n]: logits, float32
# [n, units], and pooled features, float32 [n, m] (None: the variant has no backbone).
Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True)
class Trained:
    """What training made.

    Attributes:
        model: as it is published: float32, on one device; pixels to logits.
        objective: loss and probabilities of its logits.
        history: one number an epoch.
        chosen_epoch: number, from 1, of the epoch whose weights the model has.
        parameters: `total`, and `trainable` in the last stage.
        layers: as `describe_layers` lists them.
        steps: training steps in all epochs.
        predict: answers from the features that the model was trained on, where there are some.
        predict_from_pixels: answers by the whole model.
        classify: gives the logits of any pixels, float32 [n, size, size, 3] in 0…255; as fast as
            this machine can, and prepared at the first call.
    """

    model: keras.Model
    objective: Objective
    history: History
    chosen_epoch: int
    parameters: dict[str, int]
    layers: list[dict[str, Any]]
    steps: int
    predict: Predict
    predict_from_pixels: Predict
    classify: Callable[[np.ndarray], np.ndarray]


def train(config: Config, session: Session, data: Dataset, weights: Path | None) -> Trained:
    """Trains the variant that the config names, from the newest checkpoint on where there is one.

    Args:
        config: of the run.
        session: of the run.
        data: the pictures.
        weights: a Keras weights file of the backbone; None: random weights, or no backbone.

    Raises:
        RunStopped: the run was asked to stop; a checkpoint is written.
        WhiskerError: as `trainer.training.fit.train`, or the backbone's weights are others.
    """
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    devices, folder, clock = session.devices, session.folder, session.clock
    objective = Objective(len(data.ledger.classes))
    make = partial(
        build,
        config.variant,
        config.image_size,
        objective,
        seed=config.seed,
        augmentation=config.augmentation or "light",
        backbone=config.backbone,
        head=HEADS[config.head or "notebook"],
    )
    # Keras draws the seeds of layers from Python's one stream, as does what sends to a bucket.
    with folder.undisturbed(), devices.strategy.scope():
        keras.utils.set_random_seed(config.seed)
        model = make(weights=weights, precision=devices.precision, for_training=True)
    clock.stop("data")
    observers = Observers(config, len(data.examples.indices("train")), folder.path)
    stages = Stages(config, session, model, objective, data.examples, observers)
    features = None
    if config.feature_views:
        with devices.strategy.scope():
            extractor, _ = split_backbone(model)
        features = extract(
            data.examples,
            data.ledger,
            extractor,
            views=config.feature_views,
            seed=config.seed,
            cache_folder=session.downloads / "features",
            augmentation=config.augmentation,
        )
        clock.stop("features")
    with session.stop.deferred():
        history = stages.train(features)
        chosen = history.best_epoch() if config.early_stopping else len(history.loss)
        if config.fine_tune_epochs:
            history = stages.fine_tune(history, chosen)
            chosen = history.best_epoch(chosen)
    clock.stop("train")
    single = model
    backbone = VARIANTS[config.variant].backbone
    if not (backbone and devices.is_single and devices.precision == "float32"):
        single = make()
        copy_variables(model, single)
    return Trained(
        single,
        objective,
        history,
        chosen,
        {"total": model.count_params(), "trainable": trainable_parameters(model)},
        describe_layers(model if backbone else single),
        len(history.loss) * Plan(0, config.batch_size, 0).steps(data.examples),
        *_predictors(config, single, data.examples, features),
    )


def _predictors(
    config: Config, model: keras.Model, examples: Examples, features: FeatureExamples | None
) -> tuple[Predict, Predict, Callable[[np.ndarray], np.ndarray]]:
    """The ways to ask a model, as `Trained` lists them."""
    if not VARIANTS[config.variant].backbone:
        infer, classify = inference(model), inference(model, tf.float32)

        def predict(positions: np.ndarray) -> tuple[np.ndarray, None]:
            return infer(examples.batches(positions, config.batch_size)), None

        return predict, predict, lambda pixels: classify([(pixels, None)])
    extractor, head = split_backbone(model)
    extract_from, answer = inference(extractor), inference(head, tf.float32)

    def answered(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return answer([(found, None)]), found

    def from_pixels(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return answered(extract_from(examples.batches(positions, config.batch_size)))

    from_features, known = from_pixels, None
    if features is not None and not config.fine_tune_epochs:
        from_features, known = (
            lambda positions: answered(features.features(positions)),
            features.run,
        )
    fast = fast_extractor(extractor, examples, known)
    return from_features, from_pixels, lambda pixels: answered(fast(pixels))[0]


@dataclass(frozen=True)
class Stages:
    """Trains one model in one or two stages, each of which resumes where it was stopped.

    Attributes:
        config: what to do.
        session: of the run.
        model: made under the strategy; what it has learnt is in it afterwards.
        objective: loss and predictions of its logits.
        examples: the pictures.
        observers: show steps and epochs.
    """

    config: Config
    session: Session
    model: keras.Model
    objective: Objective
    examples: Examples
    observers: Observers

    def train(self, features: Batches | None) -> History:
        """Trains the model on pixels, or its head on features.

        Raises:
            WhiskerError: as `trainer.training.fit.train`.
        """
        config = self.config
        plan = Plan(
            config.epochs,
            config.batch_size,
            config.seed,
            config.early_stopping,
            plateau=config.rate.schedule == "plateau",
        )
        if features is None:
            return self._stage(self.model, self.examples, config.rate, plan)
        with self.session.devices.strategy.scope():
            _, head = split_backbone(self.model)
        return self._stage(head, features, config.rate, plan, dtype=tf.float32)

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
        config = self.config
        unfreeze_top(self.model, config.backbone)
        rate = LearningRate("cosine", config.rate.peak * _FINE_TUNE_RATE)
        epochs = len(history.loss) + config.fine_tune_epochs
        # Patience for all of them: the best one is kept, or what was there before.
        plan = Plan(epochs, config.batch_size, config.seed, patience=epochs - kept, since=kept)
        return self._stage(self.model, self.examples, rate, plan, before=history)

    def _stage(
        self,
        model: keras.Model,
        batches: Batches,
        rate: LearningRate,
        plan: Plan,
        before: History | None = None,
        dtype: tf.DType = tf.uint8,
    ) -> History:
        epochs = plan.epochs - len(before.loss if before else [])
        devices, folder = self.session.devices, self.session.folder
        with devices.strategy.scope():
            optimizer = make_optimizer(rate, epochs * plan.steps(batches))
        return fit.train(
            Loop(
                model,
                self.objective,
                optimizer,
                devices.strategy,
                dtype,
                devices.workers,
                jit=self.config.jit,
            ),
            batches,
            plan,
            checkpoints=Checkpoints(
                folder.path / "checkpoints",
                model,
                optimizer,
                prefix="fine-tune-" if before else "",
                saved=folder.synchronise,
            ),
            observers=self.observers,
            stop=self.session.stop.requested,
            before=before,
        )
