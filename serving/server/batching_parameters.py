"""How requests are merged: the values of a text BatchingParameters, for all models or for one
version.
"""

import os
from dataclasses import dataclass, field

from serving.config import batching
from serving.config.text_file import ConfigError
from serving.server.status import invalid_argument


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
    num_batch_threads: int = field(default_factory=lambda: os.cpu_count() or 1)
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
