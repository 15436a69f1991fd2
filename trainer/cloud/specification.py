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
from pathlib import Path
from string import Template
from typing import Any

import yaml
from google.cloud.aiplatform_v1.types import CustomJobSpec
from google.protobuf import json_format

from trainer.cloud import Submission, require_form, require_possible
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
    require_possible(submission.machine, submission.accelerator, submission.gpus)
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
    require_form(image_uri=image_uri)
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


def send_command(spec: Mapping[str, Any], submission: Submission) -> str:
    """Writes the command that sends a specification which was saved as ``job.yaml``."""
    name = submission.display_name
    marks = ",".join(f"{key}={value}" for key, value in labels(spec, name).items())
    return (
        f"gcloud ai custom-jobs create --project={submission.project or 'PROJECT'}"
        f" --region={submission.region or 'REGION'} --display-name={shlex.quote(name)}"
        f" --labels={marks} --config=job.yaml"
    )


# Processors and memory of a pod, for each accelerator.
_CPUS, _MEMORY_GIB = 4, 16
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
    container = _container("image", submission, arguments)
    for flag, value, form in (
        ("display_name", submission.display_name, _NAME),
        ("service_account", submission.service_account or "default", _ACCOUNT),
    ):
        if not form.fullmatch(value):
            raise ConfigError(
                f"--{flag}={value}: expected a name of Kubernetes: lowercase letters, digits and"
                " dashes, such as whisker; a Job's begins with a letter and has at most 44"
            )
    gpus = submission.gpus
    labels = {"app.kubernetes.io/name": "whisker-trainer"}
    # Each `kubectl create` makes a Job of its own, also beside one that has ended.
    name, naming = f"{submission.display_name}-", "generateName"
    if submission.workers > 1:
        # Pods are called by the Job's name, which so has to be known here.
        name, naming = f"{name}{now:%Y%m%d-%H%M%S}", "name"
        labels["app.kubernetes.io/instance"] = name
    # Kubernetes puts the pod's index in.
    task = {"type": "worker", "index": "INDEX"}
    addresses = [f"{name}-{index}.{name}:{_PORT}" for index in range(submission.workers)]
    tf_config = json.dumps({"cluster": {"worker": addresses}, "task": task})
    values = {
        **container,
        "metadata": {naming: name, "labels": labels},
        "labels": labels,
        "name": name,
        "timeout_s": submission.budget.timeout_s,
        "exits_for_good": [EXIT_USAGE, EXIT_GATE_REFUSED],
        "exits_to_resume": [EXIT_AGAIN, EXIT_STOPPED],
        "cpus": str(_CPUS * max(gpus, 1)),
        "memory": f"{_MEMORY_GIB * max(gpus, 1)}Gi",
        "workers": submission.workers,
        "port": _PORT,
        "tf_config": tf_config.replace('"INDEX"', "$(JOB_COMPLETION_INDEX)"),
    }
    # JSON is YAML.
    template = Template(Path(__file__).with_name("kubernetes.yaml").read_text(encoding="utf-8"))
    text = template.substitute({key: json.dumps(value) for key, value in values.items()})
    job, several, service, policy = yaml.safe_load_all(text)
    pod = job["spec"]["template"]["spec"]
    if gpus:
        pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = gpus
        gpu = submission.accelerator.lower().replace("_", "-")
        pod["nodeSelector"]["cloud.google.com/gke-accelerator"] = gpu
    if submission.spot:
        pod["nodeSelector"]["cloud.google.com/gke-spot"] = "true"
    if submission.service_account:
        pod["serviceAccountName"] = submission.service_account
    if submission.workers == 1:
        return [job]
    job["spec"] |= several["job"]
    pod |= several["pod"]
    pod["containers"][0] |= several["container"]
    return [service, policy, job]


def to_yaml(contents: Sequence[Mapping[str, Any]], comments: Sequence[str]) -> str:
    """Writes a specification, or objects of Kubernetes, below lines of comment."""
    return "".join(f"# {line}\n" for line in comments) + yaml.safe_dump_all(
        contents, sort_keys=False, allow_unicode=True, width=float("inf")
    )
