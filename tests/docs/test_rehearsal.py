"""The commands of docs/rehearsal.md, in their order, on free ports."""

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests.docs.test_readme import BLOCKS, environment, execute

DEADLINE_S = 300
MARKER = "runs in: tests/docs/test_rehearsal.py"


@contextmanager
def running(command, folder, signal_number, code):
    """A command that serves until it gets a signal."""
    with subprocess.Popen(
        ["bash", "-c", re.sub(r"^(?=\.venv)", "exec ", command, flags=re.MULTILINE)],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
            process.send_signal(signal_number)
            assert process.wait(60) == code
        finally:
            process.terminate()


def until(text, look):
    deadline = time.monotonic() + DEADLINE_S
    while text not in (seen := look()):
        assert time.monotonic() < deadline, seen


@pytest.mark.long
def test_commands_of_the_page_work_in_their_order(tmp_path):
    (tmp_path / ".venv").symlink_to(sys.prefix)
    serve, setup, submit, store, model_server, predict, spot, preempt, end = (
        block.text for block in BLOCKS if block.marker == MARKER
    )
    with running(serve.replace("serve", "serve --port=0"), tmp_path, signal.SIGINT, 130) as service:
        said = "".join(service.stdout.readline() for _ in range(7))
        assert "no machines, images, quotas, prices or permissions" in said
        addresses = dict(
            zip(("8601", "8600"), re.findall(r"http://127.0.0.1:(\d+)$", said, re.M), strict=True)
        )

        def on_these_ports(text):
            return re.sub(r"(?<=127\.0\.0\.1:)860[01]", lambda found: addresses[found[0]], text)

        # Each block of the page goes on in the same terminal.
        setup = on_these_ports(setup)

        def run(text):
            return execute(tmp_path, "sh", f"{setup}\n{text}")

        jobs = run(submit)
        assert re.search(r"^1000  (pending|running)  ", jobs, re.MULTILINE)
        assert re.search(r"^succeeded  epoch 10  ", jobs, re.MULTILINE)
        assert "published version 1: gs://my-bucket/models/whisker/1" in jobs
        assert re.search(r"^ +1  live  stable  ", run(store), re.MULTILINE)

        ports = tmp_path / "ports.json"
        command = on_these_ports(model_server).replace("--port=8500", f"--ports_file={ports}")
        with running(command, tmp_path, signal.SIGTERM, 0):
            until("ports", lambda: "ports" if ports.exists() else "")
            port = json.loads(ports.read_text())["port"]
            answers = run(predict.replace("8500", str(port)))
        assert len(re.findall(r"/test/cats/cat\.\d+\.jpg$", answers, re.MULTILINE)) == 100

        run(spot)
        logs = end.splitlines()[0]
        until("epoch   1/500", lambda: run(logs))
        service.stdin.write(preempt)
        service.stdin.flush()
        assert re.fullmatch(r"1001: ended with 143 after .*\n", service.stdout.readline())
        until("resuming after epoch", lambda: run(logs))
        run(end)
        until("1001  cancelled", lambda: run(end.splitlines()[-1]))
