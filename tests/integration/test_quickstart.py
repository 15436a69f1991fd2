"""What `make run` starts: the whole way in processes of its own, from an empty folder."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_whole_way_from_nothing_ends_with_answers_of_the_server(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "trainer.quickstart", "--epochs=8", "--image_size=64"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(
        r"^accuracy  0\.\d{3} of 200 test pictures \(95 % interval", ended.stdout, re.MULTILINE
    )
    assert f"version   1, published to {tmp_path}/models/whisker/1\n" in ended.stdout
    (report,) = re.findall(r"^report    (.+)$", ended.stdout, re.MULTILINE)
    assert (tmp_path / report).is_file()
    line = re.compile(
        r"drawn as (cats|dogs)\s+answered (cats|dogs)\s+[01]\.\d\d  (right|wrong)$", re.MULTILINE
    )
    answers = line.findall(ended.stdout)
    assert [true for true, _, _ in answers] == ["cats"] * 3 + ["dogs"] * 3
    assert all((true == said) == (verdict == "right") for true, said, verdict in answers)
    # Nothing of TensorFlow's chatter reaches someone who tries Whisker for the first time.
    assert ended.stderr == ""
    state = json.loads((tmp_path / report).with_name("state.json").read_text())
    assert state["state"] == "done"
    (command,) = re.findall(r"^try it .*\n +(.+)$", ended.stdout, re.MULTILINE)
    assert b"Choose a picture" in page_of(
        command.replace("--rest_api_port=8501", "--ports_file=ports.json"), tmp_path
    )


def page_of(command, folder):
    """Runs a server's command, and gives what it has at /."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(shlex.split(command), cwd=folder, env=environment) as server:
        try:
            deadline = time.monotonic() + 120
            while not (folder / "ports.json").exists():
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            port = json.loads((folder / "ports.json").read_text())["rest_api_port"]
            with urllib.request.urlopen(f"http://localhost:{port}/", timeout=30) as response:
                return response.read()
        finally:
            server.kill()
