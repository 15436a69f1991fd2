"""Answers together the requests that wait while a model works, where its rows are independent.

Without a timer, and without a thread of its own: a request that finds the model idle runs at once;
whoever ends a run hands the model to the first that waits, which takes as many others along as fit.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import grpc
import numpy as np

from serving.server.batching import Execute, Tensors, joined, rows_of
from serving.server.status import StatusError

# Rows of a run. TensorFlow prepares anew for each number of rows that it has not seen, so there are
# few of them; beyond 32 a picture gets no cheaper and memory grows (9 GB for 1,000 rows of
# MobileNetV2 at 160 pixels in one run, measured).
SIZES = (1, 2, 4, 8, 16, 32)
MOST_ROWS = SIZES[-1]


def in_pieces(
    inputs: Tensors, answer: Callable[[Tensors, int], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Answers a request `MOST_ROWS` rows at a time.

    Args:
        inputs: name to value; first dimensions equal.
        answer: from some of its rows, and how many they are, to theirs of the outputs.
    """
    rows = rows_of(inputs)
    answers = [
        answer(
            {name: value[start : start + MOST_ROWS] for name, value in inputs.items()},
            min(rows - start, MOST_ROWS),
        )
        for start in range(0, max(rows, 1), MOST_ROWS)
    ]
    return answers[0] if len(answers) == 1 else joined(answers)


_Outcome = dict[str, np.ndarray] | Exception


@dataclass(eq=False)
class _Task:
    inputs: Tensors
    rows: int
    deadline: float | None
    begin: Callable[[], None]
    turn: threading.Event = field(default_factory=threading.Event)
    # One of them is there once `turn` is set: what to run for itself and others, or the outcome.
    batch: "list[_Task] | None" = None
    outcome: "_Outcome | None" = None


class Merger:
    """Runs of one loaded version; used by many threads at once."""

    def __init__(self, runs: int) -> None:
        """Takes how many runs may go on at a time."""
        self._lock = threading.Lock()
        self._idle = runs
        # Taken from the front and put back at the end: every kind of request gets its turn.
        self._queues: dict[Hashable, deque[_Task]] = {}

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
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        shapes = tuple((name, value.shape[1:]) for name, value in sorted(inputs.items()))
        return in_pieces(
            inputs,
            lambda piece, rows: self._answer(
                (key, shapes), execute, _Task(piece, rows, deadline, begin)
            ),
        )

    def _answer(self, key: Hashable, execute: Execute, task: _Task) -> dict[str, np.ndarray]:
        with self._lock:
            if self._idle:
                self._idle -= 1
                task.batch = [task]
            else:
                self._queues.setdefault(key, deque()).append(task)
        if task.batch is None:
            self._wait(key, task)
        if task.batch is not None:
            try:
                outcomes = _outcomes(execute, task.batch)
            finally:
                self._hand_on()
            for other, outcome in zip(task.batch, outcomes, strict=True):
                other.outcome = outcome
                other.turn.set()
        if not isinstance(task.outcome, dict):
            raise task.outcome or RuntimeError("a run ended without an outcome")
        return task.outcome

    def _wait(self, key: Hashable, task: _Task) -> None:
        if task.turn.wait(None if task.deadline is None else task.deadline - time.monotonic()):
            return
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
        task.turn.wait()

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
        batch[0].batch = batch
        batch[0].turn.set()


def _outcomes(execute: Execute, batch: list[_Task]) -> list[_Outcome]:
    """Runs a batch; where that fails, each of its requests alone, as the fault may be one's."""
    for task in batch:
        task.begin()
    inputs = batch[0].inputs
    if len(batch) > 1:
        inputs = {name: np.concatenate([task.inputs[name] for task in batch]) for name in inputs}
    deadlines = [task.deadline for task in batch if task.deadline is not None]
    timeout_s = max(deadlines) - time.monotonic() if len(deadlines) == len(batch) else None
    try:
        answer = execute(inputs, timeout_s)
    except Exception as error:
        if len(batch) == 1:
            return [error]
        return [outcome for task in batch for outcome in _outcomes(execute, [task])]
    ends = np.cumsum([task.rows for task in batch])
    return [
        {name: value[end - task.rows : end] for name, value in answer.items()}
        for task, end in zip(batch, ends, strict=True)
    ]
