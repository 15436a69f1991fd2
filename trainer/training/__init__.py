"""Training: the model or its head, then, where asked for, the top of its backbone.

`train` is the front door. Epochs are in `fit`, the step on one device and on many in `loop`.
"""

import logging
import math
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
from trainer.data.ledger import Ledger
from trainer.devices import Devices
from trainer.errors import TrainingError
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
from trainer.variants import HEADS, VARIANTS, scaling
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

_CHECKED_PICTURES = 8
# Kernels may round the rows of one batch differently, bfloat16 by 0.004; augmentation changes
# logits by more.
_SAME = 5e-3


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
    stages = Stages(
        config,
        devices,
        model,
        objective,
        data.examples,
        checkpoints=folder.path / "checkpoints",
        saved=folder.synchronise,
        observers=Observers(
            epochs=config.epochs + config.fine_tune_epochs,
            pictures=len(data.examples.indices("train")),
            metrics_file=folder.file("metrics.jsonl"),
            tensorboard=folder.path / "tensorboard",
            profile=config.profile_window,
        ),
        stop=session.stop.requested,
    )
    features = None
    if config.feature_views:
        features = stages.features(data.ledger, session.downloads / "features")
        clock.stop("features")
    if not folder.resumed:
        check_start(model, objective, data.examples, config)
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
        stages.steps(history),
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


class Stages:
    """Trains one model in one or two stages, each of which resumes where it was stopped.

    Args:
        config: what to do.
        devices: what to do it on.
        model: made under the strategy; what it has learnt is in it afterwards.
        objective: loss and predictions of its logits.
        examples: the pictures.
        checkpoints: folder of checkpoints.
        saved: called after each checkpoint.
        observers: show steps and epochs.
        stop: asked between calls; true ends training with a checkpoint.
    """

    def __init__(
        self,
        config: Config,
        devices: Devices,
        model: keras.Model,
        objective: Objective,
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
        self._objective = objective
        self._examples = examples
        self._checkpoints = checkpoints
        self._saved = saved
        self._observers = observers
        self._stop = stop

    def features(self, ledger: Ledger, cache_folder: Path) -> FeatureExamples:
        """Computes what the head is trained on, or finds it computed.

        Args:
            ledger: the pictures' digests.
            cache_folder: keeps features from run to run.

        Raises:
            RunError: the cache cannot be read or written.
        """
        with self._devices.strategy.scope():
            extractor, _ = split_backbone(self._model)
        return extract(
            self._examples,
            ledger,
            extractor,
            views=self._config.feature_views,
            seed=self._config.seed,
            cache_folder=cache_folder,
            augmentation=self._config.augmentation,
        )

    def train(self, features: Batches | None) -> History:
        """Trains the model on pixels, or its head on features.

        Raises:
            WhiskerError: as `trainer.training.fit.train`.
        """
        config = self._config
        plan = Plan(
            config.epochs,
            config.batch_size,
            config.seed,
            config.early_stopping,
            plateau=config.rate.schedule == "plateau",
        )
        if features is None:
            return self._stage(self._model, self._examples, config.rate, plan)
        with self._devices.strategy.scope():
            _, head = split_backbone(self._model)
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
        config = self._config
        unfreeze_top(self._model, config.backbone)
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
            optimizer = make_optimizer(rate, epochs * plan.steps(batches))
        devices = self._devices
        loop = Loop(
            model,
            self._objective,
            optimizer,
            devices.strategy,
            dtype,
            devices.workers,
            jit=self._config.jit,
        )
        return fit.train(
            loop,
            batches,
            self._objective,
            plan,
            checkpoints=Checkpoints(
                self._checkpoints,
                model,
                optimizer,
                prefix="fine-tune-" if before else "",
                saved=self._saved,
            ),
            observers=self._observers,
            stop=self._stop,
            before=before,
        )


def check_start(
    model: keras.Model, objective: Objective, examples: Examples, config: Config
) -> None:
    """Looks at a model that is about to be trained, on a few validation pictures; its variables
    stay as they are.

    Args:
        model: pixels to logits.
        objective: the loss of its logits.
        examples: the pictures.
        config: says the variant.

    Raises:
        TrainingError: training would learn nothing, or something else than it should.
    """
    indices = examples.indices("validation")
    # From all over the split: the first ones are of one class.
    indices = indices[np.linspace(0, len(indices) - 1, _CHECKED_PICTURES).astype(int)]
    pixels = tf.cast(examples.pictures(indices), tf.float32)
    # Every picture twice in one batch: augmentation would change the two differently.
    logits, again = tf.split(model(tf.concat([pixels, pixels], 0), training=False), 2)
    if not np.allclose(logits, again, rtol=_SAME, atol=_SAME):
        raise TrainingError(
            f"{config.variant}: the same pictures give another answer each time, as if augmented"
        )
    largest = VARIANTS[config.variant].largest_first_loss
    if largest is None:
        return
    loss = float(tf.reduce_mean(objective.loss(tf.constant(examples.labels(indices)), logits)))
    chance = math.log(objective.class_count)
    if not loss < chance + largest:
        raise TrainingError(
            f"{config.variant}: the loss before training is {loss:.2f}, expected about ln"
            f" {objective.class_count} = {chance:.2f}: logits, loss and labels do not belong"
            " together, or inputs are not scaled"
        )
    scaled = model.get_layer("rescaling")(pixels).numpy()
    low, high = scaling(config.variant, config.backbone).range
    grey = 0.001 * (high - low)
    if scaled.min() < low - grey or scaled.max() > high + grey or np.ptp(scaled) < 50 * grey:
        raise TrainingError(
            f"{config.variant}: inputs are scaled to {scaled.min():.2f} … {scaled.max():.2f},"
            f" expected within {low:g} … {high:g} and more than one grey"
        )
