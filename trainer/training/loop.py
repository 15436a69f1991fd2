"""The training loop: every epoch one pass in an order of its own, every step exact on any number of
replicas.

`Model.fit` averages each replica's own mean, so that an uneven last batch weighs its pictures
unequally, without a word. Here every replica divides the sum of its losses by the weight of the
*whole* batch, so that adding the gradients up gives the same step on one device and on many.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.devices import Workers
from trainer.variants.objective import Objective
from whisker_ml.terminal import LONG_S, progress

# A call of the compiled function runs as many steps as take about this long: enough to make the
# call itself cheap, few enough to look up often, for a signal to stop or the time of the next
# checkpoint.
_CALL_S = 1.0
_MOST_STEPS_PER_CALL = 64


class Loop:
    """Drives one model (or the head of one, on features) under one strategy.

    Args:
        model: pixels to logits; made under `strategy.scope()`.
        objective: loss and predictions of its logits.
        optimizer: made under `strategy.scope()`.
        strategy: spreads each batch over the replicas.
        dtype: of the batches: uint8 for pixels, float32 for features.
        workers: the processes that share a batch; None: this one alone.
        jit: compiles the step with XLA; for one device.
    """

    def __init__(
        self,
        model: keras.Model,
        objective: Objective,
        optimizer: keras.optimizers.Optimizer,
        strategy: tf.distribute.Strategy,
        dtype: tf.DType = tf.uint8,
        workers: Workers | None = None,
        *,
        jit: bool = False,
    ) -> None:
        self.model = model
        self.workers = workers or Workers(strategy)
        self.objective = objective
        self.optimizer = optimizer
        self._strategy = strategy
        with strategy.scope():
            optimizer.build(model.trainable_variables)
        self._steps_per_call = 1
        self._train_steps = tf.function(self._steps)
        # Of the step alone: XLA cannot compile the input that a loop of steps reads.
        self._compiled_step = tf.function(self._step, jit_compile=jit) if jit else self._step
        # Logits of every picture once, in order, on one device: float32 [n, units].
        self.logits = inference(model, dtype)

    @property
    def replicas(self) -> int:
        """How many replicas share a batch."""
        return self._strategy.num_replicas_in_sync

    @property
    def learning_rate(self) -> float:
        """The optimizer's rate now."""
        return float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))

    def train(self, batches: tf.data.Dataset) -> Iterator[np.ndarray]:
        """Trains on every batch once, some steps at a time.

        Args:
            batches: (uint8 [n, H, W, 3], int32 [n], float32 weights [n]) with the global batch
                size; where there are several workers, what each replica of this one gets, in turn.

        Yields:
            float32 [steps, 4] after each call: weighted sum of losses in nats, pictures that were
            right, and pictures (of a weight above 0), of each step over all replicas; and the sum
            of the replicas' squared gradients.
        """
        steps = int(batches.cardinality().numpy()) // self.workers.parts
        iterator = iter(self.workers.distribute(batches))
        while steps:
            count = min(steps, self._steps_per_call)
            start = time.perf_counter()
            sums = self._train_steps(iterator, tf.constant(count)).numpy()
            # The chief's time is everybody's: all workers must make the same calls.
            fitting = int(self.workers.chiefs([_CALL_S * count / (time.perf_counter() - start)])[0])
            # The first call of all compiles: one step, and its time says nothing.
            self._steps_per_call = min(
                max(fitting, 1), _MOST_STEPS_PER_CALL, 4 * self._steps_per_call
            )
            steps -= count
            yield sums

    def _steps(self, iterator: "tf.data.Iterator", count: tf.Tensor) -> tf.Tensor:
        sums = tf.TensorArray(tf.float32, count, element_shape=[4])
        for step in tf.range(count):
            per_replica = self._strategy.run(self._compiled_step, args=next(iterator))
            sums = sums.write(
                step, self._strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)
            )
        return sums.stack()

    def _step(self, pixels: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        weight_everywhere = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(weights))
        with tf.GradientTape() as tape:
            logits = self.model(tf.cast(pixels, tf.float32), training=True)
            loss = tf.reduce_sum(self.objective.loss(labels, logits) * weights)
            share = loss / weight_everywhere
        # The optimizer adds the replicas' gradients up before it applies them.
        variables = self.model.trainable_variables
        gradients = tape.gradient(share, [variable.value for variable in variables])
        self.optimizer.apply(gradients, variables)
        # Weights that are no numbers need not show in the loss: relu turns NaN into 0 on some
        # devices.
        squared = tf.add_n(
            [tf.reduce_sum(tf.square(tf.cast(gradient, tf.float32))) for gradient in gradients]
        )
        # Whatever a picture weighs in the loss, it counts once in the accuracy.
        counted = tf.cast(weights > 0, tf.float32)
        correct = tf.reduce_sum(
            tf.cast(self.objective.predictions(logits) == labels, tf.float32) * counted
        )
        return tf.stack([loss, correct, tf.reduce_sum(counted), squared])


def inference(
    model: keras.Model, dtype: tf.DType = tf.uint8
) -> Callable[[Iterable[tuple[Any, Any]]], np.ndarray]:
    """Makes what gives a model's logits of every example once, in order, on one device.

    Args:
        model: pixels or features to logits.
        dtype: of the batches.

    Returns:
        A function from batches of (examples, labels) to float32 [n, units].
    """
    # A signature of its own: batches of any size share one graph.
    infer = tf.function(
        lambda examples: model(tf.cast(examples, tf.float32), training=False),
        input_signature=[tf.TensorSpec(model.input_shape, dtype)],
    )

    def answers(batches: tf.data.Dataset) -> np.ndarray:
        bar = progress(batches, desc="answers", unit=" batches", delay=LONG_S)
        return np.concatenate([infer(examples).numpy() for examples, _ in bar])

    return answers
