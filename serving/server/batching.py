"""Merges concurrent requests into one run of the model, with the semantics of TensorFlow Serving's
BatchingSession.

An own scheduler rather than TensorFlow's batch op: the op lives inside one graph, while queues here
are one per (version, inputs, outputs) under a thread pool that all models share, and a test can
count its runs.
"""

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import grpc
import numpy as np

from serving.config import ConfigError, batching
from serving.server.metrics import Metrics
from serving.server.status import StatusError, failed_precondition, invalid_argument, unavailable
from whisker_ml.machine import available_processors

# How requests are merged: the values of a text BatchingParameters, for all models or for one
# version.


@dataclass(frozen=True)
class Parameters:
    """BatchingParameters; defaults from TensorFlow's shared_batch_scheduler.h.

    Attributes:
        max_batch_size: most rows of a request, and of a run unless requests are split.
        batch_timeout_s: how long the first request of a batch waits for company.
        max_enqueued_batches: batches that may wait in one queue.
        num_batch_threads: runs at a time, of all models.
        allowed_batch_sizes: rows to pad a batch to, increasing; empty: any number of rows is run as
            it is.
        max_execution_batch_size: most rows of a run; a request with more is split. None: as
            max_batch_size.
        pad_variable_length_inputs: requests whose shapes differ are padded to the largest instead
            of refused.
        thread_pool_name: what metrics call the threads.
    """

    max_batch_size: int = 1000
    batch_timeout_s: float = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = field(default_factory=available_processors)
    allowed_batch_sizes: tuple[int, ...] = ()
    max_execution_batch_size: int | None = None
    pad_variable_length_inputs: bool = False
    thread_pool_name: str = "model_server_batch_threads"

    @property
    def most_rows(self) -> int:
        """Most rows of a run."""
        return self.max_execution_batch_size or self.max_batch_size


def read_parameters(path: str) -> Parameters:
    """Reads a text BatchingParameters; an empty path gives the defaults.

    Raises:
        StatusError: INVALID_ARGUMENT, the file cannot be read, or holds values that cannot work.
    """
    if not path:
        return Parameters()
    try:
        message = batching.read(path)
    except ConfigError as error:
        raise invalid_argument(str(error)) from error
    names = ("max_batch_size", "max_enqueued_batches", "num_batch_threads", "thread_pool_name")
    values = {name: getattr(message, name).value for name in names if message.HasField(name)}
    if message.enable_large_batch_splitting.value and message.HasField("max_execution_batch_size"):
        values["max_execution_batch_size"] = message.max_execution_batch_size.value
    return Parameters(
        **values,
        batch_timeout_s=message.batch_timeout_micros.value / 1e6,
        allowed_batch_sizes=tuple(message.allowed_batch_sizes),
        pad_variable_length_inputs=message.pad_variable_length_inputs,
    )


Tensors = Mapping[str, np.ndarray]
Execute = Callable[[Tensors, float | None], dict[str, np.ndarray]]


@dataclass(eq=False)
class Task:
    """A request, or a piece of one, that may share a run with others.

    Attributes:
        inputs: name to value.
        rows: their first dimension.
        deadline: on the monotonic clock; None: none.
        begin: called when the run begins.
        result: its rows of the answer.
        turn: for `Merger`: the tasks to run as a batch, its own among them; empty once another
            thread has run it.
    """

    inputs: Tensors
    rows: int
    deadline: float | None
    begin: Callable[[], None]
    result: "Future[dict[str, np.ndarray]]" = field(default_factory=Future)
    turn: "Future[list[Task]]" = field(default_factory=Future)


def pieces(
    inputs: Tensors,
    most_rows: int,
    timeout_s: float | None = None,
    begin: Callable[[], None] = lambda: None,
) -> list[Task]:
    """Cuts a request into tasks of at most so many rows; one without rows is a task too."""
    rows = rows_of(inputs)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    return [
        Task(
            {name: value[start : start + most_rows] for name, value in inputs.items()},
            min(rows - start, most_rows),
            deadline,
            begin,
        )
        for start in range(0, max(rows, 1), most_rows)
    ]


def joined(answers: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Puts the answers to the pieces of a request together."""
    if len(answers) == 1:
        return answers[0]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def seconds_left(tasks: list[Task]) -> float | None:
    """Says how long a run of tasks may take: as the most patient of them allows."""
    deadlines = [task.deadline for task in tasks if task.deadline is not None]
    return max(deadlines) - time.monotonic() if len(deadlines) == len(tasks) else None


def run_together(
    tasks: list[Task], inputs: Tensors, execute: Execute, timeout_s: float | None
) -> list[dict[str, np.ndarray]]:
    """Runs tasks once, on their merged inputs, and gives each its rows of the answer."""
    for task in tasks:
        task.begin()
    outputs = execute(inputs, timeout_s)
    _check_outputs(outputs, rows_of(inputs))
    ends = np.cumsum([task.rows for task in tasks])
    return [
        {name: value[end - task.rows : end] for name, value in outputs.items()}
        for task, end in zip(tasks, ends, strict=True)
    ]


@dataclass
class _Batch:
    parameters: Parameters
    execute: Execute
    opened: float
    tasks: list[Task] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(task.rows for task in self.tasks)


class Scheduler:
    """Queues requests and runs them in batches. Its lock guards the queues alone and is free while
    a batch runs.
    """

    def __init__(self, parameters: Parameters, metrics: Metrics | None = None) -> None:
        """Starts the batch threads.

        Args:
            parameters: threads, and whatever the requests themselves do not say.
            metrics: where runs are counted; None for nowhere else to look.
        """
        self._parameters = parameters
        self._metrics = metrics or Metrics()
        self._changed = threading.Condition()
        # Taken from the front and put back at the end: every queue gets its turn.
        self._queues: dict[Hashable, list[_Batch]] = {}
        self._draining = False
        for number in range(parameters.num_batch_threads):
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True).start()

    def run(
        self,
        key: Hashable,
        execute: Execute,
        inputs: Tensors,
        timeout_s: float | None,
        parameters: Parameters | None = None,
        *,
        begin: Callable[[], None] = lambda: None,
    ) -> dict[str, np.ndarray]:
        """Runs one request, together with others of the same key that come in time.

        Args:
            key: requests with equal keys may share a run: same version, same inputs, same outputs.
            execute: runs merged inputs, within a number of seconds if it is not None; every output
                has a row per input row.
            inputs: name to value; first dimensions equal.
            timeout_s: None for no limit.
            parameters: of this key, but for the threads; None for those of all.
            begin: called when a run with this request, or with a piece of it, begins.

        Returns:
            This request's rows of what `execute` answers.

        Raises:
            StatusError: the request cannot be batched, the queue is full, or the run of its batch
                failed.
        """
        parameters = parameters or self._parameters
        rows = rows_of(inputs)
        limit = parameters.max_batch_size
        if rows > limit:
            raise invalid_argument(
                f"Task size {rows} is larger than maximum input batch size {limit}"
            )
        if rows == 0:
            begin()
            return execute(
                inputs, timeout_s
            )  # Adds nothing to a batch, and cannot be repeated as padding.
        tasks = pieces(inputs, parameters.most_rows, timeout_s, begin)
        with self._changed:
            self._enqueue(key, tasks, execute, parameters)
            self._changed.notify(len(tasks))
        return joined([task.result.result() for task in tasks])

    def drain(self) -> None:
        """From now on no batch waits for company."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def _enqueue(
        self, key: Hashable, tasks: list[Task], execute: Execute, parameters: Parameters
    ) -> None:
        queue = list(self._queues.get(key, ()))
        last_rows = queue[-1].rows if queue else parameters.most_rows
        fresh = []
        for task in tasks:
            if last_rows + task.rows > parameters.most_rows:
                fresh.append(_Batch(parameters, execute, time.monotonic()))
                last_rows = 0
            last_rows += task.rows
            (fresh or queue)[-1].tasks.append(task)
        most = parameters.max_enqueued_batches
        if len(queue) + len(fresh) > most and fresh:
            raise unavailable(
                "The batch scheduling queue to which this task was submitted is full; "
                f"currently {len(queue)} batches enqueued and max_enqueued_batches is {most}"
            )
        self._queues[key] = queue + fresh

    def _work(self) -> None:
        while True:
            # Without a name here: the next batch may be long in coming, and this one holds a model
            # and its answers.
            self._answer(self._next_batch())

    def _answer(self, batch: _Batch) -> None:
        try:
            answers = self._process(batch)
        except Exception as error:
            # Handed to every requester: StatusErrors as they are, defects to be logged with their
            # trace there.
            for task in batch.tasks:
                task.result.set_exception(error)
        else:
            for task, answer in zip(batch.tasks, answers, strict=True):
                task.result.set_result(answer)

    def _next_batch(self) -> _Batch:
        with self._changed:
            while True:
                now = time.monotonic()
                soonest: float | None = None
                for key, queue in self._queues.items():
                    parameters = queue[0].parameters
                    wait = queue[0].opened + parameters.batch_timeout_s - now
                    full = len(queue) > 1 or queue[0].rows >= parameters.most_rows
                    if full or wait <= 0 or self._draining:
                        del self._queues[key]
                        if len(queue) > 1:
                            self._queues[key] = queue[1:]
                        return queue[0]
                    soonest = wait if soonest is None else min(soonest, wait)
                self._changed.wait(soonest)

    def _process(self, batch: _Batch) -> list[dict[str, np.ndarray]]:
        self._metrics.observe(
            "batching_session/queuing_latency",
            time.monotonic() - batch.opened,
            self._parameters.thread_pool_name,
        )
        timeout_s = seconds_left(batch.tasks)
        if timeout_s is not None and timeout_s <= 0:
            raise StatusError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "Run() timeout exceeded while waiting in batching queue",
            )
        sizes = batch.parameters.allowed_batch_sizes or (batch.rows,)
        rows = min(size for size in sizes if size >= batch.rows)
        merged = _merge(batch.tasks, rows - batch.rows, batch.parameters.pad_variable_length_inputs)
        self._metrics.count("batching_session/wrapped_run_count")
        return run_together(batch.tasks, merged, batch.execute, timeout_s)


def rows_of(inputs: Tensors) -> int:
    """Gives the first dimension of a request's inputs.

    Raises:
        StatusError: INVALID_ARGUMENT, they have none, or different ones.
    """
    if any(value.ndim == 0 for value in inputs.values()):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    sizes = {value.shape[0] for value in inputs.values()}
    if len(sizes) > 1:
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop() if sizes else 0


def _merge(tasks: list[Task], padding: int, pad_shapes: bool) -> dict[str, np.ndarray]:
    """Concatenates; padding repeats the first row of the last task, so that it is something the
    model accepts.
    """
    merged = {}
    for name in tasks[0].inputs:
        values = [task.inputs[name] for task in tasks]
        if len({value.shape[1:] for value in values}) > 1:
            if not pad_shapes:
                raise failed_precondition(
                    f"Tensors with name '{name}' from different tasks have different shapes and"
                    " padding is turned off. Set pad_variable_length_inputs to true, or ensure"
                    " that all tensors with the same name have equal dimensions starting with the"
                    " first dim."
                )
            values = _padded(values, name)
        merged[name] = np.concatenate([*values, *[values[-1][:1]] * padding])
    return merged


def _padded(values: list[np.ndarray], name: str) -> list[np.ndarray]:
    """Pads behind, in every dimension but the first, to the largest shape, with each tensor's own
    first element.
    """
    ranks = {value.ndim for value in values}
    if len(ranks) > 1:
        raise invalid_argument(
            f"Tensors with name '{name}' from different tasks have different ranks: {sorted(ranks)}"
        )
    if max(ranks) > 6:
        raise invalid_argument("Only tensors with rank from 1 to 6 can be padded.")
    if any(value.size == 0 for value in values):
        raise invalid_argument("Got empty tensor in batch of non-empty tensors.")
    shape = np.max([value.shape for value in values], axis=0)
    padded = []
    for value in values:
        # numpy.pad turns bytes objects into arrays of characters.
        larger = np.full((value.shape[0], *shape[1:]), value.flat[0], dtype=value.dtype)
        larger[tuple(slice(size) for size in value.shape)] = value
        padded.append(larger)
    return padded


def _check_outputs(outputs: Tensors, rows: int) -> None:
    for value in outputs.values():
        if value.ndim == 0:
            raise failed_precondition("Batched output tensor has 0 dimensions")
        if value.shape[0] != rows:
            raise failed_precondition(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension"
                " sizes of the input tensors"
            )
