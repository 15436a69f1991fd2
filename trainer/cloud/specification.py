"""A training run as what a cloud takes: a custom job of Vertex AI, checked, or a plain Job of
Kubernetes; and either as YAML.

Fields are from the descriptions of CustomJob, CustomJobSpec and Scheduling in
google-cloud-aiplatform 2.7.0, and
docs.cloud.google.com/vertex-ai/docs/training/distributed-training, read on 2026-11-22.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import yaml
from google.cloud.aiplatform_v1.types import CustomJobSpec
from google.protobuf import json_format

from trainer.cloud import Submission, image
from trainer.cloud.machines import require_possible
from trainer.errors import ConfigError
from whisker_ml.errors import EXIT_AGAIN, EXIT_GATE_REFUSED, EXIT_STOPPED, EXIT_USAGE

# What runs in the container, spelled out so that any image that holds the trainer will do.
COMMAND = ("python", "-m", "trainer.task")

# Marks a job with what it runs, so that the same is not run twice.
LABEL = "whisker-spec"

_MAX_DISPLAY_NAME = 128  # characters, from the description of CustomJob.display_name
_REQUIRE_GPU = "--require_gpu="


def custom_job(submission: Submission, arguments: Sequence[str]) -> dict[str, Any]:
    """Describes one run, in the form of the service's CustomJobSpec message.

    Args:
        submission: where, on what and for how long.
        arguments: flags of ``trainer.task``, each as ``--name=value``.

    Returns:
        The message's fields in camelCase.

    Raises:
        ConfigError: the service could not run this.
    """
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
            "containerSpec": _container("imageUri", submission, arguments),
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
    # What the message lets through and the service would refuse.
    require_possible(
        submission.machine,
        submission.accelerator,
        submission.accelerator_count if submission.accelerator else 0,
    )
    account = submission.service_account
    if account and not (account.endswith(".gserviceaccount.com") and account.count("@") == 1):
        raise ConfigError(
            f"--service_account={account}: expected an address such as"
            " name@project.iam.gserviceaccount.com"
        )
    return spec


def _container(image_key: str, submission: Submission, arguments: Sequence[str]) -> dict[str, Any]:
    """What runs where; with ``--require_gpu=true`` where a GPU is paid for and the user did not say
    otherwise.
    """
    image_uri, accelerator = submission.image_uri, submission.accelerator
    image.require_name(image_uri)
    given = [argument for argument in arguments if argument.startswith(_REQUIRE_GPU)]
    if f"{_REQUIRE_GPU}true" in given and not accelerator:
        raise ConfigError(
            "--require_gpu without an accelerator would fail at once: give --accelerator, or leave"
            " it out"
        )
    # A paid GPU that TensorFlow does not see would otherwise stand idle while the CPU trains.
    added = [f"{_REQUIRE_GPU}true"] if accelerator and not given else []
    return {image_key: image_uri, "command": list(COMMAND), "args": [*arguments, *added]}


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
    return {LABEL: hashlib.sha256(content).hexdigest()[:32]}


def send_command(spec: Mapping[str, Any], display_name: str, *, project: str, region: str) -> str:
    """Writes the command that sends a specification which was saved as ``job.yaml``."""
    marks = ",".join(f"{key}={value}" for key, value in labels(spec, display_name).items())
    return (
        f"gcloud ai custom-jobs create --project={project or 'PROJECT'}"
        f" --region={region or 'REGION'} --display-name={shlex.quote(display_name)}"
        f" --labels={marks} --config=job.yaml"
    )


# A plain Job of Kubernetes: a pod for each worker, ended for good by what a restart would not fix.
#
# Several are an Indexed Job: a pod is called JOB-INDEX, and found as JOB-INDEX.SERVICE
# (kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication). Where one is lost all of them
# end, the Job makes each anew once it is gone (TensorFlow takes no second worker of an index), and
# all go on from the checkpoint. Fields as of Kubernetes 1.33; read on 2026-11-27.
#
# Kubeflow's trainer has no runtime for TensorFlow any more (kubeflow/trainer#2699, 2025-08-11).
# Labels of nodes and the 25 s are those of Google's Kubernetes Engine, as of 2026-11-22
# (cloud.google.com/kubernetes-engine/docs/how-to/gpus and …/concepts/spot-vms).

# A Spot pod gets 25 s at most between SIGTERM and SIGKILL.
_GRACE_S = 25
_RESTARTS = 6
# Pictures, features and the run folder lie there. Autopilot gives a container 1 GiB unless it asks
# for more (cloud.google.com/kubernetes-engine/docs/concepts/autopilot-resource-requests, as of
# 2026-11-23).
_DISK = "10Gi"
# Processors and memory of a pod, for each accelerator: half of what a machine with one has
# (g2-standard-8: 8 and 32 GiB), so that it fits there beside what the node itself runs. Processors
# that are free may be used too; memory above the limit ends the pod, not its neighbours.
_CPUS, _MEMORY_GIB = 4, 16
# How long a Job that has ended still shows why, with its log.
_KEPT_S = 7 * 24 * 3600
# Of the image (infra/docker/trainer.Dockerfile).
_USER = 10001
# What the trainer writes to; the rest of its disk is read-only.
_WRITABLE = {"home": "/home/whisker", "temporary": "/tmp"}  # noqa: S108
# Of the workers, inside the cluster.
_PORT = 2222
# A pod's host name has at most 63 characters: this, a time, and the index.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,42}[a-z0-9])?")
_ACCOUNT = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def kubernetes_objects(
    submission: Submission, arguments: Sequence[str], now: datetime
) -> list[dict[str, Any]]:
    """Describes one run as a ``batch/v1`` Job, and of several workers how they find each other.

    Args:
        submission: what is asked of the cluster; accelerators by Vertex AI's names, the service
            account by Kubernetes' own.
        arguments: flags of ``trainer.task``, each as ``--name=value``.
        now: names what belongs to several workers.

    Returns:
        The objects, as ``kubectl create`` reads them; the Job is the last.

    Raises:
        ConfigError: Kubernetes could not run this.
    """
    container = {"name": "trainer"} | _container("image", submission, arguments)
    for flag, value, form in (
        ("display_name", submission.display_name, _NAME),
        ("service_account", submission.service_account or "default", _ACCOUNT),
    ):
        if not form.fullmatch(value):
            raise ConfigError(
                f"--{flag}={value}: expected a name of Kubernetes: lowercase letters, digits and"
                " dashes, such as whisker; a Job's begins with a letter and has at most 44"
            )
    each = submission.accelerator_count if submission.accelerator else 1
    memory = f"{_MEMORY_GIB * each}Gi"
    resources: dict[str, Any] = {
        "requests": {"cpu": str(_CPUS * each), "memory": memory, "ephemeral-storage": _DISK},
        "limits": {"memory": memory, "ephemeral-storage": _DISK},
    }
    # The image is for x86-64.
    node = {"kubernetes.io/arch": "amd64"}
    if submission.accelerator:
        if submission.accelerator_count < 1:
            raise ConfigError(
                f"--accelerator_count={submission.accelerator_count}: expected at least 1"
            )
        resources["limits"]["nvidia.com/gpu"] = submission.accelerator_count
        gpu = submission.accelerator.lower().replace("_", "-")
        node["cloud.google.com/gke-accelerator"] = gpu
    if submission.spot:
        node["cloud.google.com/gke-spot"] = "true"
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_S,
        # Credentials come from the cluster's metadata server; nothing here asks Kubernetes.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # What Pod Security "restricted" admits (kubernetes.io/docs/concepts/security/
        # pod-security-standards, read on 2026-11-27).
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            container
            | {
                # NCCL passes gradients between GPUs through shared memory, of which a pod has 64 MB
                # by default.
                "volumeMounts": [
                    {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108
                    *({"name": name, "mountPath": path} for name, path in _WRITABLE.items()),
                ],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "resources": resources,
            }
        ],
        "volumes": [
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
            *({"name": name, "emptyDir": {}} for name in _WRITABLE),
        ],
        "nodeSelector": node,
    }
    if submission.service_account:
        pod["serviceAccountName"] = submission.service_account
    labels = {"app.kubernetes.io/name": "whisker-trainer"}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        # Each `kubectl create` makes a Job of its own, also beside one that has ended.
        "metadata": {"generateName": f"{submission.display_name}-", "labels": labels},
        "spec": {
            "ttlSecondsAfterFinished": _KEPT_S,
            "backoffLimit": _RESTARTS,
            "activeDeadlineSeconds": submission.budget.timeout_s,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    # Wrong settings, no GPU where one is required, a model that the gate refuses:
                    # no restart fixes them.
                    {"action": "FailJob", "onExitCodes": _exits(EXIT_USAGE, EXIT_GATE_REFUSED)},
                    # A machine that is taken away is nobody's failure, and does not count; nor what
                    # follows from it, or from another worker's failure, which counts there.
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                    {"action": "Ignore", "onExitCodes": _exits(EXIT_AGAIN, EXIT_STOPPED)},
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    if submission.workers == 1:
        return [job]
    return [*_several(job, submission, now), job]


def _exits(*codes: int) -> dict[str, Any]:
    return {"containerName": "trainer", "operator": "In", "values": list(codes)}


def _several(job: dict[str, Any], submission: Submission, now: datetime) -> list[dict[str, Any]]:
    """Makes a Job one of several workers; gives what has to be there before it."""
    # Pods are called by the Job's name, which so has to be known here.
    name = f"{submission.display_name}-{now:%Y%m%d-%H%M%S}"
    labels = job["metadata"]["labels"] | {"app.kubernetes.io/instance": name}
    job["metadata"] = {"name": name, "labels": labels}
    job["spec"] |= {
        "completionMode": "Indexed",
        "completions": submission.workers,
        "parallelism": submission.workers,
        # The chief leaves last.
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
    }
    template = job["spec"]["template"]
    template["metadata"] = {"labels": labels}
    template["spec"]["subdomain"] = name
    (container,) = template["spec"]["containers"]
    container["ports"] = [{"name": "workers", "containerPort": _PORT}]
    index = "JOB_COMPLETION_INDEX"
    tf_config = {
        "cluster": {
            "worker": [f"{name}-{each}.{name}:{_PORT}" for each in range(submission.workers)]
        },
        "task": {"type": "worker", "index": 0},
    }
    container["env"] = [
        # Kubernetes sets it by itself, but behind these, and expands only what stands before.
        {
            "name": index,
            "valueFrom": {
                "fieldRef": {
                    "fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"
                }
            },
        },
        {
            "name": "TF_CONFIG",
            "value": json.dumps(tf_config).replace('"index": 0', f'"index": $({index})'),
        },
    ]
    metadata = {"metadata": {"name": name, "labels": labels}}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        **metadata,
        "spec": {
            "clusterIP": "None",
            "selector": labels,
            # They look for each other from their first moment.
            "publishNotReadyAddresses": True,
            "ports": [{"name": "workers", "port": _PORT}],
        },
    }
    # TensorFlow's ports know neither encryption nor who asks; NCCL chooses more of them.
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        **metadata,
        "spec": {
            "podSelector": {"matchLabels": labels},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": labels}}]}],
        },
    }
    return [service, policy]


def to_yaml(contents: Sequence[Mapping[str, Any]], comments: Sequence[str]) -> str:
    """Writes a specification, or objects of Kubernetes, below lines of comment."""
    return "".join(f"# {line}\n" for line in comments) + yaml.dump_all(
        map(dict, contents),
        Dumper=_WithoutAliases,
        sort_keys=False,
        allow_unicode=True,
        width=float("inf"),
    )


class _WithoutAliases(yaml.SafeDumper):
    """Writes what stands twice twice."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True
