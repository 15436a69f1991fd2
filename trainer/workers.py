"""What the workers of a run agree on between two calls, and what happens where one is lost.

Everything rests on one sum over all workers: each writes its numbers into a row that is its own. A
process alone sums nothing.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from trainer.cluster import ALONE, Cluster
from trainer.errors import WorkersError

# How TensorFlow says that a worker is gone: no more heartbeats, a broken connection, or a sum that
# took too long.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


@dataclass(frozen=True)
class Part:
    """Which part of every batch one of several workers trains on: that of its replicas.

    Attributes:
        first: number of its first replica.
        end: number after its last.
        replicas: of all workers; the batch size is a multiple of it.
    """

    first: int
    end: int
    replicas: int


class Workers:
    """The processes that train together under one strategy.

    Args:
        strategy: of this process; MultiWorkerMirroredStrategy where there are several.
        cluster: who they are.
    """

    def __init__(self, strategy: tf.distribute.Strategy, cluster: Cluster = ALONE) -> None:
        self._strategy = strategy
        self._cluster = cluster
        self._replicas = strategy.num_replicas_in_sync // self._cluster.count
        self._function = tf.function(self._add_up)

    @property
    def is_chief(self) -> bool:
        """Tells whether this process judges and writes."""
        return self._cluster.is_chief

    @property
    def parts(self) -> int:
        """How many elements of a data set make one step: one of several workers feeds its replicas
        one by one.
        """
        return self._replicas if self._cluster.count > 1 else 1

    @property
    def part(self) -> Part | None:
        """Which part of every batch is this worker's; None: all of it."""
        if self._cluster.count == 1:
            return None
        first = self._cluster.index * self._replicas
        return Part(first, first + self._replicas, self._strategy.num_replicas_in_sync)

    def distribute(self, batches: tf.data.Dataset) -> "tf.distribute.DistributedDataset":
        """Spreads batches over the replicas of this process."""
        if self._cluster.count == 1:
            return self._strategy.experimental_distribute_dataset(batches)
        return self._strategy.distribute_datasets_from_function(lambda _: batches)

    def gather(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Shows everybody everybody's numbers: float64 [workers, n]. All workers must call it."""
        if self._cluster.count == 1:
            return np.array([values], np.float64)
        table = np.zeros((self._cluster.count, len(values)))
        table[self._cluster.index] = values
        return self._sum(tf.constant(table)).numpy()

    def chiefs(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Shows everybody the chief's numbers, as many as one's own: float64 [n]. All workers must
        call it.
        """
        return self.gather(values)[0]

    def chiefs_text(self, text: str) -> str:
        """Gives everybody the chief's text. All workers must call it."""
        encoded = np.frombuffer(text.encode(), np.uint8)
        length = int(self.chiefs([len(encoded)])[0])
        return self.chiefs(np.resize(encoded, length)).astype(np.uint8).tobytes().decode()

    def require_same(self, what: str, digest: str) -> None:
        """Makes sure that all workers have the same.

        Args:
            what: names it.
            digest: of it, in hexadecimal.

        Raises:
            WorkersError: the chief's differs.
        """
        if digest != (chiefs := self.chiefs_text(digest)):
            raise WorkersError(
                f"worker {self._cluster.index} ({self._cluster.workers[self._cluster.index]}):"
                f" {what} differ from the chief's ({digest[:12]}, there {chiefs[:12]}); give every"
                " worker the same"
            )

    def take_from_chief(self, variables: Sequence[keras.Variable]) -> None:
        """Gives variables the chief's values everywhere, bit by bit. All workers must call it."""
        if self._cluster.count == 1:
            return
        for variable in variables:
            value = variable.value
            # Sums are made of few types; random streams have one that is not among them.
            wide = value.dtype if value.dtype.is_floating else tf.int64
            cast = tf.cast(value, wide)
            value.assign(
                tf.cast(self._sum(cast if self.is_chief else tf.zeros_like(cast)), value.dtype)
            )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Inside, the loss of another worker is one clear error.

        Raises:
            WorkersError: another worker is gone, or keeps the others waiting.
        """
        try:
            yield
        except _LOST as error:
            if self._cluster.count == 1:
                raise
            raise WorkersError(
                f"{self._lost(error.message)}; its own log says why; give the same command again"
                " everywhere to resume from the last checkpoint"
            ) from error

    def _lost(self, message: str) -> str:
        if "timed out" in message:
            return f"another worker has kept this one waiting for {self._cluster.stall_s:g} s"
        lost = {int(number) for number in re.findall(r"task:(\d+)", message)} - {
            self._cluster.index
        }
        names = [f"{index} ({self._cluster.workers[index]})" for index in sorted(lost)]
        return (
            f"worker {' or '.join(names) or 'beside this one'} has ended, or cannot be reached any"
            " more"
        )

    def _sum(self, values: tf.Tensor) -> tf.Tensor:
        # By shape, each traced once: a collective operation is tied to the shape that it began
        # with.
        return self._function.get_concrete_function(values)(values)

    def _add_up(self, values: tf.Tensor) -> tf.Tensor:
        """Sum over all workers, whatever their number of replicas."""

        def add() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            # One replica speaks for its worker.
            speaks = context.replica_id_in_sync_group % self._replicas == 0
            return context.all_reduce(
                tf.distribute.ReduceOp.SUM, tf.where(speaks, values, tf.zeros_like(values))
            )

        return self._strategy.experimental_local_results(self._strategy.run(add))[0]
