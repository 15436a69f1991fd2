"""The program that pins base images, against a registry on loopback that wants a token, as Docker
Hub does.
"""

import hashlib
import http.server
import importlib.util
import socket
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "infra" / "pin_images.py"
SPEC = importlib.util.spec_from_file_location("pin_images", PROGRAM)
pin_images = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pin_images)

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = b'{"schemaVersion": 2, "manifests": []}'
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
OLD_DIGEST = "sha256:" + "0" * 64


class Registry(http.server.BaseHTTPRequestHandler):
    """GET /v2/<repository>/manifests/<tag> with a token from GET /token; `answers` says what is
    wrong today.
    """

    def do_GET(self):
        address = urllib.parse.urlsplit(self.path)
        self.server.asked.append(self.path)
        if address.path == "/token":
            assert urllib.parse.parse_qs(address.query) == {
                "service": ["stand-in"],
                "scope": ["repository:library/python:pull"],
            }
            self.answer(200, b'{"token": "right"}', {"Content-Type": "application/json"})
        elif self.headers.get("Authorization") != "Bearer right":
            realm = f"http://127.0.0.1:{self.server.server_port}/token"
            scope = "repository:library/python:pull"
            challenge = f'Bearer realm="{realm}",service="stand-in",scope="{scope}"'
            self.answer(401, b"{}", {"WWW-Authenticate": challenge})
        elif address.path != "/v2/library/python/manifests/3.12-slim":
            self.answer(404, b"{}", {})
        else:
            assert self.headers["Accept"].startswith(INDEX)
            headers = {"Content-Type": INDEX, "Docker-Content-Digest": DIGEST}
            self.answer(200, MANIFEST, headers | self.server.wrong)

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def registry():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    server.asked, server.wrong = [], {}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def dockerfile(folder, image):
    path = folder / "a.Dockerfile"
    path.write_text(
        f"ARG OTHER=1\nFROM {image} AS packages\nRUN true\nFROM --platform=linux/amd64 {image}\n"
        "FROM packages\nFROM $OTHER\n"
    )
    return path


def test_tags_get_the_digest_that_the_registry_gives_for_them(tmp_path, registry, capsys):
    image = f"127.0.0.1:{registry.server_port}/library/python:3.12-slim"
    path = dockerfile(tmp_path, image)
    pin_images.pin([path])
    assert capsys.readouterr().out == f"{image}@{DIGEST}\n"
    assert (
        path.read_text() == f"ARG OTHER=1\nFROM {image}@{DIGEST} AS packages\nRUN true\n"
        f"FROM --platform=linux/amd64 {image}@{DIGEST}\nFROM packages\nFROM $OTHER\n"
    )
    # Refused, sent for a token, let in; the second line's image is the same one.
    assert [asked.partition("?")[0] for asked in registry.asked] == [
        "/v2/library/python/manifests/3.12-slim",
        "/token",
        "/v2/library/python/manifests/3.12-slim",
    ]
    pin_images.check([path])


def test_the_builder_in_the_makefile_is_an_image_like_others(tmp_path, registry):
    image = f"127.0.0.1:{registry.server_port}/library/python:3.12-slim"
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"A := b:1\nBUILDKIT := {image}\nuse:\n\techo $(BUILDKIT)\n")
    with pytest.raises(pin_images.PinError, match=f"Makefile: {image}; run make pin-images"):
        pin_images.check([makefile])
    pin_images.pin([makefile])
    assert f"\nBUILDKIT := {image}@{DIGEST}\n" in makefile.read_text()


def test_a_tag_that_has_moved_gets_its_new_digest(tmp_path, registry):
    image = f"127.0.0.1:{registry.server_port}/library/python:3.12-slim"
    path = dockerfile(tmp_path, f"{image}@{OLD_DIGEST}")
    pin_images.pin([path])
    assert OLD_DIGEST not in path.read_text()
    assert path.read_text().count(f"{image}@{DIGEST}") == 2


@pytest.mark.parametrize(
    ("tag", "wrong", "said"),
    [
        ("3.13", {}, "HTTP Error 404"),
        (
            "3.12-slim",
            {"Docker-Content-Digest": OLD_DIGEST},
            f"calls it {OLD_DIGEST}, but what it sent is {DIGEST}",
        ),
        ("3.12-slim", {"Content-Type": "text/html"}, "text/html is no manifest of an image"),
    ],
)
def test_an_answer_that_cannot_be_trusted_changes_no_file(tmp_path, registry, tag, wrong, said):
    registry.wrong = wrong
    path = dockerfile(tmp_path, f"127.0.0.1:{registry.server_port}/library/python:{tag}")
    before = path.read_text()
    with pytest.raises(pin_images.PinError, match=said):
        pin_images.pin([path])
    assert path.read_text() == before


def test_a_registry_that_is_not_there_is_named(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        registry = f"127.0.0.1:{closed.getsockname()[1]}"
        image = f"{registry}/library/python:3.12-slim"
        with pytest.raises(
            pin_images.PinError, match=f"pin-images: {image}: http://{registry}/v2/.*refused"
        ):
            pin_images.pin([dockerfile(tmp_path, image)])


@pytest.mark.parametrize(
    ("image", "url"),
    [
        ("python:3.12-slim", "https://registry-1.docker.io/v2/library/python/manifests/3.12-slim"),
        (
            "tensorflow/serving:2.20.0",
            "https://registry-1.docker.io/v2/tensorflow/serving/manifests/2.20.0",
        ),
        ("us-docker.pkg.dev/p/r/trainer:1", "https://us-docker.pkg.dev/v2/p/r/trainer/manifests/1"),
        ("python", "https://registry-1.docker.io/v2/library/python/manifests/latest"),
    ],
)
def test_images_are_looked_for_where_docker_looks(image, url):
    assert pin_images.manifest_url(image)[0] == url


def test_deploying_is_refused_while_a_base_image_is_named_by_a_tag(tmp_path):
    path = dockerfile(tmp_path, "python:3.12-slim")
    ended = subprocess.run(
        [sys.executable, PROGRAM, "--check", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert ended.stderr.count("python:3.12-slim") == 2
    assert "run make pin-images" in ended.stderr
    assert ended.stderr.count("\n") == 1
