"""Models in a bucket: TensorFlow is given a local copy, made and checked by the client of the
store.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from serving.server.status import StatusError
from whisker_ml.errors import MissingExtra, StorageError
from whisker_ml.files import is_address

__all__ = ["children", "fetch", "is_address", "read"]


def children(address: str) -> list[str]:
    """Lists the first segments of the names below an address.

    Raises:
        StatusError: NOT_FOUND where there is nothing, as buckets have no empty folders;
            UNAVAILABLE.
    """
    with _statuses():
        from whisker_ml import storage

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
        with _statuses():
            from whisker_ml import storage

            storage.download_folder(address, Path(folder))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def read(address: str) -> str:
    """Reads one object as text.

    Raises:
        StatusError: NOT_FOUND, UNAVAILABLE.
    """
    with _statuses():
        from whisker_ml import storage

        content, generation = storage.read(address)
    if not generation:
        raise StatusError(grpc.StatusCode.NOT_FOUND, f"{address}: nothing is there")
    return content.decode("utf-8")


@contextmanager
def _statuses() -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise StatusError(grpc.StatusCode.UNAVAILABLE, str(error)) from error
    except ModuleNotFoundError as error:
        missing = MissingExtra(error.name or "google.cloud.storage", "store")
        raise StatusError(grpc.StatusCode.UNAVAILABLE, str(missing)) from error
