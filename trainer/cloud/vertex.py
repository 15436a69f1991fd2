"""A training run as a custom job of Vertex AI: the job's specification, checked and written as
YAML.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from google.cloud.aiplatform_v1.types import CustomJobSpec
from google.protobuf import json_format

from trainer.cloud.submission import Submission, require_acceptable, require_labels
from trainer.errors import ConfigError

# What runs in the container, spelled out so that any image that holds the trainer will do.
COMMAND = ("python", "-m", "trainer.task")

# Marks a job with what it runs, so that the same is not run twice.
LABEL = "whisker-spec"

_MAX_DISPLAY_NAME = 128  # characters, from the description of CustomJob.display_name
_REQUIRE_GPU = "--require_gpu="


def specification(submission: Submission, arguments: Sequence[str]) -> dict[str, Any]:
    """Describes one run, in the form of the service's CustomJobSpec message.

    Args:
        submission: where, on what and for how long.
        arguments: flags of ``trainer.task``, each as ``--name=value``.

    Returns:
        The message's fields in camelCase.

    Raises:
        ConfigError: the service could not run this.
    """
    require_image(submission.image_uri)
    machine_spec: dict[str, Any] = {"machineType": submission.machine}
    if submission.accelerator:
        machine_spec |= {
            "acceleratorType": submission.accelerator,
            "acceleratorCount": submission.accelerator_count,
        }
    # A list, as the message has it; some of the service's own pages show a map, which the message
    # refuses. The chief has a pool of its own: the service takes no other number there.
    pools = [
        {
            "machineSpec": dict(machine_spec),
            "replicaCount": replicas,
            "containerSpec": {
                "imageUri": submission.image_uri,
                "command": list(COMMAND),
                "args": with_gpu_required(arguments, submission.accelerator),
            },
        }
        for replicas in (1, submission.workers - 1)
        if replicas
    ]
    spec: dict[str, Any] = {
        "workerPoolSpecs": pools,
        "scheduling": {"timeout": f"{submission.budget.timeout_s}s"},
    }
    if submission.spot:
        spec["scheduling"]["strategy"] = "SPOT"
    if submission.workers > 1:
        # A worker that comes back alone finds nobody to meet: all of them have to begin again, from
        # the checkpoint.
        spec["scheduling"]["restartJobOnWorkerRestart"] = True
    if submission.service_account:
        spec["serviceAccount"] = submission.service_account
    require_message(spec)
    require_acceptable(spec)
    return spec


def require_message(spec: Mapping[str, Any]) -> CustomJobSpec:
    """Makes the service's own message of a specification.

    Raises:
        ConfigError: its type refuses a field or a value.
    """
    message = CustomJobSpec()
    try:
        json_format.ParseDict(spec, CustomJobSpec.pb(message))
    except json_format.ParseError as error:
        raise ConfigError(
            f"the service's CustomJobSpec refuses these settings: {' '.join(str(error).split())}"
        ) from error
    return message


def require_image(image_uri: str) -> None:
    """Refuses what cannot be an image.

    Raises:
        ConfigError: it is empty, or has characters that no image's name has.
    """
    if not image_uri or not image_uri.isprintable() or " " in image_uri:
        raise ConfigError(
            f"--image_uri={image_uri}: expected the image that holds the trainer, "
            "such as LOCATION-docker.pkg.dev/PROJECT/REPOSITORY/trainer@sha256:…"
        )


def with_gpu_required(arguments: Sequence[str], accelerator: str) -> list[str]:
    """Adds ``--require_gpu=true`` where a GPU is paid for and the user did not say otherwise.

    Raises:
        ConfigError: a GPU is required, and none asked for.
    """
    given = [argument for argument in arguments if argument.startswith(_REQUIRE_GPU)]
    if f"{_REQUIRE_GPU}true" in given and not accelerator:
        raise ConfigError(
            "--require_gpu without an accelerator would fail at once: give --accelerator, or leave"
            " it out"
        )
    # A paid GPU that TensorFlow does not see would otherwise stand idle while the CPU trains.
    return [*arguments, f"{_REQUIRE_GPU}true"] if accelerator and not given else list(arguments)


def labels(spec: Mapping[str, Any], display_name: str) -> dict[str, str]:
    """Labels by which the same run is known again: same image, flags, machines, limits and name.

    Raises:
        ConfigError: the service does not take such a name.
    """
    if not 1 <= len(display_name) <= _MAX_DISPLAY_NAME or not display_name.isprintable():
        raise ConfigError(
            f"--display_name={display_name!r}: expected 1 to {_MAX_DISPLAY_NAME} printable"
            " characters, such as whisker"
        )
    content = json.dumps([display_name, spec], sort_keys=True).encode()
    made = {LABEL: hashlib.sha256(content).hexdigest()[:32]}
    require_labels(made)
    return made


def send_command(spec: Mapping[str, Any], display_name: str, *, project: str, region: str) -> str:
    """Writes the command that sends a specification which was saved as ``job.yaml``."""
    marks = ",".join(f"{key}={value}" for key, value in labels(spec, display_name).items())
    return (
        f"gcloud ai custom-jobs create --project={project or 'PROJECT'}"
        f" --region={region or 'REGION'} --display-name={shlex.quote(display_name)}"
        f" --labels={marks} --config=job.yaml"
    )


def to_yaml(content: Mapping[str, Any], comments: Sequence[str]) -> str:
    """Writes a specification, or an object of Kubernetes, below lines of comment."""
    return "".join(f"# {line}\n" for line in comments) + yaml.safe_dump(
        dict(content), sort_keys=False, allow_unicode=True, width=float("inf")
    )
