"""A training run as a custom job of Vertex AI: the job's specification, checked and written as YAML."""

import shlex
from collections.abc import Sequence
from typing import Any

import yaml
from google.cloud.aiplatform_v1.types import CustomJobSpec
from google.protobuf import json_format

from trainer.cloud.machines import require_possible, unchecked
from trainer.errors import ConfigError

# What runs in the container, spelled out so that any image that holds the trainer will do.
COMMAND = ("python", "-m", "trainer.task")

# The service's own limit is seven days; a forgotten job should not cost a week.
TIMEOUT_S = 24 * 60 * 60

_MAX_DISPLAY_NAME = 128  # characters, from the description of CustomJob.display_name
_REQUIRE_GPU = "--require_gpu="


def specification(
    *,
    image_uri: str,
    arguments: Sequence[str],
    machine: str,
    accelerator: str,
    accelerator_count: int,
    timeout_s: int = TIMEOUT_S,
) -> dict[str, Any]:
    """Describes one run on one machine, in the form of the service's CustomJobSpec message.

    Args:
        image_uri: container image that holds the trainer.
        arguments: flags of ``trainer.task``, each as ``--name=value``.
        machine: machine type, such as ``g2-standard-8``.
        accelerator: accelerator type, such as ``NVIDIA_L4``; empty for a machine without.
        accelerator_count: accelerators in the machine; without `accelerator` of no account.
        timeout_s: seconds after which the service ends the job.

    Returns:
        The message's fields in camelCase.

    Raises:
        ConfigError: the service could not run this.
    """
    if not image_uri or not image_uri.isprintable() or " " in image_uri:
        raise ConfigError(
            f"--image_uri={image_uri}: expected the image that holds the trainer, "
            "such as LOCATION-docker.pkg.dev/PROJECT/REPOSITORY/trainer@sha256:…"
        )
    require_possible(machine, accelerator, accelerator_count)
    machine_spec: dict[str, Any] = {"machineType": machine}
    if accelerator:
        machine_spec |= {"acceleratorType": accelerator, "acceleratorCount": accelerator_count}
    spec = {
        # A list, as the message has it; some of the service's own pages show a map, which the message refuses.
        "workerPoolSpecs": [
            {
                "machineSpec": machine_spec,
                "replicaCount": 1,
                "containerSpec": {
                    "imageUri": image_uri,
                    "command": list(COMMAND),
                    "args": _with_gpu_required(arguments, accelerator),
                },
            }
        ],
        "scheduling": {"timeout": f"{timeout_s}s"},
    }
    try:
        json_format.ParseDict(spec, CustomJobSpec.pb(CustomJobSpec()))
    except json_format.ParseError as error:
        raise ConfigError(
            f"the service's CustomJobSpec refuses these settings: {' '.join(str(error).split())}"
        ) from error
    return spec


def _with_gpu_required(arguments: Sequence[str], accelerator: str) -> list[str]:
    given = [argument for argument in arguments if argument.startswith(_REQUIRE_GPU)]
    if f"{_REQUIRE_GPU}true" in given and not accelerator:
        raise ConfigError(
            "--require_gpu without an accelerator would fail at once: give --accelerator, or leave it out"
        )
    # A paid GPU that TensorFlow does not see would otherwise stand idle while the CPU trains.
    return [*arguments, f"{_REQUIRE_GPU}true"] if accelerator and not given else list(arguments)


def send_command(display_name: str) -> str:
    """Writes the command that sends a specification which was saved as ``job.yaml``.

    Raises:
        ConfigError: the service does not take such a name.
    """
    if not 1 <= len(display_name) <= _MAX_DISPLAY_NAME or not display_name.isprintable():
        raise ConfigError(
            f"--display_name={display_name!r}: expected 1 to {_MAX_DISPLAY_NAME} printable characters, such as whisker"
        )
    return (
        "gcloud ai custom-jobs create --project=PROJECT --region=REGION "
        f"--display-name={shlex.quote(display_name)} --config=job.yaml"
    )


def to_yaml(spec: dict[str, Any], *, display_name: str, run_dir: str) -> str:
    """Writes a specification as the file that ``gcloud ai custom-jobs create --config`` reads.

    Args:
        spec: what `specification` returned.
        display_name: the job's name in the console.
        run_dir: the run's folder; where it is empty the comments warn that the folder ends with the machine.

    Returns:
        YAML below comment lines that say how to send it and what nobody has checked.
    """
    pool = spec["workerPoolSpecs"][0]
    image_uri = pool["containerSpec"]["imageUri"]
    not_checked = [
        "credentials, permissions, quota, price, and whether the region has this machine",
        f"that {image_uri} exists and holds this checkout",
        "that the job's service account may read and write the buckets named below",
        unchecked(pool["machineSpec"]["machineType"], pool["machineSpec"].get("acceleratorType", "")),
    ]
    lines = [
        f"Saved as job.yaml, sent by: {send_command(display_name)}",
        "Not checked:",
        *(f"- {fact}" for fact in not_checked if fact),
    ]
    if "@sha256:" not in image_uri:
        lines.append("Note: the image is named by a tag, which can move; name it by digest to run what was tested.")
    if not run_dir:
        lines.append("Note: without --run_dir=gs://… report, metrics and checkpoints are lost with the machine.")
    return "".join(f"# {line}\n" for line in lines) + yaml.safe_dump(
        spec, sort_keys=False, allow_unicode=True, width=float("inf")
    )
