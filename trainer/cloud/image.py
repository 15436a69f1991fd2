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

from trainer.errors import CloudError, ConfigError

logger = logging.getLogger(__name__)


DOCKERFILE = "infra/docker/trainer.Dockerfile"
_PIN_CHECK = "infra/pin_images.py"

# What infra/terraform makes for builds: who runs them, and where their sources lie.
_BUILDER = "whisker-builder"
_SOURCES = "whisker-builds/source"

# Of the machines that the job runs on, wherever the image is built.
PLATFORM = "linux/amd64"

_CHECKOUT = Path(__file__).parents[2]
# The CUDA libraries alone are gigabytes.
_BUILD_TIMEOUT_S = 7200.0
_SHOWN = 10


def is_pinned(image_uri: str) -> bool:
    """Tells whether an image is named by digest, which cannot come to mean another one."""
    return "@sha256:" in image_uri


def require_buildable(kind: str, image_uri: str, project: str, checkout: Path = _CHECKOUT) -> None:
    """Refuses what cannot be built.

    Args:
        kind: ``cloudbuild`` or ``docker``.
        image_uri: name and tag to push to.
        project: that Cloud Build runs in; empty: not known yet.
        checkout: what is built.

    Raises:
        ConfigError: the name is a digest, the project is not given by its id, or this is no
            checkout.
    """
    if kind == "cloudbuild" and (":" in project or project.isdecimal()):
        raise ConfigError(
            f"--project={project}: --build=cloudbuild expects the project's id, such as my-project:"
            " the names that infra/terraform gives to builder and bucket begin with it"
        )
    if is_pinned(image_uri) or ":" not in image_uri.rpartition("/")[2]:
        raise ConfigError(
            f"--image_uri={image_uri}: with --build={kind} expected a name and a tag to push to,"
            " such as LOCATION-docker.pkg.dev/PROJECT/REPOSITORY/trainer:mine"
        )
    if not (checkout / DOCKERFILE).is_file():
        raise ConfigError(
            f"--build={kind}: {checkout} has no {DOCKERFILE}; run this from a checkout of Whisker"
        )


def commands(
    kind: str, image_uri: str, project: str, region: str, config: str = "build.json"
) -> list[list[str]]:
    """Lists what is run; the last command prints the digest.

    Cloud Build uses what infra/terraform has made, as the command of infra/README.md does.
    """
    if kind == "docker":
        return [
            [
                *("docker", "build", f"--platform={PLATFORM}", "--file", DOCKERFILE),
                *("--tag", image_uri, "."),
            ],
            ["docker", "push", image_uri],
            ["docker", "image", "inspect", "--format", "{{json .RepoDigests}}", image_uri],
        ]
    project = project or "PROJECT"
    account = f"{_BUILDER}@{project}.iam.gserviceaccount.com"
    return [
        [
            *("gcloud", "builds", "submit", f"--project={project}"),
            f"--region={region or 'REGION'}",
            f"--config={config}",
            f"--service-account=projects/{project}/serviceAccounts/{account}",
            f"--gcs-source-staging-dir=gs://{project}-{_SOURCES}",
            ".",
        ],
        [
            *("gcloud", "artifacts", "docker", "images", "describe", image_uri),
            f"--project={project}",
            "--format=json(image_summary.digest)",
        ],
    ]


def describe(
    kind: str, image_uri: str, project: str, region: str, checkout: Path = _CHECKOUT
) -> list[str]:
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
    return [
        f"the image is built from {source} (what .dockerignore names is left out)",
        *(shlex.join(command) for command in commands(kind, image_uri, project, region)),
    ]


def build(
    kind: str, image_uri: str, project: str, region: str, *, checkout: Path = _CHECKOUT
) -> str:
    """Builds and pushes the image.

    Args:
        kind: ``cloudbuild`` or ``docker``.
        image_uri: name and tag to push to.
        project: that Cloud Build runs in.
        region: where it runs.
        checkout: what is built.

    Returns:
        The image's name by digest.

    Raises:
        CloudError: the base image is not named by digest, or a command is missing or fails; nothing
            was submitted.
    """
    for line in describe(kind, image_uri, project, region, checkout):
        logger.info(line)
    _run([sys.executable, _PIN_CHECK, "--check", DOCKERFILE], checkout)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as config:
        # The one step that is needed; cloudbuild.yaml also checks and tests.
        arguments = commands("docker", image_uri, project, region)[0][1:]
        json.dump(
            {
                "steps": [{"name": "gcr.io/cloud-builders/docker", "args": arguments}],
                "images": [image_uri],
                "timeout": f"{_BUILD_TIMEOUT_S:.0f}s",
                # Without it a service account of one's own is refused.
                "options": {"logging": "CLOUD_LOGGING_ONLY"},
            },
            config,
        )
        config.flush()
        *work, show = commands(kind, image_uri, project, region, config.name)
        for command in work:
            _run(command, checkout)
        answer = json.loads(_run(show, checkout, capture=True))
    repository = image_uri.rpartition(":")[0]
    if kind == "cloudbuild":
        answer = [f"{repository}@{answer['image_summary']['digest']}"] if answer else []
    # Docker names one digest for each repository that has the image.
    for name in answer or []:
        if name.startswith(f"{repository}@"):
            return name
    raise CloudError(
        f"{shlex.join(show)}: names no digest of {repository}; push the image, and give it by"
        " digest"
    )


def _run(command: list[str], checkout: Path, *, capture: bool = False) -> str:
    try:
        ended = subprocess.run(
            command,
            cwd=checkout,
            check=True,
            text=True,
            stdout=subprocess.PIPE if capture else None,
            timeout=_BUILD_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise CloudError(
            f"{command[0]} is not installed: install it, or give another --build"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise CloudError(
            f"{shlex.join(command)}: did not end within {_BUILD_TIMEOUT_S:.0f} s"
        ) from error
    except subprocess.CalledProcessError as error:
        raise CloudError(
            f"{shlex.join(command)}: ended with {error.returncode}; nothing was submitted; its own"
            " lines are above"
        ) from error
    return ended.stdout or ""
