"""How local edits reach the job: the image, built from this checkout, pushed, and named by digest.

Commands: docs.docker.com/reference/cli/docker/ and cloud.google.com/sdk/gcloud/reference (builds
submit, artifacts docker images describe), read on 2026-11-22.
"""

import json
import logging
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from trainer.cloud import CHECKOUT, DOCKERFILE, Submission
from trainer.errors import CloudError

logger = logging.getLogger(__name__)

_PIN_CHECK = "infra/pin_images.py"

# What infra/terraform makes for builds: who runs them, and where their sources lie.
_BUILDER = "whisker-builder"
_SOURCES = "whisker-builds/source"

# Of the machines that the job runs on, wherever the image is built.
PLATFORM = "linux/amd64"

# The CUDA libraries alone are gigabytes.
_BUILD_TIMEOUT_S = 7200.0
_SHOWN = 10


def commands(submission: Submission, config: str = "build.json") -> list[str]:
    """Lists what is run, as lines of a shell; the last command prints the digest.

    Cloud Build uses what infra/terraform has made, as the command of infra/README.md does.
    """
    image_uri = submission.image_uri
    if submission.build == "docker":
        return [
            f"docker {_docker_build(image_uri)}",
            f"docker push {image_uri}",
            f"docker image inspect --format '{{{{json .RepoDigests}}}}' {image_uri}",
        ]
    project = submission.project or "PROJECT"
    account = f"{_BUILDER}@{project}.iam.gserviceaccount.com"
    return [
        f"gcloud builds submit --project={project} --region={submission.region or 'REGION'}"
        f" --config={shlex.quote(config)}"
        f" --service-account=projects/{project}/serviceAccounts/{account}"
        f" --gcs-source-staging-dir=gs://{project}-{_SOURCES} .",
        f"gcloud artifacts docker images describe {image_uri} --project={project}"
        " '--format=json(image_summary.digest)'",
    ]


def _docker_build(image_uri: str) -> str:
    return f"build --platform={PLATFORM} --file {DOCKERFILE} --tag {image_uri} ."


def describe(submission: Submission, checkout: Path = CHECKOUT) -> list[str]:
    """Says in lines what goes into the image, and by which commands."""
    # It needs the extra `cloud`: not for --help or a mistyped flag.
    from trainer.run_folder import git

    status = git(checkout, "status", "--porcelain")
    if status is None:
        source = f"everything in {checkout}, which is no git checkout"
    elif edits := [line[3:] for line in status.splitlines()]:
        more = f" and {len(edits) - _SHOWN} more" if len(edits) > _SHOWN else ""
        source = (
            f"this checkout with {len(edits)} files that are not committed:"
            f" {', '.join(edits[:_SHOWN])}{more}"
        )
    else:
        source = "this checkout, of which everything is committed"
    text = f"the image is built from {source} (what .dockerignore names is left out)"
    return [text, *commands(submission)]


def build(submission: Submission, checkout: Path = CHECKOUT) -> str:
    """Builds and pushes the image; gives its name by digest.

    Raises:
        CloudError: the base image is not named by digest, or a command is missing or fails; nothing
            was submitted.
    """
    for line in describe(submission, checkout):
        logger.info(line)
    _run(f"{shlex.quote(sys.executable)} {_PIN_CHECK} --check {DOCKERFILE}", checkout)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as config:
        # The one step that is needed; cloudbuild.yaml also checks and tests.
        arguments = shlex.split(_docker_build(submission.image_uri))
        content = {
            "steps": [{"name": "gcr.io/cloud-builders/docker", "args": arguments}],
            "images": [submission.image_uri],
            "timeout": f"{_BUILD_TIMEOUT_S:.0f}s",
            # Without it a service account of one's own is refused.
            "options": {"logging": "CLOUD_LOGGING_ONLY"},
        }
        config.write(json.dumps(content))
        config.flush()
        *work, show = commands(submission, config.name)
        for command in work:
            _run(command, checkout)
        answer = json.loads(_run(show, checkout, stdout=subprocess.PIPE))
    repository = submission.image_uri.rpartition(":")[0]
    if submission.build == "cloudbuild":
        answer = [f"{repository}@{answer['image_summary']['digest']}"] if answer else []
    # Docker names one digest for each repository that has the image.
    for name in answer or []:
        if name.startswith(f"{repository}@"):
            return name
    raise CloudError(
        f"{show}: names no digest of {repository}; push the image, and give it by digest"
    )


def _run(command: str, checkout: Path, stdout: int | None = None) -> str:
    try:
        return subprocess.run(
            shlex.split(command),
            cwd=checkout,
            check=True,
            text=True,
            stdout=stdout,
            timeout=_BUILD_TIMEOUT_S,
        ).stdout
    except FileNotFoundError as error:
        raise CloudError(
            f"{command.split()[0]} is not installed: install it, or give another --build"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise CloudError(
            f"{command}: did not end within {_BUILD_TIMEOUT_S:.0f} s; nothing was submitted"
        ) from error
    except subprocess.CalledProcessError as error:
        raise CloudError(
            f"{command}: ended with {error.returncode}; nothing was submitted; its own lines are"
            " above"
        ) from error
