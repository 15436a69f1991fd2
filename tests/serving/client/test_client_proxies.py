"""This machine is asked directly, whatever proxy there is: real connections to a real listener."""

import os
import socket
import subprocess
import sys

import grpc
import pytest

from serving.client.errors import ClientError
from serving.client.predict_client import PredictClient
from whisker_ml.machine import ask_loopback_directly, is_this_machine, proxy_variable

VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture
def proxy(monkeypatch):
    """A listener that every variable names as the proxy; gives whether somebody connected."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        for name in VARIABLES:
            monkeypatch.setenv(name, f"http://127.0.0.1:{listener.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)

        def connected():
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                return False
            return True

        yield connected


@pytest.mark.parametrize("token", [None, "secret"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "dns:///localhost", "LOCALHOST"])
def test_client_asks_this_machine_directly(stand_in, proxy, host, token):
    credentials = grpc.local_server_credentials() if token else None
    server = stand_in if token is None else type(stand_in)(credentials=credentials)
    if token:
        server.start()
    with PredictClient(f"{host}:{server.port}", token=token) as client:
        assert client.predict(b"dogs 0.75").label == "dogs"
    if token:
        assert server.tokens == ["Bearer secret"]
        server.stop()
    assert not proxy()


def test_list_of_replicas_on_this_machine_is_asked_directly(stand_in, proxy):
    with PredictClient([f"localhost:{stand_in.port}", stand_in.address]) as client:
        assert client.predict(b"dogs 0.75").label == "dogs"
    assert not proxy()


def test_error_on_the_way_elsewhere_names_the_variable(proxy):
    with (
        PredictClient("models.invalid:8500", timeout_s=5) as client,
        pytest.raises(ClientError, match="proxy in grpc_proxy.*no_proxy"),
    ):
        client.predict(b"dogs 0.75")
    assert proxy()


def test_commands_ask_server_and_bucket_directly(stand_in, bucket, proxy, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"dogs 0.75")
    for arguments in (
        ["serving.predict", f"--server={stand_in.address}", str(tmp_path / "a.jpg")],
        ["serving.store", "list", f"--model_dir=gs://{bucket}/models"],
    ):
        ended = subprocess.run(
            [sys.executable, "-m", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "proxy" not in ended.stderr.lower(), ended.stderr
    assert not proxy()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"no_proxy": "localhost,127.0.0.1,::1"}),
        ({"no_proxy": "a.b"}, {"no_proxy": "a.b,localhost,127.0.0.1,::1"}),
        ({"NO_PROXY": "a.b"}, {"no_proxy": "a.b,localhost,127.0.0.1,::1"}),
        (
            {"no_grpc_proxy": "c"},
            {"no_proxy": "localhost,127.0.0.1,::1", "no_grpc_proxy": "c,localhost,127.0.0.1,::1"},
        ),
    ],
)
def test_what_is_asked_without_a_proxy_is_added_to(monkeypatch, given, expected):
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy", "NO_GRPC_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    # So that what is set below is undone in the end.
    monkeypatch.setenv("no_proxy", given.get("no_proxy", given.get("NO_PROXY", "")))
    ask_loopback_directly()
    assert {name: os.environ[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("environment", "address", "name"),
    [
        ({}, "models:8500", ""),
        ({"http_proxy": "x"}, "models:8500", "http_proxy"),
        ({"http_proxy": "x", "https_proxy": "y"}, "models:8500", "https_proxy"),
        ({"http_proxy": "x", "no_proxy": "a, .example.com"}, "m.example.com:8500", ""),
        ({"http_proxy": "x"}, "localhost:8500", ""),
        ({"http_proxy": "x"}, "[::1]:8500", ""),
    ],
)
def test_proxy_on_the_way_is_known_by_its_variable(monkeypatch, environment, address, name):
    for each in (*VARIABLES, "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(each, raising=False)
    for each, value in environment.items():
        monkeypatch.setenv(each, value)
    assert proxy_variable(address) == name


def test_names_that_only_begin_like_this_machine_are_others():
    for address in ("localhost.example.com:1", "127.0.0.1.example.com:1", "10.0.0.1:1", "models"):
        assert not is_this_machine([address])
    assert not is_this_machine(["localhost:1", "models:1"])
