"""A training run as a plain Kubernetes Job: one pod, ended for good by what a restart would not mend.

Kubeflow's trainer has no runtime for TensorFlow any more (kubeflow/trainer#2699, 2025-08-11). Labels of nodes and the
25 s are those of Google's Kubernetes Engine, as of 2026-11-22 (cloud.google.com/kubernetes-engine/docs/how-to/gpus and
…/concepts/spot-vms).
"""

import re
from collections.abc import Sequence
from typing import Any

from serving.errors import EXIT_USAGE
from trainer.cloud.vertex import COMMAND, require_image, with_gpu_required
from trainer.errors import ConfigError

# A Spot pod gets 25 s at most between SIGTERM and SIGKILL.
_GRACE_S = 25
_RESTARTS = 6
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?")


def manifest(
    *,
    name: str,
    image_uri: str,
    arguments: Sequence[str],
    accelerator: str,
    accelerator_count: int,
    spot: bool,
    service_account: str,
    timeout_s: int,
) -> dict[str, Any]:
    """Describes one run as a ``batch/v1`` Job.

    Args:
        name: of the Job.
        image_uri: container image that holds the trainer.
        arguments: flags of ``trainer.task``, each as ``--name=value``.
        accelerator: accelerator type as Vertex AI calls it, such as ``NVIDIA_L4``; empty: none.
        accelerator_count: accelerators of the pod.
        spot: whether it may be put on machines that can be taken away.
        service_account: Kubernetes service account that the pod runs as; empty: the namespace's default.
        timeout_s: seconds after which the Job is ended.

    Returns:
        The object, as ``kubectl create`` reads it.

    Raises:
        ConfigError: Kubernetes could not run this.
    """
    require_image(image_uri)
    for flag, value in (("display_name", name), ("service_account", service_account or "default")):
        if not _NAME.fullmatch(value):
            raise ConfigError(
                f"--{flag}={value}: expected a name of Kubernetes: at most 53 lowercase letters, digits and dashes"
            )
    if accelerator and accelerator_count < 1:
        raise ConfigError(f"--accelerator_count={accelerator_count}: expected at least 1")
    container: dict[str, Any] = {
        "name": "trainer",
        "image": image_uri,
        "command": list(COMMAND),
        "args": with_gpu_required(arguments, accelerator),
        # NCCL passes gradients between GPUs through shared memory, of which a pod has 64 MB by default.
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],  # noqa: S108
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_S,
        "securityContext": {"runAsNonRoot": True},
        "containers": [container],
        "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}],
    }
    if accelerator:
        container["resources"] = {"limits": {"nvidia.com/gpu": accelerator_count}}
        pod["nodeSelector"] = {"cloud.google.com/gke-accelerator": accelerator.lower().replace("_", "-")}
    if spot:
        pod.setdefault("nodeSelector", {})["cloud.google.com/gke-spot"] = "true"
    if service_account:
        pod["serviceAccountName"] = service_account
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "whisker-trainer"}},
        "spec": {
            "backoffLimit": _RESTARTS,
            "activeDeadlineSeconds": timeout_s,
            "podFailurePolicy": {
                "rules": [
                    # Wrong settings, or no GPU where one is required: no restart mends them.
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [EXIT_USAGE]},
                    },
                    # A machine that is taken away is nobody's failure, and does not count.
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                ]
            },
            "template": {"metadata": {"labels": {"app.kubernetes.io/name": "whisker-trainer"}}, "spec": pod},
        },
    }
