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


KINDS = ("", "cloudbuild", "docker")
DOCKERFILE = "infra/docker/trainer.Dockerfile"
_PIN_CHECK = "infra/pin_images.py"

_CHECKOUT = Path(__file__).parents[2]
_GIT_TIMEOUT_S = 10.0
# The CUDA libraries alone are gigabytes.
_BUILD_TIMEOUT_S = 7200.0
_SHOWN = 10


def is_pinned(image_uri: str) -> bool:
    """Tells whether an image is named by digest, which cannot come to mean another one."""
    return "@sha256:" in image_uri


def require_buildable(kind: str, image_uri: str, checkout: Path = _CHECKOUT) -> None:
    """Refuses what cannot be built.

    Raises:
        ConfigError: the kind is unknown, the name is a digest, or this is no checkout.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"--build={kind}: expected cloudbuild, docker, or nothing for an image that is there"
        )
    if kind and (is_pinned(image_uri) or ":" not in image_uri.rpartition("/")[2]):
        raise ConfigError(
            f"--image_uri={image_uri}: with --build={kind} expected a name and a tag to push to,"
            " such as LOCATION-docker.pkg.dev/PROJECT/REPOSITORY/trainer:mine"
        )
    if kind and not (checkout / DOCKERFILE).is_file():
        raise ConfigError(
            f"--build={kind}: {checkout} has no {DOCKERFILE}; run this from a checkout of Whisker"
        )


def commands(
    kind: str, image_uri: str, project: str, config: str = "build.json"
) -> list[list[str]]:
    """Lists what is run; the last command prints the digest."""
    if kind == "docker":
        return [
            ["docker", "build", "--file", DOCKERFILE, "--tag", image_uri, "."],
            ["docker", "push", image_uri],
            ["docker", "image", "inspect", "--format", "{{json .RepoDigests}}", image_uri],
        ]
    at = f"--project={project or 'PROJECT'}"
    return [
        ["gcloud", "builds", "submit", at, f"--config={config}", "."],
        [
            "gcloud",
            "artifacts",
            "docker",
            "images",
            "describe",
            image_uri,
            at,
            "--format=json(image_summary.digest)",
        ],
    ]


def describe(kind: str, image_uri: str, project: str, checkout: Path = _CHECKOUT) -> list[str]:
    """Says in lines what goes into the image, and by which commands."""
    edits = _uncommitted(checkout)
    if edits is None:
        source = f"everything in {checkout}, which is no git checkout"
    elif edits:
        more = f" and {len(edits) - _SHOWN} more" if len(edits) > _SHOWN else ""
        source = (
            f"this checkout with {len(edits)} files that are not committed:"
            f" {', '.join(edits[:_SHOWN])}{more}"
        )
    else:
        source = "this checkout, of which everything is committed"
    return [
        f"the image is built from {source} (what .dockerignore names is left out)",
        *(shlex.join(command) for command in commands(kind, image_uri, project)),
    ]


def build(
    kind: str,
    image_uri: str,
    project: str,
    *,
    checkout: Path = _CHECKOUT,
) -> str:
    """Builds and pushes the image.

    Args:
        kind: ``cloudbuild`` or ``docker``.
        image_uri: name and tag to push to.
        project: that Cloud Build runs in.
        checkout: what is built.

    Returns:
        The image's name by digest.

    Raises:
        CloudError: the base image is not named by digest, or a command is missing or fails; nothing
            was submitted.
    """
    for line in describe(kind, image_uri, project, checkout):
        logger.info(line)
    _run([sys.executable, _PIN_CHECK, "--check", DOCKERFILE], checkout)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as config:
        # The one step that is needed; cloudbuild.yaml also checks and tests.
        arguments = commands("docker", image_uri, project)[0][1:]
        json.dump(
            {
                "steps": [{"name": "gcr.io/cloud-builders/docker", "args": arguments}],
                "images": [image_uri],
                "timeout": f"{_BUILD_TIMEOUT_S:.0f}s",
            },
            config,
        )
        config.flush()
        *work, ask = commands(kind, image_uri, project, config.name)
        for command in work:
            _run(command, checkout)
        answer = _run(ask, checkout, capture=True)
    repository = image_uri.rpartition(":")[0]
    digest = _digest(json.loads(answer), repository)
    if not digest:
        raise CloudError(
            f"{shlex.join(ask)}: names no digest of {repository}; push the image, and give it by"
            " digest"
        )
    return f"{repository}@{digest}"


def _digest(answer: object, repository: str) -> str:
    if isinstance(answer, dict):
        return str(answer.get("image_summary", {}).get("digest", ""))
    names = [str(name) for name in answer] if isinstance(answer, list) else []
    return next((name.partition("@")[2] for name in names if name.startswith(f"{repository}@")), "")


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


def _uncommitted(checkout: Path) -> list[str] | None:
    """Files that differ from the last commit; None where nobody can tell."""
    try:
        status = subprocess.run(
            ["git", "-C", str(checkout), "status", "--porcelain"],
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return [line[3:] for line in status.splitlines()]
