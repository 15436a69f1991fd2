"""Which versions there are: base paths scanned, here and in a bucket; the state of each, and which
one is loaded or unloaded next.
"""

import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import ModuleType

import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow_serving.config.model_server_config_pb2 import (
    ModelConfig,
    ModelServerConfig,
    ModelType,
)

from serving.server.servable import Servable
from serving.server.status import StatusError, invalid_argument, not_found, unavailable
from whisker_ml.errors import MissingExtra, StorageError
from whisker_ml.files import is_address

# Models in a bucket: TensorFlow is given a local copy, made and checked by the client of the
# store.


def fetch(address: str) -> str:
    """Copies what is below an address into a temporary folder, which is the caller's to remove.

    Raises:
        StatusError: UNAVAILABLE.
    """
    folder = tempfile.mkdtemp(prefix="whisker-model-")
    try:
        with _storage() as storage:
            storage.download_folder(address, Path(folder))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


@contextmanager
def _storage() -> Iterator[ModuleType]:
    """Gives the client of the store; what it raises becomes a status."""
    try:
        from whisker_ml import storage

        yield storage
    except StorageError as error:
        raise unavailable(str(error)) from error
    except ModuleNotFoundError as error:
        missing = MissingExtra(error.name or "google.cloud.storage", "store")
        raise unavailable(str(missing)) from error


# What should be served: the configuration, checked, and the versions that a base path offers.

_PLATFORM = "tensorflow"
_MAX_VERSION = 2**63 - 1

_log = logging.getLogger(__name__)


def read_text_proto(path: str, message: Message) -> None:
    """Fills a message from a file in protobuf's text format.

    Raises:
        StatusError: the file cannot be read or does not hold such a message; the place of the
            mistake is logged.
    """
    try:
        if is_address(path):
            with _storage() as storage:
                content, generation = storage.read(path)
            if not generation:
                raise not_found(f"{path}: nothing is there")
        else:
            content = Path(path).read_bytes()
        text_format.Parse(content.decode("utf-8"), message)
    except OSError as error:
        raise not_found(f"{path}: {error.strerror}") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        _log.error("Error parsing text-format %s: %s", message.DESCRIPTOR.full_name, error)
        raise invalid_argument(f"Invalid protobuf file: '{path}'") from error


def read_config(path: str) -> ModelServerConfig:
    """Reads a text ModelServerConfig; raises as `read_text_proto` does."""
    config = ModelServerConfig()
    read_text_proto(path, config)
    return config


def single_model(name: str, base_path: str) -> ModelServerConfig:
    """Makes the configuration that --model_name and --model_base_path stand for."""
    config = ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform=_PLATFORM)
    return config


def check(config: ModelServerConfig) -> None:
    """Refuses what the real server refuses.

    Raises:
        StatusError: INVALID_ARGUMENT with its text.
    """
    if config.HasField("custom_model_config"):
        raise invalid_argument(
            "custom_model_config is not supported: list the models in model_config_list"
        )
    names: set[str] = set()
    for model in config.model_config_list.config:
        if model.name in names:
            raise invalid_argument(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        names.add(model.name)
        _check_platform(model)
        if not (model.base_path.startswith("/") or "://" in model.base_path):
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; got"
                f" base_path()={model.base_path}"
            )


def _check_platform(model: ModelConfig) -> None:
    platform = model.model_platform
    if model.model_type != ModelType.MODEL_TYPE_UNSPECIFIED:
        if platform:
            raise invalid_argument(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and "
                f"ModelServerConfig::model_platform, model name is {model.name}"
            )
        platform = _PLATFORM if model.model_type == ModelType.TENSORFLOW else "other"
    if not platform:
        raise invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if platform != _PLATFORM:
        raise invalid_argument(f"Model {model.name} requests unsupported platform {platform}")


def scan(base_path: str) -> dict[int, str]:
    """Lists the versions: children whose whole name is a number; leading zeros are fine, files
    count too.

    Args:
        base_path: a folder, in a bucket (gs://), or wherever else TensorFlow's file systems reach.

    Returns:
        Number to path. Of two names with the same number the one sorted last stays.

    Raises:
        StatusError: NOT_FOUND, the folder cannot be listed.
    """
    try:
        if is_address(base_path):
            with _storage() as storage:
                names = storage.list_names(base_path)
                children = list({name.partition("/")[0] for name in names})
        else:
            children = tf.io.gfile.listdir(base_path)
    except UnicodeDecodeError:
        # TensorFlow cannot give a name that is no UTF-8.
        children = [entry.name for entry in Path(base_path).iterdir()]
    except tf.errors.OpError as error:
        raise not_found(f"Could not find base path {base_path}: {error.message}") from error
    if not children and is_address(base_path):
        # Buckets have no empty folders.
        raise not_found(f"Could not find base path {base_path}: nothing is there")
    versions: dict[int, str] = {}
    # Buckets list folders with a slash behind.
    for name in sorted(child.rstrip("/") for child in children):
        if not re.fullmatch("[0-9]+", name) or int(name) > _MAX_VERSION:
            continue
        if int(name) in versions:
            _log.warning(
                "%s: %s and %s are the same version; taking %s",
                base_path,
                versions[int(name)],
                name,
                name,
            )
        versions[int(name)] = f"{base_path.rstrip('/')}/{name}"
    return versions


def aspired(model: ModelConfig, versions: Mapping[int, str]) -> dict[int, str]:
    """Chooses the versions that the policy of a model asks for: the latest one, if it says nothing.

    Args:
        model: its configuration, with the policy.
        versions: number to path, from `scan`.
    """
    policy = model.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return dict(versions)
    if choice == "specific":
        return {
            number: versions[number] for number in policy.specific.versions if number in versions
        }
    newest = sorted(versions, reverse=True)[: policy.latest.num_versions or 1]
    return {number: versions[number] for number in newest}


# A version of a model on its way from start to end, and which one moves next.


class State(IntEnum):
    """States of a version; the numbers are ModelVersionStatus.State's."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass
class Version:
    """What the manager knows of a version.

    Attributes:
        model: name of the model.
        number: of the version.
        path: its folder.
        state: see there.
        aspired: whether it should be loaded.
        error: why the last attempt to load it failed.
        servable: the loaded model, from AVAILABLE until it is closed.
        handles: requests that hold `servable`.
        attempts: loads so far.
        retry_at: no attempt before this time of the manager's clock, in seconds.
    """

    model: str
    number: int
    path: str
    state: State = State.START
    aspired: bool = True
    error: StatusError | None = None
    servable: Servable | None = None
    handles: int = 0
    attempts: int = 0
    retry_at: float = 0

    def __str__(self) -> str:
        return f"{{name: {self.model} version: {self.number}}}"


def aspire(
    known: dict[int, Version],
    model: str,
    chosen: Mapping[int, str],
    retry_before: float = float("-inf"),
) -> None:
    """Notes which versions of a model should be loaded from now on.

    Args:
        known: number to version, those unloaded included; new ones are put into it.
        model: its name.
        chosen: number to path.
        retry_before: versions that have failed for good, and whose `retry_at` is before this time,
            begin anew.
    """
    for version in known.values():
        leaving = not version.aspired and version.state >= State.UNLOADING
        version.aspired = version.number in chosen and not leaving
    for number, path in chosen.items():
        # A version that comes back after it was gone is loaded afresh; one that failed and stayed
        # is not by itself.
        ended = number in known and known[number].state == State.END
        if number not in known or (
            ended and (not known[number].aspired or known[number].retry_at < retry_before)
        ):
            known[number] = Version(model, number, path)


def next_action(versions: list[Version], now: float) -> Version | None:
    """Chooses what to unload (not aspired) or load (aspired) next, so that the model stays
    available.

    AvailabilityPreservingPolicy: a version that nobody wants any more goes only when a wanted one
    answers, when none is wanted at all, or when another unwanted one still answers.
    """
    stale = [
        version for version in versions if not version.aspired and version.state == State.AVAILABLE
    ]
    wanted = [version for version in versions if version.aspired]
    if stale and (
        not wanted or len(stale) > 1 or any(version.state == State.AVAILABLE for version in wanted)
    ):
        return min(stale, key=lambda version: version.number)
    due = [
        one for one in wanted if one.state in (State.START, State.LOADING) and now >= one.retry_at
    ]
    return max(due, key=lambda version: version.number, default=None)
