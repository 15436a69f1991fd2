"""What the job service refuses and its message types let through, found before anything is sent.

From the descriptions of CustomJob, CustomJobSpec and Scheduling in google-cloud-aiplatform 2.7.0,
and docs.cloud.google.com/vertex-ai/docs/training/distributed-training, read on 2026-11-22.
"""

import re
from collections.abc import Mapping
from typing import Any

from trainer.cloud.machines import require_possible
from trainer.errors import ConfigError

_LABEL = re.compile(r"[\w-]{0,63}")
_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z0-9][a-z0-9-]*")
_MOST_POOLS = 4


def require_place(project: str, region: str) -> None:
    """Refuses what is no project or region, by its form alone.

    Raises:
        ConfigError: the form is wrong.
    """
    if not _PROJECT.fullmatch(project):
        raise ConfigError(
            f"--project={project}: expected the id or number of a Google Cloud project, such as"
            " my-project"
        )
    if not _REGION.fullmatch(region):
        raise ConfigError(
            f"--region={region}: expected a region, such as us-central1 (a zone such as"
            " us-central1-a is none)"
        )


def require_acceptable(spec: Mapping[str, Any]) -> None:
    """Refuses a job that the service would refuse, or run otherwise than meant.

    Args:
        spec: fields of a CustomJobSpec in camelCase, which its message type takes.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    pools = spec.get("workerPoolSpecs", [])
    if not 1 <= len(pools) <= _MOST_POOLS:
        raise ConfigError(
            f"workerPoolSpecs: expected 1 to {_MOST_POOLS} pools, received {len(pools)}"
        )
    for number, pool in enumerate(pools):
        if pool or number == 0:
            _require_pool(number, pool)
    account = spec.get("serviceAccount", "")
    if account and not (account.endswith(".gserviceaccount.com") and account.count("@") == 1):
        raise ConfigError(
            f"--service_account={account}: expected an address such as"
            " name@project.iam.gserviceaccount.com"
        )
    if spec.get("tensorboard") and not account:
        raise ConfigError(
            "tensorboard: the service writes there as a service account; give --service_account"
        )


def require_labels(labels: Mapping[str, str]) -> None:
    """Refuses labels that the service would refuse.

    Raises:
        ConfigError: the first that is wrong.
    """
    for key, value in labels.items():
        for text in (key, value):
            if not _LABEL.fullmatch(text) or text != text.lower():
                raise ConfigError(
                    f"label {key}={value}: expected at most 63 lowercase letters, digits, dashes"
                    " and underscores"
                )


def _require_pool(number: int, pool: Mapping[str, Any]) -> None:
    replicas = int(pool.get("replicaCount", 0))
    if number == 0 and replicas != 1:
        raise ConfigError(
            f"workerPoolSpecs[0]: expected one replica, the chief, received {replicas}; others go"
            " in pool 1"
        )
    if replicas < 1:
        raise ConfigError(
            f"workerPoolSpecs[{number}]: expected at least one replica, or an empty pool"
        )
    if not pool.get("containerSpec", {}).get("imageUri"):
        raise ConfigError(f"workerPoolSpecs[{number}]: no image; give --image_uri")
    machine = pool.get("machineSpec", {})
    require_possible(
        machine.get("machineType", ""),
        machine.get("acceleratorType", ""),
        int(machine.get("acceleratorCount", 0)),
    )
