"""The file of --batching_parameters_file: how TensorFlow Serving merges concurrent requests into
one run.

``batching.write("batching.config", batching.make(max_batch_size=32, batch_timeout_micros=2000))``
writes one.
"""

from collections.abc import Sequence
from pathlib import Path

from serving.config import text_file
from serving.config.text_file import ConfigError, Message
from serving.protos import message

KIND = "BatchingParameters"

# TensorFlow, tensorflow/core/kernels/batching_util/shared_batch_scheduler.h:
# input_batch_size_limit.
_DEFAULT_MAX_BATCH_SIZE = 1000
_POSITIVE = (
    "max_batch_size",
    "max_enqueued_batches",
    "num_batch_threads",
    "max_execution_batch_size",
)

write = text_file.write


def make(**fields: bool | int | str | Sequence[int]) -> Message:
    """Makes a tensorflow.serving.BatchingParameters.

    Args:
        **fields: the message's own, with plain values; what is left out takes TensorFlow Serving's
        default.

    Raises:
        ConfigError: a field is unknown, of another type, or makes what `check` refuses.
    """
    parameters = message(f"tensorflow.serving.{KIND}")()
    known = parameters.DESCRIPTOR.fields_by_name
    for name, value in fields.items():
        if name not in known:
            raise ConfigError(f"{KIND} has no field {name}: expected one of {', '.join(known)}")
        try:
            if known[name].message_type:
                getattr(parameters, name).value = value
            elif isinstance(value, bool):
                setattr(parameters, name, value)
            else:
                getattr(parameters, name).extend(value)
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{name} of {KIND} cannot be {value!r}: {error}") from error
    check(parameters, KIND)
    return parameters


def read(path: str | Path) -> Message:
    """Reads and checks a file.

    Raises:
        ConfigError: it cannot be read, is no text BatchingParameters, or is refused by `check`.
    """
    parameters = text_file.read(path, KIND)
    check(parameters, str(path))
    return parameters


def check(parameters: Message, source: str) -> None:
    """Refuses values with which no model can be loaded.

    Args:
        parameters: a tensorflow.serving.BatchingParameters, of whatever pool.
        source: where it comes from, for the error.

    Raises:
        ConfigError: with TensorFlow Serving's own words where it has some (bundle_factory_util.cc
            and batching_session.cc).
    """
    for name in _POSITIVE:
        if parameters.HasField(name) and getattr(parameters, name).value < 1:
            raise ConfigError(
                f"{source}: {name} must be positive; was {getattr(parameters, name).value}"
            )
    if parameters.batch_timeout_micros.value < 0:
        raise ConfigError(
            f"{source}: batch_timeout_micros must not be negative; was"
            f" {parameters.batch_timeout_micros.value}"
        )
    _check_sizes(parameters, source)


def _check_sizes(parameters: Message, source: str) -> None:
    largest = parameters.max_batch_size.value or _DEFAULT_MAX_BATCH_SIZE
    name = "max_batch_size"
    if parameters.enable_large_batch_splitting.value:
        name = "max_execution_batch_size"
        execution = parameters.max_execution_batch_size.value or largest
        if execution > largest:
            raise ConfigError(
                f"{source}: max_execution_batch_size must not be above max_batch_size; was"
                f" {execution}; expected at most {largest}"
            )
        largest = execution
    sizes = list(parameters.allowed_batch_sizes)
    if not sizes:
        return
    if sizes != sorted(set(sizes)) or sizes[0] < 1:
        raise ConfigError(
            f"{source}: allowed_batch_sizes entries must be positive and increasing; they were"
            f" {sizes}: sort them"
        )
    if sizes[-1] != largest:
        raise ConfigError(
            f"{source}: Last entry in allowed_batch_sizes must match {name}; last entry was"
            f" {sizes[-1]}; expected {largest}: append it, or change {name}"
        )
