"""A server that reloads a hundred times, with clients asking all the while, is no larger than after
five times.
"""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.serving.server.asking import Client, request, running, wait_until

WARM, RELOADS = 5, 100


def resident_kb(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


@pytest.mark.long
def test_memory_after_100_reloads_is_within_a_tenth_of_that_after_5_and_no_request_fails(
    exported, tmp_path
):
    one = request("half", {"x": np.ones((1, 1), np.float32)})
    (tmp_path / "half").mkdir()

    def publish(number):
        shutil.copytree(exported / "half" / "1", tmp_path / "half" / f"tmp-{number}")
        (tmp_path / "half" / f"tmp-{number}").rename(tmp_path / "half" / str(number))

    publish(1)
    with running(tmp_path, "--model_name=half", f"--model_base_path={tmp_path}/half") as server:
        stop, failures, answered = threading.Event(), [], []

        def ask():
            client = Client(**server.ports)
            while not stop.is_set():
                try:
                    answered.append(client.predict(one).model_spec.version.value)
                except Exception as error:
                    failures.append(error)
                    return

        askers = [threading.Thread(target=ask) for _ in range(2)]
        for asker in askers:
            asker.start()
        sizes = {}
        try:
            for number in range(2, RELOADS + 2):
                publish(number)
                wait_until(
                    lambda number=number: server.client.states("half").get(number) == "AVAILABLE"
                )
                shutil.rmtree(tmp_path / "half" / str(number - 1))
                sizes[number - 1] = resident_kb(server)
        finally:
            stop.set()
            for asker in askers:
                asker.join()
    assert failures == []
    assert set(answered[-1:]) == {RELOADS + 1}
    print({n: sizes[n] for n in (1, 2, WARM, 10, 25, 50, 75, RELOADS)})
    assert sizes[RELOADS] <= 1.1 * sizes[WARM], {
        n: sizes[n] for n in (1, 2, WARM, 10, 25, 50, 75, RELOADS)
    }
