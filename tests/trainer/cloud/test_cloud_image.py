"""Building with stand-ins for docker and gcloud that record what they are asked."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from google.cloud.devtools.cloudbuild_v1.types import Build
from google.protobuf import json_format

from tests.trained_model import logged
from trainer.cloud import DOCKERFILE, Submission, image, is_pinned, require_buildable, require_form
from trainer.errors import CloudError, ConfigError

ROOT = Path(__file__).parents[3]
NAME = "us-docker.pkg.dev/p/r/trainer:mine"
DIGEST = "sha256:" + "0a" * 32

STAND_IN = """#!/bin/sh
echo "$(basename "$0")" "$@" >> "{log}"
for argument in "$@"; do
  case "$argument" in --config=*) cat "${{argument#--config=}}" > "{log}.config" ;; esac
done
case "$*" in
  *inspect*) echo '["other.dev/x@sha256:ff", "us-docker.pkg.dev/p/r/trainer@{digest}"]' ;;
  *describe*) echo '{{"image_summary": {{"digest": "{digest}"}}}}' ;;
  *push*) exit {push} ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("an image has no git to make a checkout with")
    folder = tmp_path / "checkout"
    (folder / "infra" / "docker").mkdir(parents=True)
    (folder / DOCKERFILE).write_text(f"FROM python:3.12-slim@{DIGEST}\n")
    shutil.copy(ROOT / "infra" / "pin_images.py", folder / "infra")
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["-c", "user.name=n", "-c", "user.email=e", "commit", "--quiet", "--message=m"],
    ):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return folder


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Gives a function that puts both stand-ins on the path; the file that they write to is its
    answer.
    """

    def install(push=0):
        log = tmp_path / "log"
        for name in ("docker", "gcloud"):
            script = tmp_path / "bin" / name
            script.parent.mkdir(exist_ok=True)
            script.write_text(STAND_IN.format(log=log, digest=DIGEST, push=push))
            script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
        return log

    return install


def asked(kind):
    return Submission(build=kind, image_uri=NAME, project="p", region="us-central1", dry_run=True)


def build(kind, checkout):
    with logged() as lines:
        return image.build(asked(kind), checkout), lines


def test_docker_builds_pushes_and_names_the_image_by_the_digest_of_its_repository(checkout, tools):
    log = tools()
    name, lines = build("docker", checkout)
    assert name == f"us-docker.pkg.dev/p/r/trainer@{DIGEST}"
    assert is_pinned(name)
    assert log.read_text().splitlines() == [
        "docker build --platform=linux/amd64 --file infra/docker/trainer.Dockerfile"
        f" --tag {NAME} .",
        f"docker push {NAME}",
        f"docker image inspect --format {{{{json .RepoDigests}}}} {NAME}",
    ]
    assert lines[0].startswith(
        "the image is built from this checkout, of which everything is committed"
    )


def test_cloud_build_gets_one_step_that_builds_the_same(checkout, tools):
    log = tools()
    assert build("cloudbuild", checkout)[0] == f"us-docker.pkg.dev/p/r/trainer@{DIGEST}"
    first, second = log.read_text().splitlines()
    assert first.startswith("gcloud builds submit --project=p --region=us-central1 --config=")
    assert first.endswith(
        " --service-account=projects/p/serviceAccounts/whisker-builder@p.iam.gserviceaccount.com"
        " --gcs-source-staging-dir=gs://p-whisker-builds/source ."
    )
    assert second.startswith(f"gcloud artifacts docker images describe {NAME} --project=p")
    config = json.loads(log.with_suffix(".config").read_text())
    assert config["images"] == [NAME]
    assert config["steps"][0]["args"][:4] == [
        "build",
        "--platform=linux/amd64",
        "--file",
        DOCKERFILE,
    ]
    # A service account of one's own is accepted only with this.
    assert config["options"] == {"logging": "CLOUD_LOGGING_ONLY"}
    json_format.ParseDict(config, Build.pb(Build()))


def test_files_that_are_not_committed_are_named(checkout):
    (checkout / "edited.py").write_text("")
    assert (
        "with 1 files that are not committed: edited.py"
        in image.describe(asked("docker"), checkout)[0]
    )


def test_folder_without_git_is_said_to_go_in_whole(tmp_path):
    assert (
        f"everything in {tmp_path}, which is no git checkout"
        in image.describe(asked("docker"), tmp_path)[0]
    )


def test_command_that_fails_ends_the_build_with_nothing_submitted(checkout, tools):
    tools(push=3)
    with pytest.raises(
        CloudError,
        match=f"docker push {NAME}: ended with 3; nothing was submitted",
    ):
        build("docker", checkout)


def test_base_image_that_a_tag_names_is_not_built_on(checkout, tools, capfd):
    log = tools()
    (checkout / DOCKERFILE).write_text("FROM python:3.12-slim\n")
    with pytest.raises(CloudError, match="nothing was submitted; its own lines are above"):
        build("docker", checkout)
    assert "make pin-images" in capfd.readouterr().err
    assert not log.exists()


def test_missing_command_is_named(checkout, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        CloudError, match="docker is not installed: install it, or give another --build"
    ):
        build("docker", checkout)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("docker", f"example.dev/t@{DIGEST}", "with --build=docker expected a name and a tag"),
        ("docker", "example.dev:5000/t", "with --build=docker expected a name and a tag"),
    ],
)
def test_name_that_cannot_be_pushed_to_is_refused(checkout, kind, name, message):
    with pytest.raises(ConfigError, match=message):
        require_buildable(kind, name, "p", checkout)


def test_folder_without_the_dockerfile_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match="has no infra/docker/trainer.Dockerfile; run this from a checkout"
    ):
        require_buildable("cloudbuild", NAME, "p", tmp_path)


@pytest.mark.parametrize("project", ["123456", "example.com:my-project"])
def test_project_whose_builder_has_another_name_is_refused(checkout, project):
    with pytest.raises(ConfigError, match=f"--project={project}: --build=cloudbuild expects"):
        require_buildable("cloudbuild", NAME, project, checkout)


def test_build_uses_what_the_page_s_command_uses_and_terraform_makes():
    page = (ROOT / "infra" / "README.md").read_text("utf-8")
    (command,) = re.findall(r"gcloud builds submit --region.*?\s\.\n", page, re.DOTALL)
    for name, value in (("PROJECT", "p"), ("REGION", "us-central1")):
        command = command.replace(f"${name}", value)
    ours = shlex.split(image.commands(asked("cloudbuild"))[0])
    same = ("--region=", "--service-account=", "--gcs-source-staging-dir=")
    assert [word for word in ours if word.startswith(same)] == [
        word for word in shlex.split(command) if word.startswith(same)
    ]
    terraform = "".join(path.read_text("utf-8") for path in (ROOT / "infra/terraform").glob("*.tf"))
    assert 'account_id   = "whisker-builder"' in terraform
    assert '"${var.project}-whisker-${each.key}"' in terraform
    assert re.search(r"^    builds = \d+$", terraform, re.MULTILINE)


@pytest.mark.parametrize(
    "name",
    [
        "--help:1",
        "-t:1",
        "a b",
        "a\nb:1",
        "Trainer:1",
        "x/y:",
        "x:1 ",
        "x/--help:1",
        "$(id):1",
        "a:1@x",
    ],
)
def test_what_is_no_image_is_refused(name):
    with pytest.raises(ConfigError, match="expected the image that holds the trainer"):
        require_form(image_uri=name)


@pytest.mark.parametrize(
    "name",
    [
        NAME,
        f"us-docker.pkg.dev/p/r/trainer@{DIGEST}",
        f"localhost:5000/a__b/c.d-e:1_2.3@{DIGEST}",
        "trainer",
        "eu.gcr.io/example.com/my-project/trainer:latest",
    ],
)
def test_name_that_docker_takes_passes(name):
    require_form(image_uri=name)
