import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from trainer.cloud import specification

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "docker"
FILES = ["serving.Dockerfile", "trainer.Dockerfile"]


def instructions(name):
    """The instructions of a Dockerfile, as (word, rest), without comments and with continued lines
    joined.
    """
    lines = [
        line
        for line in (FOLDER / name).read_text("utf-8").splitlines()
        if not line.lstrip().startswith("#")
    ]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def rests(name, word):
    return [rest for found, rest in instructions(name) if found == word]


def index(name, word, text):
    return next(
        i for i, (found, rest) in enumerate(instructions(name)) if found == word and text in rest
    )


def copied_from_checkout(name):
    return [
        source
        for rest in rests(name, "COPY")
        if "--from=" not in rest
        for source in rest.split()[:-1]
    ]


def in_build_context(path):
    """Whether .dockerignore lets a path through: as docker does, the last line that matches
    decides.
    """
    ignored = False
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.strip().removeprefix("!")
        if (
            pattern
            and not pattern.startswith("#")
            and any(fnmatch(part, pattern) for part in (path, *parents(path)))
        ):
            ignored = not line.startswith("!")
    return not ignored


def parents(path):
    return [str(parent) for parent in Path(path).parents][:-1]


def test_every_dockerfile_is_one_that_is_tested_here():
    assert sorted(path.name for path in FOLDER.glob("*.Dockerfile")) == sorted(
        [*FILES, "tests.Dockerfile"]
    )


@pytest.mark.parametrize("name", FILES)
def test_base_images_are_named_by_a_version(name):
    stages = {rest.split(" AS ")[-1] for rest in rests(name, "FROM") if " AS " in rest}
    for rest in rests(name, "FROM"):
        image = rest.split()[0]
        assert image in stages or re.search(r":\d+\.\d+[\w.-]*$|@sha256:[0-9a-f]{64}$", image), (
            image
        )


@pytest.mark.parametrize("name", FILES)
def test_last_user_is_a_number_and_not_root(name):
    last = rests(name, "USER")[-1]
    assert last.isdigit()
    assert int(last) > 0
    assert any(f"--uid {last}" in rest for rest in rests(name, "RUN"))


@pytest.mark.parametrize("name", FILES)
def test_entrypoint_is_one_exec_form_so_that_signals_arrive(name):
    (entrypoint,) = rests(name, "ENTRYPOINT")
    words = json.loads(entrypoint)
    assert all(isinstance(word, str) for word in words)
    assert words[0] not in ("sh", "bash", "/bin/sh", "/bin/bash")


@pytest.mark.parametrize("name", [*FILES, "tests.Dockerfile"])
def test_what_is_copied_exists_and_reaches_the_builder(name):
    for source in copied_from_checkout(name):
        assert (ROOT / source).exists(), source
        assert in_build_context(source), source


@pytest.mark.parametrize(
    "path",
    [
        "infra/terraform/terraform.tfstate",
        "infra/terraform/.terraform/x",
        ".git/config",
        "models/models.config",
        ".venv/bin/python",
        "trainer/__pycache__/x.pyc",
    ],
)
def test_what_no_image_needs_does_not_reach_the_builder(path):
    assert not in_build_context(path)


def test_images_that_are_pushed_hold_no_tests():
    assert not [
        source
        for name in FILES
        for source in copied_from_checkout(name)
        if source.startswith(("tests", "."))
    ]


def test_trainer_entrypoint_is_the_command_of_the_cloud_job_and_its_module_exists():
    command = json.loads(rests("trainer.Dockerfile", "ENTRYPOINT")[0])
    assert tuple(command) == specification.COMMAND
    assert importlib.util.find_spec(command[-1]) is not None


def test_trainer_copies_the_locks_and_installs_one_by_hash_before_the_sources():
    name = "trainer.Dockerfile"
    install = index(name, "RUN", "pip install --require-hashes --requirement")
    assert index(name, "COPY", "requirements/run.txt requirements/gpu.txt") < install
    assert install < min(index(name, "COPY", "serving"), index(name, "COPY", "trainer /"))


@pytest.mark.parametrize(("gpu", "lock"), [("1", "gpu.txt"), ("0", "run.txt")])
def test_trainer_installs_the_lock_that_belongs_to_its_argument(gpu, lock):
    run = instructions("trainer.Dockerfile")[
        index("trainer.Dockerfile", "RUN", "--require-hashes")
    ][1]
    shown = subprocess.run(
        ["bash", "-ec", "pip() { echo $*; }; " + run],
        env={"GPU": gpu},
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    assert shown.stdout == f"install --require-hashes --requirement {lock}\n"
    assert ("nvidia-cudnn" in (ROOT / "requirements" / lock).read_text("utf-8")) == (gpu == "1")


def test_trainer_image_is_for_gpus_unless_told_otherwise():
    assert rests("trainer.Dockerfile", "ARG") == ["GPU=1"]


def test_trainer_tells_the_loader_of_the_cuda_wheels_in_the_image_that_runs_and_as_root():
    name = "trainer.Dockerfile"
    loader = index(name, "RUN", "ldconfig")
    assert index(name, "COPY", "--from=packages /opt/venv") < loader < index(name, "USER", "")
    assert " > /etc/ld.so.conf.d/" in instructions(name)[loader][1]


def test_loader_pattern_finds_the_folders_of_cuda_wheels(tmp_path):
    # Where the wheels put their libraries: nvidia/<library>/lib below site-packages.
    wanted = tmp_path / "lib/python3.12/site-packages/nvidia/cudnn/lib"
    for folder in (
        wanted,
        wanted.parent / "include",
        tmp_path / "lib/python3.12/site-packages/h5py.libs",
    ):
        folder.mkdir(parents=True)
    run = instructions("trainer.Dockerfile")[index("trainer.Dockerfile", "RUN", "ldconfig")][1]
    search = run.split(" > ")[0].replace("/opt/venv", str(tmp_path))
    found = subprocess.run(
        ["bash", "-c", search], capture_output=True, text=True, check=True, timeout=10
    )
    assert found.stdout.split() == [str(wanted)]


def test_server_opens_the_ports_that_its_image_exposes_and_checks():
    name = "serving.Dockerfile"
    command = json.loads(rests(name, "ENTRYPOINT")[0])
    ports = [
        word.split("=")[1] for word in command if word.startswith(("--port=", "--rest_api_port="))
    ]
    assert ports == rests(name, "EXPOSE")[0].split()
    assert f"/dev/tcp/127.0.0.1/{ports[1]}" in rests(name, "HEALTHCHECK")[0]


def test_server_is_stopped_by_the_signal_that_process_1_cannot_miss():
    assert rests("serving.Dockerfile", "STOPSIGNAL") == ["SIGKILL"]


def test_server_takes_its_models_config_from_the_command_so_that_another_can_be_given():
    assert json.loads(rests("serving.Dockerfile", "CMD")[0]) == [
        "--model_config_file=/models/models.config"
    ]
    assert (
        "--allow_version_labels_for_unavailable_models=true"
        in rests("serving.Dockerfile", "ENTRYPOINT")[0]
    )


def test_health_check_succeeds_on_an_open_port_and_fails_on_a_closed_one():
    check = json.loads(rests("serving.Dockerfile", "HEALTHCHECK")[0].partition(" CMD ")[2])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
        words = [word.replace("8501", port) for word in check]
        closed = subprocess.run(words, capture_output=True, check=False, timeout=10)
        listener.listen()
        opened = subprocess.run(words, capture_output=True, check=False, timeout=10)
    assert closed.returncode != 0
    assert opened.returncode == 0


def test_tests_stand_beside_the_code_of_the_image_that_they_are_given():
    name = "tests.Dockerfile"
    assert rests(name, "FROM") == ["${TRAINER}"]
    assert rests(name, "ARG") == ["TRAINER"]
    # The trainer's own folder for code and its own user.
    assert rests(name, "WORKDIR") == ["/app"]
    assert "PYTHONPATH=/app" in " ".join(rests("trainer.Dockerfile", "ENV"))
    assert rests(name, "USER")[-1] == rests("trainer.Dockerfile", "USER")[-1]
    for folder in json.loads(rests(name, "CMD")[0]):
        assert (ROOT / folder).is_dir(), folder


def test_tests_that_read_files_of_the_checkout_pass_on_what_the_image_holds(tmp_path):
    for name in ("trainer.Dockerfile", "tests.Dockerfile"):
        for rest in rests(name, "COPY"):
            *sources, target = rest.split()
            if target.startswith("/app"):
                for source in sources:
                    assert in_build_context(source), source
                    copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                    # A checkout that is used has caches, which the builder does not get.
                    copy(ROOT / source, tmp_path / source)
    folders = json.loads(rests("tests.Dockerfile", "CMD")[0])
    reading = [
        str(path.relative_to(tmp_path))
        for folder in folders
        for path in sorted((tmp_path / folder).rglob("test_*.py"))
        if re.search(r"(ROOT|parents\[\d\]\)?) /", path.read_text("utf-8"))
    ]
    assert "tests/trainer/cloud/test_cloud_image.py" in reading
    # The image has no git.
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("bash", "cat", "basename", "sh"):
        (programs / program).symlink_to(shutil.which(program))
    ended = subprocess.run(
        # Those that load TensorFlow read none of these files.
        [sys.executable, "-m", "pytest", "-m", "not long", "-k", "not tensorflow", *reading],
        cwd=tmp_path,
        env={
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PATH": str(programs),
            "PYTHONPATH": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stdout
    assert "an image has no git" in ended.stdout
