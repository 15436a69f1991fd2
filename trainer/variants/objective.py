"""The objective: what turns a model's logits into a loss, into probabilities and into an answer.

One logit and binary cross-entropy for two classes, K logits and categorical cross-entropy for more.
Everything that turns logits into something else is here, so that a sigmoid never meets a
from-logits loss.
"""

from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True)
class Objective:
    """Loss, probabilities and answer of a model's logits.

    Attributes:
        class_count: two or more.
        temperature: what logits are divided by before they become losses and probabilities; 1 while
            training. It makes answers more or less sure, and never changes them.
    """

    class_count: int
    temperature: float = 1.0

    @property
    def units(self) -> int:
        """Logits per picture."""
        return 1 if self.class_count == 2 else self.class_count

    def loss(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Cross-entropy of each picture.

        Args:
            labels: int32 [N], 0…K-1.
            logits: float [N, units].

        Returns:
            float32 [N], in nats; ln K for a model that knows nothing.
        """
        logits = self._scaled(logits)
        if self.units == 1:
            targets = tf.cast(labels, tf.float32)
            return tf.nn.sigmoid_cross_entropy_with_logits(targets, tf.squeeze(logits, 1))
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    def probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        """Class probabilities: float32 [N, K] from logits [N, units], in the order of the
        classes.
        """
        logits = self._scaled(logits)
        if self.units == 1:
            # sigmoid(-z) rather than 1 - sigmoid(z), which rounds small probabilities of class 0 to
            # zero.
            return tf.concat([tf.sigmoid(-logits), tf.sigmoid(logits)], axis=1)
        return tf.nn.softmax(logits)

    def predictions(self, logits: tf.Tensor) -> tf.Tensor:
        """Most probable class: int32 [N] from logits [N, units]; a tie of logits goes to the first
        class.
        """
        if self.units == 1:
            return tf.cast(tf.squeeze(logits, 1) > 0, tf.int32)
        return tf.argmax(logits, axis=1, output_type=tf.int32)

    def _scaled(self, logits: tf.Tensor) -> tf.Tensor:
        return tf.cast(logits, tf.float32) / self.temperature
