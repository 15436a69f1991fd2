"""The training loop: every epoch one pass in an order of its own, every step exact on any number of replicas.

`Model.fit` averages each replica's own mean, so that an uneven last batch weighs its pictures unequally, without a
word. Here every replica divides the sum of its losses by the weight of the *whole* batch, so that adding the gradients
up gives the same step on one device and on many.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from trainer.data.input import Examples
from trainer.variants.head import Head

# Steps per call of the compiled function: enough to make the call itself cheap, few enough to come up for air often.
_STEPS_PER_CALL = 16


@dataclass
class History:
    """What training measured, one number an epoch.

    Attributes:
        accuracy: share of training pictures that were right, as they were seen: augmented, with dropout.
        loss: mean cross-entropy of the same, in nats.
        validation_accuracy: share of validation pictures that are right after the epoch.
        validation_loss: mean cross-entropy of the same, in nats.
        seconds: for the training pass alone.
    """

    accuracy: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Loop:
    """Drives one model under one strategy.

    Args:
        model: pixels to logits; made under `strategy.scope()`.
        head: loss and predictions of its logits.
        optimizer: made under `strategy.scope()`.
        strategy: spreads each batch over the replicas.
    """

    def __init__(
        self,
        model: keras.Model,
        head: Head,
        optimizer: keras.optimizers.Optimizer,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self.model = model
        self._head = head
        self._optimizer = optimizer
        self._strategy = strategy
        with strategy.scope():
            optimizer.build(model.trainable_variables)
        self._train_steps = tf.function(self._steps)
        # A signature of its own: batches of any size share one graph.
        self._infer = tf.function(
            lambda pixels: model(tf.cast(pixels, tf.float32), training=False),
            input_signature=[tf.TensorSpec(model.input_shape, tf.uint8)],
        )

    @property
    def replicas(self) -> int:
        """How many replicas share a batch."""
        return self._strategy.num_replicas_in_sync

    def train_epoch(self, batches: tf.data.Dataset) -> tuple[float, float]:
        """Trains on every batch once.

        Args:
            batches: (uint8 [n, H, W, 3], int32 [n], float32 weights [n]) with the global batch size.

        Returns:
            Mean loss in nats, and accuracy, over all pictures of the epoch.
        """
        steps = int(batches.cardinality().numpy())
        iterator = iter(self._strategy.experimental_distribute_dataset(batches))
        total = np.zeros(3)
        for start in range(0, steps, _STEPS_PER_CALL):
            count = min(_STEPS_PER_CALL, steps - start)
            total += self._train_steps(iterator, tf.constant(count)).numpy()
        loss, correct, pictures = total.tolist()
        return loss / pictures, correct / pictures

    def logits(self, batches: tf.data.Dataset) -> np.ndarray:
        """Logits of every picture once, in order, on one device: float32 [n, units]."""
        return np.concatenate([self._infer(pixels).numpy() for pixels, _ in batches])

    def _steps(self, iterator: "tf.data.Iterator", count: tf.Tensor) -> tf.Tensor:
        total = tf.zeros(3)
        for _ in tf.range(count):
            per_replica = self._strategy.run(self._step, args=next(iterator))
            total += self._strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)
        return total

    def _step(self, pixels: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        weight_everywhere = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(weights))
        with tf.GradientTape() as tape:
            logits = self.model(tf.cast(pixels, tf.float32), training=True)
            loss = tf.reduce_sum(self._head.loss(labels, logits) * weights)
            share = loss / weight_everywhere
        # The optimizer adds the replicas' gradients up before it applies them.
        variables = self.model.trainable_variables
        gradients = tape.gradient(share, [variable.value for variable in variables])
        self._optimizer.apply(gradients, variables)
        correct = tf.reduce_sum(tf.cast(self._head.predictions(logits) == labels, tf.float32) * weights)
        return tf.stack([loss, correct, tf.reduce_sum(weights)])


def train(
    loop: Loop,
    examples: Examples,
    head: Head,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    metrics_file: Path,
    say: Callable[[str], None],
) -> History:
    """Trains for a number of epochs and judges every one on the validation pictures.

    Args:
        loop: the model and how to step it.
        examples: the pictures.
        head: loss and predictions of the model's logits.
        epochs: passes over the training pictures.
        batch_size: pictures per step over all replicas.
        seed: of the order of pictures.
        metrics_file: gets one JSON object a line and epoch, as soon as it is known.
        say: prints one line.
    """
    history = History()
    validation = examples.indices("validation")
    labels = tf.constant(examples.labels(validation))
    pictures = len(examples.indices("train"))
    for epoch in range(epochs):
        start = time.perf_counter()
        batches = examples.training_batches(batch_size, seed=seed, epoch=epoch, full=loop.replicas > 1)
        loss, accuracy = loop.train_epoch(batches)
        seconds = time.perf_counter() - start
        logits = tf.constant(loop.logits(examples.evaluation_batches("validation", batch_size)))
        row = {
            "accuracy": accuracy,
            "loss": loss,
            "validation_accuracy": float(tf.reduce_mean(tf.cast(head.predictions(logits) == labels, tf.float32))),
            "validation_loss": float(tf.reduce_mean(head.loss(labels, logits))),
            "seconds": seconds,
        }
        for name, value in row.items():
            getattr(history, name).append(value)
        with metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch + 1, **row}) + "\n")
        say(
            f"epoch {epoch + 1:{len(str(epochs))}d}/{epochs}  loss {loss:.3f}  accuracy {accuracy:.3f}  "
            f"validation loss {row['validation_loss']:.3f}  accuracy {row['validation_accuracy']:.3f}  "
            f"{pictures / seconds:.0f} pictures/s"
        )
    return history
