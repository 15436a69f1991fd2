"""The build: its form by the service's own message, what no message says by our lint, and what its
steps call.
"""

import os
import re
import shlex
import shutil
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from google.cloud.devtools.cloudbuild_v1.types import Build, BuildOptions
from google.protobuf import json_format
from PIL import Image

from trainer.data import sources

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cloudbuild.yaml").read_text("utf-8")

# Substitutions that the service always defines, also for a build that no trigger started.
BUILT_IN = {"PROJECT_ID", "PROJECT_NUMBER", "BUILD_ID", "LOCATION"}
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
BUILDKIT = re.search(r"^BUILDKIT := ([^@\s]+)", MAKEFILE, re.MULTILINE)[1]
REGISTRY = "us-central1-docker.pkg.dev/project/whisker"
DIGEST = "sha256:" + "5" * 64

DOCKER = f"""#!/bin/sh
echo "docker $*" >> "$RECORD"
case "$*" in
  "$FAIL") exit 1;;
  "buildx inspect"*) exit 1;;
  "inspect --format"*) echo "$HEALTH";;
  "image inspect"*) echo "{REGISTRY}/trainer@{DIGEST}";;
esac
"""
GCLOUD = """#!/bin/sh
echo "gcloud $*" >> "$RECORD"
case "$*" in
  "$FAIL") exit 1;;
  *list-vulnerabilities*) printf 'LOW\\tprojects/goog-vulnz/notes/CVE-1\\n%b\\n' "$FOUND";;
  *scan*) echo projects/project/locations/us/scans/1;;
esac
"""
RECORDER = '#!/bin/sh\necho "$(basename "$0") $*" >> "$RECORD"\n'


def parsed(text):
    message = Build()
    json_format.ParseDict(yaml.safe_load(text), Build.pb(message))
    return message


BUILD = parsed(TEXT)


def faults(text):
    """What the service would refuse, or do wrong, and its message lets through."""
    build = parsed(text)
    earlier, found = set(), []
    for step in build.steps:
        if not step.id or step.id in earlier:
            found.append(f"id {step.id!r}: missing, or there twice")
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?", step.name):
            found.append(f"step {step.id}: {step.name!r} is no image")
        # An earlier one, so that no two can wait for each other; without any, a step waits for all
        # before it.
        found += [
            f"step {step.id} waits for {other}"
            for other in step.wait_for
            if other not in earlier | {"-"}
        ]
        earlier.add(step.id)
    body = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    # Two dollar signs are one for the shell.
    used = set(re.findall(r"\$\{?(\w+)\}?", body.replace("$$", "")))
    found += [
        f"substitution {name}"
        for name in build.substitutions
        if not re.fullmatch(r"_[A-Z0-9_]+", name)
    ]
    found += [
        f"substitution {name} is not defined" for name in used - BUILT_IN - set(build.substitutions)
    ]
    found += [f"substitution {name} is not used" for name in set(build.substitutions) - used]
    return found


def test_build_has_no_fault():
    assert faults(TEXT) == []


def test_message_of_the_service_refuses_a_field_that_it_does_not_know():
    with pytest.raises(json_format.ParseError, match='no field named "step"'):
        parsed(TEXT + "step: []\n")


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("waitFor: [push]", "waitFor: [pushed]", "step submit waits for pushed"),
        ("waitFor: [pinned]", "waitFor: [submit]", "step check waits for submit"),
        ("id: smoke", "id: check", "id 'check': missing, or there twice"),
        ("id: smoke", "dir: smoke", "id '': missing, or there twice"),
        ("name: python:3.12", "name: ''", "step pinned: '' is no image"),
        ("${_REPOSITORY}", "${_REPOSITRY}", "substitution _REPOSITRY is not defined"),
        ("${_REPOSITORY}", "$$_REPOSITORY", "substitution _REPOSITORY is not used"),
        ("  _LOCATION:", "  location:", "substitution location"),
    ],
)
def test_lint_finds(right, wrong, fault):
    assert right in TEXT
    assert fault in faults(TEXT.replace(right, wrong))


def test_own_service_account_is_possible():
    assert BUILD.options.logging == BuildOptions.LoggingMode.CLOUD_LOGGING_ONLY


def test_every_step_is_a_make_target_that_is_there():
    for step in BUILD.steps:
        assert step.entrypoint == "make"
        assert re.search(rf"^{step.args[0]}:", MAKEFILE, re.MULTILINE), step.args


def test_nothing_is_pushed_before_all_that_looks_at_it_has_passed():
    waits = {step.id: set(step.wait_for) for step in BUILD.steps}
    assert waits["push"] == {"check", "test-image", "smoke", "scan"}
    assert waits["images"] == waits["check"] == {"pinned"}
    assert waits["submit"] == {"push"}


@pytest.fixture
def workspace(tmp_path):
    """A checkout with pinned base images, in which `docker`, `gcloud` and the environment's Python
    only take notes.
    """
    for name in ("infra", "requirements"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("Makefile", "setup.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    named = re.compile(r"^((?:FROM|BUILDKIT :=) [^\s$@]+:[\w.-]+)\S*", re.MULTILINE)
    for path in (tmp_path / "Makefile", *(tmp_path / "infra" / "docker").glob("*.Dockerfile")):
        path.write_text(named.sub(rf"\1@{DIGEST}", path.read_text("utf-8")))
    programs = {
        "bin/docker": DOCKER,
        "bin/gcloud": GCLOUD,
        "bin/sleep": RECORDER,
        ".venv/bin/python": RECORDER,
    }
    for name, text in programs.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    for name in ("installed-run-gpu0", "installed-dev"):
        (tmp_path / ".venv" / name).touch()
    return tmp_path


def run_step(workspace, name, *, substitutions=(), **answers):
    """Runs a step's command; gives how it ended, and the lines that the stand-ins wrote."""
    values = (
        dict(BUILD.substitutions)
        | {"PROJECT_ID": "project", "BUILD_ID": "build"}
        | dict(substitutions)
    )
    (step,) = [step for step in BUILD.steps if step.id == name]
    record = workspace / "record"
    record.write_text("")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        **{"PATH": f"{workspace / 'bin'}:{os.environ['PATH']}", "RECORD": str(record), "GPU": "0"},
        **{"HEALTH": "healthy", "FOUND": "", "FAIL": "-"},
        **answers,
    }
    ended = subprocess.run(
        [
            step.entrypoint,
            *(string.Template(argument).substitute(values) for argument in step.args),
        ],
        cwd=workspace,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return ended, record.read_text().splitlines()


def test_images_are_built_with_the_layers_of_earlier_builds(workspace):
    ended, called = run_step(workspace, "images")
    assert ended.returncode == 0, ended.stderr
    assert called == [
        line
        for name, gpu in (("trainer", "--build-arg=GPU=0 "), ("serving", ""))
        for line in (
            "docker buildx inspect whisker",
            "docker buildx create --name=whisker --driver=docker-container"
            f" --driver-opt=image={BUILDKIT}@{DIGEST}",
            "docker buildx build --platform=linux/amd64"
            f" --file infra/docker/{name}.Dockerfile --tag {REGISTRY}/{name}:build {gpu}"
            f"--builder=whisker --load --cache-from=type=registry,ref={REGISTRY}/{name}:cache "
            f"--cache-to=type=registry,ref={REGISTRY}/{name}:cache,mode=max .",
        )
    ]
    assert list(BUILD.images) == [
        "${_LOCATION}-docker.pkg.dev/${PROJECT_ID}/${_REPOSITORY}/" + f"{name}:${{BUILD_ID}}"
        for name in ("trainer", "serving")
    ]


def test_images_are_built_by_docker_alone_where_no_registry_keeps_layers(workspace):
    shown = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "images"],
        cwd=workspace,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert [
        " ".join(line.split()) for line in shown.replace("\\\n", "").splitlines() if line.strip()
    ] == [
        "docker build --platform=linux/amd64"
        f" --file infra/docker/{name}.Dockerfile --tag whisker/{name}:latest {gpu}."
        for name, gpu in (("trainer", "--build-arg=GPU=1 "), ("serving", ""))
    ]


def test_tests_run_inside_the_image_that_was_built(workspace):
    ended, called = run_step(workspace, "test-image")
    assert ended.returncode == 0, ended.stderr
    assert called == [
        (
            "docker build --platform=linux/amd64 --file infra/docker/tests.Dockerfile"
            f" --build-arg=TRAINER={REGISTRY}/trainer:build --tag whisker/tests ."
        ),
        "docker run --rm whisker/tests",
    ]


def test_smoke_trains_serves_asks_and_leaves_nothing_behind(workspace):
    ended, called = run_step(workspace, "smoke")
    assert ended.returncode == 0, ended.stderr
    name = called[0].removeprefix("docker volume create ")
    home = f"{name}:/home/whisker"
    assert called[1:] == [
        (
            f"docker run --rm --volume {home} {REGISTRY}/trainer:build --data=sample"
            " --image_size=32 --epochs=1 --gate=off --run_dir=run --model_dir=models"
        ),
        (
            f"docker run --detach --name {name} --volume {home}:ro {REGISTRY}/serving:build "
            "--model_config_file=/home/whisker/models/models.config"
        ),
        f"docker inspect --format {{{{.State.Health.Status}}}} {name}",
        (
            f"docker run --rm --network container:{name} --volume {home}:ro --entrypoint python"
            f" {REGISTRY}/trainer:build -m serving.predict --label=stable"
            " .cache/whisker/sample-2/test/cats"
        ),
        f"docker rm --force {name}",
        f"docker volume rm {name}",
    ]


@pytest.mark.long
def test_flags_that_smoke_trains_with_publish_what_it_asks_for(tmp_path):
    text = (ROOT / "infra" / "smoke.sh").read_text("utf-8").replace("\\\n", " ")
    (flags,) = re.findall(r'"\$trainer" +(--data=.*)', text)
    assert "--data=sample " in flags
    # Drawing a thousand pictures takes longer than all the rest. On noise one epoch makes a model
    # that says the same of every picture, too, and enough test pictures tell.
    generator = np.random.default_rng(0)
    for label in ("cats", "dogs"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(40):
            noise = Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8))
            noise.save(tmp_path / "pictures" / label / f"{number}.png")
    more = [f"--data={tmp_path}/pictures", "--split=20,20,60"]
    ended = subprocess.run(
        [sys.executable, "-m", "trainer.task", *shlex.split(flags), *more],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    assert "published version 1" in ended.stdout
    (config,) = re.findall(r'--model_config_file=\$home/(\S+)"', text)
    ((label, asked),) = re.findall(r"serving.predict --label=(\S+) (\S+)", text)
    assert f'"{label}"' in (tmp_path / config).read_text("utf-8")
    assert asked == f".cache/whisker/sample-{sources._SAMPLE_SEED}/test/cats"


def test_steps_are_the_targets_of_the_makefile_in_their_order():
    (phony,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    order = [name for name in phony.split() if name != "\\"]
    targets = [step.args[0] for step in BUILD.steps]
    assert targets == order[order.index("require-pinned") :]
    # The page names those of the images in the same order.
    page = (ROOT / "infra" / "README.md").read_text("utf-8")
    (paragraph,) = re.findall(r"`make images` builds both images.*?\n\n", page, re.DOTALL)
    named = re.findall(r"`make ([\w-]+)`", paragraph)
    assert named == [name for name in targets if name in named]
    assert {"images", "test-image", "smoke", "scan", "push"} <= set(named)


def test_smoke_fails_with_the_servers_log_where_it_never_turns_healthy(workspace):
    ended, called = run_step(workspace, "smoke", HEALTH="starting")
    assert ended.returncode != 0
    assert (
        f"smoke: {REGISTRY}/serving:build is starting two minutes after its start" in ended.stderr
    )
    assert called.count("sleep 2") == 59
    name = called[0].removeprefix("docker volume create ")
    assert called[-3:] == [
        f"docker logs {name}",
        f"docker rm --force {name}",
        f"docker volume rm {name}",
    ]


LIST = (
    "artifacts docker images list-vulnerabilities projects/project/locations/us/scans/1"
    " --format=value(vulnerability.effectiveSeverity,noteName)"
)
CRITICAL = "CRITICAL\\tprojects/goog-vulnz/notes/CVE-2"


def test_scan_looks_at_both_images(workspace):
    ended, called = run_step(workspace, "scan", FOUND=CRITICAL.replace("CRITICAL", "HIGH"))
    assert ended.returncode == 0, ended.stderr
    assert called == [
        line
        for name in ("trainer", "serving")
        for line in (
            (
                f"gcloud artifacts docker images scan {REGISTRY}/{name}:build"
                " --format=value(response.scan)"
            ),
            f"gcloud {LIST}",
        )
    ]


@pytest.mark.parametrize(
    ("waivers", "answers", "message"),
    [
        ("", {"FOUND": CRITICAL}, "CRITICAL vulnerabilities: CVE-2; gcloud"),
        ("", {"FOUND": "CRITICAL"}, "CRITICAL vulnerabilities: no name; gcloud"),
        ("CVE-22 9999-12-31 another\n", {"FOUND": CRITICAL}, "vulnerabilities: CVE-2; gcloud"),
        (
            "CVE-2 2000-01-31 nothing calls it\n",
            {"FOUND": f"{CRITICAL}\\n{CRITICAL}0"},
            "CRITICAL vulnerabilities: CVE-2 (its waiver ended on 2000-01-31), CVE-20; gcloud",
        ),
        ("", {"FAIL": LIST}, "make: ***"),
    ],
    ids=["critical", "without a name", "another's waiver", "waiver that ended", "no answer"],
)
def test_scan_fails_where_something_is_critical_or_nobody_knows(
    workspace, waivers, answers, message
):
    (workspace / "infra/scan_waivers.txt").write_text(waivers)
    ended, called = run_step(workspace, "scan", **answers)
    assert ended.returncode != 0
    assert message in ended.stderr
    assert len(called) == 2


def test_waiver_holds_until_its_day(workspace):
    (workspace / "infra/scan_waivers.txt").write_text("CVE-2 9999-12-31 nothing calls it\n")
    ended, called = run_step(workspace, "scan", FOUND=CRITICAL)
    assert ended.returncode == 0, ended.stderr
    assert len(called) == 4


@pytest.mark.parametrize("waiver", ["CVE-2 9999-12-31", "CVE-2 nothing calls it", "CVE-2 soon why"])
def test_waiver_without_a_last_day_or_a_reason_is_refused_before_anything_is_scanned(
    workspace, waiver
):
    (workspace / "infra/scan_waivers.txt").write_text(f"# Why not.\n\n{waiver}\n")
    ended, called = run_step(workspace, "scan", FOUND=CRITICAL)
    assert ended.returncode != 0
    assert called == []
    assert "scan_waivers.txt: CVE-2: expected a last day, such as 2027-01-31, and" in ended.stderr


def test_push_leaves_the_digest_for_the_job(workspace):
    ended, called = run_step(workspace, "push")
    assert ended.returncode == 0, ended.stderr
    assert called[:2] == [
        f"docker push {REGISTRY}/trainer:build",
        f"docker push {REGISTRY}/serving:build",
    ]
    ended, called = run_step(
        workspace,
        "submit",
        substitutions={"_SUBMIT_FLAGS": "--data=gs://bucket/pictures --max_hours=2"}.items(),
    )
    assert ended.returncode == 0, ended.stderr
    assert called == [
        f"python -m trainer.submit --detach --image_uri={REGISTRY}/trainer@{DIGEST}"
        " --data=gs://bucket/pictures --max_hours=2"
    ]


def test_no_job_is_submitted_unless_asked_for(workspace):
    ended, called = run_step(workspace, "submit")
    assert (ended.returncode, called) == (0, [])
    assert "no job asked for" in ended.stdout


@pytest.mark.parametrize("step", ["pinned", "push"])
def test_unpinned_base_images_are_refused_and_nothing_is_pushed(workspace, step):
    assert run_step(workspace, "pinned")[0].returncode == 0
    (workspace / "infra/docker/serving.Dockerfile").write_text("FROM tensorflow/serving:2.20.0\n")
    makefile = (workspace / "Makefile").read_text().replace(f"{BUILDKIT}@{DIGEST}", BUILDKIT)
    (workspace / "Makefile").write_text(makefile)
    ended, called = run_step(workspace, step)
    assert ended.returncode != 0
    assert called == []
    assert (
        f"Makefile: {BUILDKIT}, infra/docker/serving.Dockerfile: tensorflow/serving:2.20.0; run"
        in ended.stderr
    )
