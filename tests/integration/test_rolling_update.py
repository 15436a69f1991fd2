"""Two replicas, real processes, of which one stops and starts again, round after round."""

import shutil
import signal
import subprocess
import threading

import pytest

from serving.client.errors import ClientError
from serving.client.predict_client import PredictClient
from tests.serving.server.asking import (
    COMMAND,
    ROOT,
    START_DEADLINE_S,
    free_port,
    is_open,
    running,
    wait_until,
    write_config,
)
from tests.serving.server.conftest import exported  # noqa: F401 - the fixture

ROUNDS, CLIENTS = 50, 64


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_replica_that_is_replaced_loses_no_request(exported, tmp_path):  # noqa: F811
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    write_config(tmp_path)
    arguments = [f"--model_config_file={tmp_path}/models.config"]
    arguments += ["--allow_version_labels_for_unavailable_models"]
    (tmp_path / "stays").mkdir()
    with running(tmp_path / "stays", *arguments) as stays, _Replica(arguments) as goes:
        ended, failures, answers = threading.Event(), [], [0] * CLIENTS

        def ask(number):
            while not ended.is_set():
                try:
                    client.predict_raw({"x": [[1.0]]})
                    answers[number] += 1
                except ClientError as error:
                    failures.append(error)

        addresses = [f"127.0.0.1:{stays.ports['port']}", f"127.0.0.1:{goes.port}"]
        with PredictClient(addresses, model_name="half", timeout_s=30) as client:
            threads = [threading.Thread(target=ask, args=(n,)) for n in range(CLIENTS)]
            for thread in threads:
                thread.start()
            for _ in range(ROUNDS):
                before = sum(answers)
                wait_until(lambda: sum(answers) > before + 500)  # noqa: B023 - evaluated at once
                goes.stop()
                goes.start()
            ended.set()
            for thread in threads:
                thread.join(60)
    assert failures == []
    assert sum(answers) > ROUNDS * 500


class _Replica:
    """A server on one port, which it gets again and again."""

    def __init__(self, arguments):
        self.port = free_port()
        self._command = [*COMMAND, *arguments, f"--port={self.port}"]

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait(60)

    def start(self):
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: is_open(self.port), START_DEADLINE_S)

    def stop(self):
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(60) == 0
