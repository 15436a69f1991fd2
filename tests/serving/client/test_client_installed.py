"""What the client weighs, and with which releases of gRPC and protobuf it works."""

import http.server
import re
import subprocess
import threading
import venv
from importlib.metadata import distribution
from pathlib import Path

import grpc
import pytest

from tests.serving.client.test_client_fork import PROGRAM as FORKS

ROOT = Path(__file__).parents[3]
# An image has no setup.py that names requirements.
pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="an image has no setup.py that names requirements"
)
MOST_MB = 30


def requirements():
    """The base's and the client's, as setup.py writes them."""
    text = (ROOT / "setup.py").read_text()
    lists = re.findall(r"(?:^CLIENT = |install_requires=)\[(.*?)\]", text, re.MULTILINE)
    found = re.findall(r'"([^"]+)"', " ".join(lists))
    assert len(lists) == 2
    assert {one.partition(">=")[0] for one in found} == {"absl-py", "grpcio", "protobuf", "tqdm"}
    return found


def with_dependencies(names):
    """Adds what those need, and what these need."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop().lower()
        if name not in found:
            found.add(name)
            for requirement in distribution(name).requires or []:
                package, _, condition = requirement.partition(";")
                if "extra ==" not in condition and "platform_system" not in condition:
                    waiting.append(re.match(r"[\w.-]+", package).group())
    return found


def test_client_takes_less_than_30_mb():
    names = with_dependencies(one.partition(">=")[0] for one in requirements())
    packages = sum(
        path.locate().stat().st_size
        for name in names
        for path in distribution(name).files
        if path.locate().is_file()
    )
    # The distribution brings both halves, whatever the extra.
    own = sum(
        path.stat().st_size
        for folder in ("whisker_ml", "serving", "trainer")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    assert {"grpcio", "protobuf"} <= names
    assert 5e6 < packages + own < MOST_MB * 1e6


PROGRAM = """
import asyncio, sys
from serving.client.async_client import AsyncPredictClient
from serving.client.errors import InvalidRequest, NotAPicture, ServerUnavailable, WrongProtocol
from serving.client.tensors import decode_lists, encode
from serving.client.predict_client import PredictClient

server, rest, nobody = sys.argv[1:]

async def ask():
    async with AsyncPredictClient(server) as client:
        return (await client.predict(b"dogs 0.75")).label

def failure(address, picture):
    try:
        with PredictClient(address) as client:
            client.predict(picture)
    except Exception as error:
        return type(error)

with PredictClient(server) as client:
    assert client.predict(b"dogs 0.75 " + bytes(600_000)).label == "dogs"
    answers = [outcome.label for outcome in client.predict_many([b"cats 0.5"] * 20)]
    assert answers == ["cats"] * 20
    raw = client.predict_raw({"image_bytes": [b"dogs 0.75"]}, output_filter=["probabilities"])
    assert raw == {"probabilities": [[0.25, 0.75]]}, raw
assert asyncio.run(ask()) == "dogs"
assert decode_lists(encode([[1.5], [-2.0]])) == [[1.5], [-2.0]]
assert failure(server, b"rubbish") is NotAPicture
assert failure(rest, b"dogs 0.75") is WrongProtocol
assert failure(nobody, b"dogs 0.75") is ServerUnavailable
assert "numpy" not in sys.modules
"""


@pytest.mark.long
@pytest.mark.parametrize("release", ["oldest", "newest"])
def test_client_works_with_the_oldest_and_the_newest_releases_that_it_allows(
    release, stand_in, tmp_path
):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    wanted = [
        one.replace(">=", "~=") + ".0" if release == "oldest" else one for one in requirements()
    ]
    installed = subprocess.run(
        [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary=:all:",
            *wanted,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if installed.returncode:
        pytest.skip(
            f"the packages cannot be installed: {installed.stderr.strip().splitlines()[-1]}"
        )
    stand_in.failures.append((grpc.StatusCode.UNAVAILABLE, "queue full"))
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
    ) as rest:
        threading.Thread(target=rest.serve_forever).start()
        addresses = stand_in.address, f"127.0.0.1:{rest.server_port}", "127.0.0.1:1"
        ended = subprocess.run(
            [python, "-c", PROGRAM, *addresses],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        rest.shutdown()
    assert ended.returncode == 0, ended.stderr[-3000:]
    forked = subprocess.run(
        [python, "-c", FORKS, stand_in.address],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert forked.stdout.strip() == str([0] * 6), forked.stderr[-2000:]
