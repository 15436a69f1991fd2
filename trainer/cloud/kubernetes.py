"""A training run as a plain Kubernetes Job: one pod, ended for good by what a restart would not
fix.

Kubeflow's trainer has no runtime for TensorFlow any more (kubeflow/trainer#2699, 2025-08-11).
Labels of nodes and the 25 s are those of Google's Kubernetes Engine, as of 2026-11-22
(cloud.google.com/kubernetes-engine/docs/how-to/gpus and …/concepts/spot-vms).
"""

import re
from collections.abc import Sequence
from typing import Any

from trainer.cloud.submission import Submission
from trainer.cloud.vertex import COMMAND, require_image, with_gpu_required
from trainer.errors import ConfigError
from whisker_ml.errors import EXIT_USAGE

# A Spot pod gets 25 s at most between SIGTERM and SIGKILL.
_GRACE_S = 25
_RESTARTS = 6
# Pictures, features and the run folder lie there. Autopilot gives a container 1 GiB unless it asks
# for more (cloud.google.com/kubernetes-engine/docs/concepts/autopilot-resource-requests, as of
# 2026-11-23).
_DISK = "10Gi"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?")


def manifest(submission: Submission, arguments: Sequence[str]) -> dict[str, Any]:
    """Describes one run as a ``batch/v1`` Job.

    Args:
        submission: what is asked of the cluster; accelerators by Vertex AI's names, the service
            account by Kubernetes' own.
        arguments: flags of ``trainer.task``, each as ``--name=value``.

    Returns:
        The object, as ``kubectl create`` reads it.

    Raises:
        ConfigError: Kubernetes could not run this.
    """
    require_image(submission.image_uri)
    for flag, value in (
        ("display_name", submission.display_name),
        ("service_account", submission.service_account or "default"),
    ):
        if not _NAME.fullmatch(value):
            raise ConfigError(
                f"--{flag}={value}: expected a name of Kubernetes: at most 53 lowercase letters,"
                " digits and dashes"
            )
    if submission.accelerator and submission.accelerator_count < 1:
        raise ConfigError(
            f"--accelerator_count={submission.accelerator_count}: expected at least 1"
        )
    container: dict[str, Any] = {
        "name": "trainer",
        "image": submission.image_uri,
        "command": list(COMMAND),
        "args": with_gpu_required(arguments, submission.accelerator),
        # NCCL passes gradients between GPUs through shared memory, of which a pod has 64 MB by
        # default.
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],  # noqa: S108
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": {"ephemeral-storage": _DISK}},
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_S,
        "securityContext": {"runAsNonRoot": True},
        "containers": [container],
        "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}],
    }
    if submission.accelerator:
        container["resources"]["limits"] = {"nvidia.com/gpu": submission.accelerator_count}
        pod["nodeSelector"] = {
            "cloud.google.com/gke-accelerator": submission.accelerator.lower().replace("_", "-")
        }
    if submission.spot:
        pod.setdefault("nodeSelector", {})["cloud.google.com/gke-spot"] = "true"
    if submission.service_account:
        pod["serviceAccountName"] = submission.service_account
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": submission.display_name,
            "labels": {"app.kubernetes.io/name": "whisker-trainer"},
        },
        "spec": {
            "backoffLimit": _RESTARTS,
            "activeDeadlineSeconds": submission.budget.timeout_s,
            "podFailurePolicy": {
                "rules": [
                    # Wrong settings, or no GPU where one is required: no restart fixes them.
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": "trainer",
                            "operator": "In",
                            "values": [EXIT_USAGE],
                        },
                    },
                    # A machine that is taken away is nobody's failure, and does not count.
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                ]
            },
            "template": {
                "metadata": {"labels": {"app.kubernetes.io/name": "whisker-trainer"}},
                "spec": pod,
            },
        },
    }
