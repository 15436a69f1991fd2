"""Answers together the requests that wait while a model works, where its rows are independent.

Without a timer, and without a thread of its own: a request that finds the model idle runs at once;
whoever ends a run hands the model to the first that waits, which takes as many others along as fit.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable

import grpc
import numpy as np

from serving.server.batching import (
    Execute,
    Task,
    Tensors,
    joined,
    pieces,
    run_together,
    seconds_left,
)
from serving.server.status import StatusError

# Rows of a run. TensorFlow prepares anew for each number of rows that it has not seen, so there are
# few of them; beyond 32 a picture gets no cheaper and memory grows (9 GB for 1,000 rows of
# MobileNetV2 at 160 pixels in one run, measured).
SIZES = (1, 2, 4, 8, 16, 32)
MOST_ROWS = SIZES[-1]


class Merger:
    """Runs of one loaded version; used by many threads at once."""

    def __init__(self, runs: int) -> None:
        """Takes how many runs may go on at a time."""
        self._lock = threading.Lock()
        self._idle = runs
        # Taken from the front and put back at the end: every kind of request gets its turn.
        self._queues: dict[Hashable, deque[Task]] = {}

    def run(
        self,
        key: Hashable,
        execute: Execute,
        inputs: Tensors,
        timeout_s: float | None,
        *,
        begin: Callable[[], None] = lambda: None,
    ) -> dict[str, np.ndarray]:
        """Runs one request, together with others that wait.

        Args:
            key: requests with equal keys may share a run, if their shapes agree: same outputs.
            execute: runs inputs of at most `MOST_ROWS` rows, within a number of seconds if it is
                not None; every output has a row for each row of the inputs.
            inputs: name to value; first dimensions equal.
            timeout_s: None for no limit.
            begin: called when a run with this request, or with a piece of it, begins.

        Returns:
            This request's rows of what `execute` answers.

        Raises:
            StatusError: its own run failed; what others ask for makes no difference to it.
        """
        shapes = tuple((name, value.shape[1:]) for name, value in sorted(inputs.items()))
        tasks = pieces(inputs, MOST_ROWS, timeout_s, begin)
        return joined([self._answer((key, shapes), execute, task) for task in tasks])

    def _answer(self, key: Hashable, execute: Execute, task: Task) -> dict[str, np.ndarray]:
        with self._lock:
            if self._idle:
                self._idle -= 1
                task.turn.set_result([task])
            else:
                self._queues.setdefault(key, deque()).append(task)
        if batch := self._wait(key, task):
            try:
                _run(execute, batch)
            finally:
                self._hand_on()
            for other in batch[1:]:
                other.turn.set_result([])
        return task.result.result()

    def _wait(self, key: Hashable, task: Task) -> list[Task]:
        try:
            return task.turn.result(
                None if task.deadline is None else task.deadline - time.monotonic()
            )
        except TimeoutError:
            pass
        with self._lock:
            queue = self._queues.get(key)
            if queue is not None and task in queue:
                queue.remove(task)
                if not queue:
                    del self._queues[key]
                raise StatusError(
                    grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded before the request ran"
                )
        # It is being run, or about to be.
        return task.turn.result()

    def _hand_on(self) -> None:
        """Gives the model to the first that waits and to those that fit into its run."""
        with self._lock:
            if not self._queues:
                self._idle += 1
                return
            key = next(iter(self._queues))
            queue = self._queues.pop(key)
            waiting = min(sum(task.rows for task in queue), MOST_ROWS)
            most = max(size for size in SIZES if size <= max(waiting, 1))
            batch = [queue.popleft()]
            rows = batch[0].rows
            while queue and rows + queue[0].rows <= most:
                rows += queue[0].rows
                batch.append(queue.popleft())
            if queue:
                self._queues[key] = queue
        batch[0].turn.set_result(batch)


def _run(execute: Execute, batch: list[Task]) -> None:
    """Runs a batch; where that fails, each of its requests alone, as the fault may be one's."""
    inputs = batch[0].inputs
    if len(batch) > 1:
        inputs = {name: np.concatenate([task.inputs[name] for task in batch]) for name in inputs}
    try:
        answers = run_together(batch, inputs, execute, seconds_left(batch))
    except Exception as error:
        if len(batch) == 1:
            batch[0].result.set_exception(error)
        else:
            for task in batch:
                _run(execute, [task])
        return
    for task, answer in zip(batch, answers, strict=True):
        task.result.set_result(answer)
