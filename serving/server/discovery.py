"""Which versions there are: base paths scanned, here and in a bucket."""

import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import grpc
import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow_serving.config.model_server_config_pb2 import (
    ModelConfig,
    ModelServerConfig,
    ModelType,
)

from serving.server.status import StatusError, invalid_argument
from whisker_ml.errors import MissingExtra, StorageError
from whisker_ml.files import is_address

# Models in a bucket: TensorFlow is given a local copy, made and checked by the client of the
# store.


def children_in_bucket(address: str) -> list[str]:
    """Lists the first segments of the names below an address.

    Raises:
        StatusError: NOT_FOUND where there is nothing, as buckets have no empty folders;
            UNAVAILABLE.
    """
    with _storage() as storage:
        names = {name.partition("/")[0] for name in storage.list_names(address)}
    if not names:
        raise StatusError(
            grpc.StatusCode.NOT_FOUND, f"Could not find base path {address}: nothing is there"
        )
    return sorted(names)


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


def read_from_bucket(address: str) -> str:
    """Reads one object as text.

    Raises:
        StatusError: NOT_FOUND, UNAVAILABLE.
    """
    with _storage() as storage:
        content, generation = storage.read(address)
    if not generation:
        raise StatusError(grpc.StatusCode.NOT_FOUND, f"{address}: nothing is there")
    return content.decode("utf-8")


@contextmanager
def _storage() -> Iterator[ModuleType]:
    """Gives the client of the store; what it raises becomes a status."""
    try:
        from whisker_ml import storage

        yield storage
    except StorageError as error:
        raise StatusError(grpc.StatusCode.UNAVAILABLE, str(error)) from error
    except ModuleNotFoundError as error:
        missing = MissingExtra(error.name or "google.cloud.storage", "store")
        raise StatusError(grpc.StatusCode.UNAVAILABLE, str(missing)) from error


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
        text = (
            read_from_bucket(path) if is_address(path) else Path(path).read_text(encoding="utf-8")
        )
        text_format.Parse(text, message)
    except OSError as error:
        raise StatusError(grpc.StatusCode.NOT_FOUND, f"{path}: {error.strerror}") from error
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
        children = (
            children_in_bucket(base_path)
            if is_address(base_path)
            else tf.io.gfile.listdir(base_path)
        )
    except UnicodeDecodeError:
        # TensorFlow cannot give a name that is no UTF-8.
        children = [entry.name for entry in Path(base_path).iterdir()]
    except tf.errors.OpError as error:
        raise StatusError(
            grpc.StatusCode.NOT_FOUND, f"Could not find base path {base_path}: {error.message}"
        ) from error
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
