"""Fixtures that several packages' tests share. Importing them imports no TensorFlow."""

import gc
import signal
import socket
import uuid
from collections.abc import Iterator

import pytest
from google.cloud import storage

pytest_plugins = ["tests.trained_model", "tests.gateway"]

# Of any read from a socket that sets no limit of its own.
SOCKET_TIMEOUT_S = 60.0
# Of a test marked `long`; the others have that of pyproject.toml.
LONG_TIMEOUT_S = 3600


def pytest_configure() -> None:
    """Makes tests behave alike wherever they are started.

    A program that is started in the background ignores SIGINT, and so would all that it starts.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    socket.setdefaulttimeout(SOCKET_TIMEOUT_S)
    # What is imported stays; a search for garbage among it takes long.
    gc.disable()


def pytest_collection_finish() -> None:
    """Has Python collect garbage again, but not look at what tests and libraries consist of."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives tests that are marked `long` the time that they need."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT_S))


@pytest.fixture(scope="session")
def gcs_emulator() -> Iterator[str]:
    """A real fake-gcs-server on loopback, with its data in memory; gives its URL."""
    # A second: not for tests that need no bucket.
    from trainer.cloud.rehearsal import storage_emulator

    with storage_emulator() as url:
        yield url


@pytest.fixture
def bucket(gcs_emulator: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an empty bucket, in the emulator that STORAGE_EMULATOR_HOST names meanwhile."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_emulator)
    name = f"whisker-{uuid.uuid4().hex}"
    with storage.Client(project="test") as client:
        client.create_bucket(name)
    return name
