"""The program that pins base images, with a stand-in for docker."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "infra" / "pin_images.py"
SPEC = importlib.util.spec_from_file_location("pin_images", PROGRAM)
pin_images = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pin_images)

IMAGE = "python:3.12-slim"
DIGEST, OLD_DIGEST = ("sha256:" + digit * 64 for digit in "10")
PULLED = f"3.12-slim: Pulling from library/python\nDigest: {DIGEST}\nStatus: Image is up to date\n"


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """Gives a function that puts a docker on the path, which says and ends as it is told; the file
    that it writes its arguments to is the function's answer.
    """

    def install(said=PULLED, error="", code=0):
        log, program = tmp_path / "asked", tmp_path / "bin" / "docker"
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f'#!/bin/sh\necho "$@" >> {log}\nprintf %s "{said}"\nprintf %s "{error}" >&2\n'
            f"exit {code}\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        return log

    return install


def dockerfile(folder, image):
    path = folder / "a.Dockerfile"
    path.write_text(
        f"ARG OTHER=1\nFROM {image} AS packages\nRUN true\nFROM --platform=linux/amd64 {image}\n"
        "FROM packages\nFROM $OTHER\n"
    )
    return path


def test_tags_get_the_digest_that_docker_pulls(tmp_path, docker, capsys):
    asked = docker()
    path = dockerfile(tmp_path, IMAGE)
    pin_images.pin([path])
    assert capsys.readouterr().out == f"{IMAGE}@{DIGEST}\n"
    assert (
        path.read_text() == f"ARG OTHER=1\nFROM {IMAGE}@{DIGEST} AS packages\nRUN true\n"
        f"FROM --platform=linux/amd64 {IMAGE}@{DIGEST}\nFROM packages\nFROM $OTHER\n"
    )
    # The second line's image is the same one.
    assert asked.read_text() == f"pull --platform=linux/amd64 {IMAGE}\n"
    pin_images.check([path])


def test_the_builder_in_the_makefile_is_an_image_like_others(tmp_path, docker):
    docker()
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"A := b:1\nBUILDKIT := {IMAGE}\nuse:\n\techo $(BUILDKIT)\n")
    with pytest.raises(pin_images.PinError, match=f"Makefile: {IMAGE}; run make pin-images"):
        pin_images.check([makefile])
    pin_images.pin([makefile])
    assert f"\nBUILDKIT := {IMAGE}@{DIGEST}\n" in makefile.read_text()


def test_a_tag_that_has_moved_gets_its_new_digest(tmp_path, docker):
    docker()
    path = dockerfile(tmp_path, f"{IMAGE}@{OLD_DIGEST}")
    pin_images.pin([path])
    assert OLD_DIGEST not in path.read_text()
    assert path.read_text().count(f"{IMAGE}@{DIGEST}") == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"said": "", "error": "manifest unknown", "code": 1}, "manifest unknown"),
        ({"code": 1}, f"Digest: {DIGEST}"),
        ({"said": "Digest: sha256:12"}, "Digest: sha256:12"),
    ],
)
def test_an_answer_that_cannot_be_trusted_changes_no_file(tmp_path, docker, answer, said):
    docker(**answer)
    path = dockerfile(tmp_path, IMAGE)
    before = path.read_text()
    with pytest.raises(pin_images.PinError, match=f"^pin-images: {IMAGE}: docker pull .*{said}"):
        pin_images.pin([path])
    assert path.read_text() == before


def test_pinning_without_docker_says_so_in_one_line(tmp_path):
    path = dockerfile(tmp_path, IMAGE)
    ended = subprocess.run(
        [sys.executable, PROGRAM, path],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "'docker'" in ended.stderr


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
