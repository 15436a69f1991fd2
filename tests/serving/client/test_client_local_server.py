import json
import os
import select
import subprocess
import sys

import pytest

from serving.client import local_server as module
from serving.client.local_server import LocalServerFailed, local_server

PYTHON = sys.executable

# Stands where the interpreter does, so that no process here loads TensorFlow. --behave says how it
# behaves.
STAND_IN = """#!{python}
import json, os, signal, sys, time
flags = dict(argument[2:].partition("=")[::2] for argument in sys.argv[3:])
behave = flags.get("behave", "")
if behave == "fail":
    print("loading\\nFailed to start server. Error: no such model\\n\\n", flush=True)
    sys.exit(255)
if behave == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps(sys.argv[1:]), flush=True)
if behave != "never_ready":
    with open(flags["ports_file"] + ".new", "w") as file:
        json.dump({{"port": 1234, "rest_api_port": 5678}}, file)
    os.rename(flags["ports_file"] + ".new", flags["ports_file"])
while True:
    signal.pause()
"""


@pytest.fixture(autouse=True)
def stand_in(tmp_path, monkeypatch):
    path = tmp_path / "python"
    path.write_text(STAND_IN.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(path))


def ended(process):
    # A child that was waited for is gone; asking for it by number finds nobody.
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    return process.returncode


def test_server_gets_its_flags_gives_its_ports_and_ends_with_the_block(tmp_path):
    log = tmp_path / "server.log"
    with local_server(
        model_name="whisker", model_base_path="/models/whisker", log_path=log
    ) as server:
        assert (server.port, server.rest_api_port) == (1234, 5678)
        assert server.process.poll() is None
    assert ended(server.process) == -15
    arguments = json.loads(log.read_text())
    assert arguments[:2] == ["-m", "serving.server"]
    assert arguments[3:] == ["--model_name=whisker", "--model_base_path=/models/whisker"]


def test_server_of_a_config_file_accepts_labels_of_versions_not_loaded_yet(tmp_path):
    log = tmp_path / "server.log"
    with local_server(
        model_config_file="models.config", log_path=log, extra_flags=["--enable_batching"]
    ):
        pass
    assert json.loads(log.read_text())[3:] == [
        "--model_config_file=models.config",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_batching",
    ]


def test_server_that_ends_early_raises_with_the_last_line_of_its_log():
    wanted = "exit code 255 before it was ready: Failed to start server. Error: no such model$"
    with (
        pytest.raises(LocalServerFailed, match=wanted),
        local_server(extra_flags=["--behave=fail"]),
    ):
        pass


def test_server_that_is_not_ready_in_time_is_ended(monkeypatch):
    started = []
    start = module.subprocess.Popen
    monkeypatch.setattr(
        module.subprocess, "Popen", lambda *a, **k: started.append(start(*a, **k)) or started[-1]
    )
    with (
        pytest.raises(LocalServerFailed, match=r"not ready after 0\.2 s"),
        local_server(start_timeout_s=0.2, extra_flags=["--behave=never_ready"]),
    ):
        pass
    assert ended(started[0]) == -15


def test_server_that_ignores_sigterm_is_killed(monkeypatch):
    monkeypatch.setattr(module, "_STOP_TIMEOUT_S", 0.2)
    with local_server(extra_flags=["--behave=stubborn"]) as server:
        pass
    assert ended(server.process) == -9


def test_server_ends_with_a_process_that_is_killed(tmp_path):
    program = """
import sys
from serving.client.local_server import local_server
with local_server(model_base_path=sys.argv[1], start_timeout_s=None) as server:
    print(server.process.pid, flush=True)
    sys.stdin.read()
"""
    arguments = [PYTHON, "-c", program, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        ended = os.pidfd_open(int(killed.stdout.readline()))
        killed.kill()
    # Whether it has been imported by then, or waits for a version.
    assert select.select([ended], [], [], 60)[0]
    os.close(ended)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_server_ends_when_the_block_raises(error):
    with pytest.raises(error), local_server() as server:
        raise error
    assert ended(server.process) == -15
