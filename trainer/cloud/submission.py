"""What is asked of the cloud besides the run itself: every flag of `trainer.submit`, checked when
made.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.cloud import image, machines
from trainer.cloud.machines import require_possible
from trainer.config import Config
from trainer.errors import ConfigError
from whisker_ml.cli import setting
from whisker_ml.files import BUCKET_SCHEME

# How long a job may run: what `--max_hours` and `--max_cost` come to. No price is known here; the
# user gives it.


@dataclass(frozen=True)
class Budget:
    """A job's time limit and price.

    Attributes:
        timeout_s: seconds after which the job is ended, whoever watches.
        price_per_hour: of one worker, in the user's currency; 0: unknown.
        workers: machines that are paid for at the same time.
        reason: a sentence that says where the limit comes from.
    """

    timeout_s: int
    price_per_hour: float
    workers: int
    reason: str

    def cost(self, seconds: float) -> float:
        """What so many seconds cost; 0 where the price is unknown."""
        return seconds / 3600 * self.price_per_hour * self.workers


def make_budget(
    *, max_hours: float, price_per_hour: float, max_cost: float, workers: int
) -> Budget:
    """Takes the smaller of the two limits.

    Args:
        max_hours: hours after which the job is ended.
        price_per_hour: of one worker; 0: unknown.
        max_cost: of the whole job, in the same currency; 0: no such limit.
        workers: machines.

    Raises:
        ConfigError: a number makes no sense, or a cost is limited whose price is unknown.
    """
    for name, number in (
        ("max_hours", max_hours),
        ("price_per_hour", price_per_hour),
        ("max_cost", max_cost),
    ):
        if not math.isfinite(number) or number < 0:
            raise ConfigError(f"--{name}={number:g}: expected a number of at least 0")
    if workers < 1:
        raise ConfigError(f"--workers={workers}: expected at least 1")
    if max_cost and not price_per_hour:
        raise ConfigError(
            f"--max_cost={max_cost:g} without --price_per_hour: give what one worker costs in an"
            " hour (cloud.google.com/vertex-ai/pricing); Whisker knows no prices"
        )
    hours, reason = max_hours, f"{max_hours:g} h, by --max_hours"
    hourly = price_per_hour * workers
    if max_cost and max_cost / hourly < max_hours:
        hours = max_cost / hourly
        reason = (
            f"{hours:.2f} h, by --max_cost: {max_cost:g} / ({workers} worker{'s' * (workers > 1)} ×"
            f" {price_per_hour:g} an hour)"
        )
    elif hourly:
        reason += f", {hours * hourly:.2f} at most for {workers} worker{'s' * (workers > 1)}"
    timeout_s = math.floor(hours * 3600)
    if timeout_s < 60:
        raise ConfigError(
            f"the job would be ended after {timeout_s} s ({reason}): allow at least a minute"
        )
    return Budget(timeout_s, price_per_hour, workers, reason)


# What the job service refuses and its message types let through, found before anything is sent.
#
# From the descriptions of CustomJob, CustomJobSpec and Scheduling in google-cloud-aiplatform 2.7.0,
# and docs.cloud.google.com/vertex-ai/docs/training/distributed-training, read on 2026-11-22.

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


# Which of a run's paths a machine in the cloud can reach.


def require_remote(config: Config) -> None:
    """Refuses a run that names files of this machine, which the cloud's machine cannot see.

    Raises:
        ConfigError: a setting names a local file or folder; the text says what to give in its
            place.
    """
    _require("data", config.data, ("sample", "cats_and_dogs"), "copy the folder to a bucket")
    _require("base_weights", config.base_weights, ("imagenet", "none"), "copy the file to a bucket")
    _require("run_dir", config.run_dir, ("",), "name a folder in a bucket")
    _require("model_dir", config.model_dir, ("",), "name a store in a bucket")


def _require(name: str, value: str, names: tuple[str, ...], remedy: str) -> None:
    if value in names or (value.startswith(BUCKET_SCHEME) and value != BUCKET_SCHEME):
        return
    alternatives = "".join(f", {known}" for known in names if known)
    raise ConfigError(
        f"--{name}={value}: a job in the cloud cannot reach this machine's files; {remedy} and"
        " give "
        f"--{name}={BUCKET_SCHEME}…{alternatives and ', or one of ' + alternatives[2:]}"
    )


# What the job service sets in a container, as settings of a run.
#
# Set where the job has a base output directory (the description of
# CustomJobSpec.base_output_directory in google-cloud-aiplatform 2.7.0):
#
# AIP_MODEL_DIR, ``<base>/model/``, is ``--model_dir``: a model store with numbered versions, not a
# single model. AIP_CHECKPOINT_DIR, ``<base>/checkpoints/``, makes ``<base>`` the run folder, which
# has its checkpoints just there. AIP_TENSORBOARD_LOG_DIR, ``<base>/logs/``, gets a copy of the run
# folder's ``tensorboard/``.

TENSORBOARD = "AIP_TENSORBOARD_LOG_DIR"
_MODEL = "AIP_MODEL_DIR"
_CHECKPOINTS = "AIP_CHECKPOINT_DIR"


def environment_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Takes `run_dir` and `model_dir` from the variables that are set; a flag that is given wins
    over them.
    """
    found = {}
    if checkpoints := environment.get(_CHECKPOINTS, "").rstrip("/"):
        found["run_dir"] = checkpoints.removesuffix("/checkpoints")
    if model := environment.get(_MODEL, "").rstrip("/"):
        found["model_dir"] = model
    return found


@dataclass(frozen=True)
class Submission:
    """Where, on what, for how long and for how much a run goes on.

    Raises:
        ConfigError: a value cannot work; the text names the flag, the value and what is expected.
    """

    project: str = setting("", "Google Cloud project that pays")
    region: str = setting("", "where the job runs, such as us-central1")
    image_uri: str = setting(
        "", "container image that holds the trainer, by digest; with --build by name and tag"
    )
    build: str = setting(
        "",
        "build the image from this checkout and push it first; empty: it is there",
        choices=image.KINDS,
    )
    platform: str = setting(
        "vertex",
        "a custom job of Vertex AI, or (--dry_run only) a Job of Kubernetes",
        choices=("vertex", "kubernetes"),
    )
    machine: str = setting(machines.DEFAULT_MACHINE, "machine type")
    accelerator: str = setting(machines.DEFAULT_ACCELERATOR, "accelerator type; empty: none")
    accelerator_count: int = setting(1, "accelerators in each machine")
    workers: int = setting(1, "machines that train together, all alike")
    spot: bool = setting(
        False,
        "machines that cost less and may be taken away; the job then goes on from its checkpoint",
    )
    service_account: str = setting("", "account that the job runs as; empty: the service's own")
    max_hours: float = setting(24.0, "hours after which the service ends the job, whoever watches")
    price_per_hour: float = setting(0.0, "what one worker costs, in your currency; 0: unknown")
    max_cost: float = setting(
        0.0,
        "what the job may cost: it is ended after max_cost / price_per_hour / workers hours; 0: no"
        " such limit",
    )
    display_name: str = setting(
        "whisker", "the job's name in the console; another name makes another job"
    )
    api_endpoint: str = setting(
        "", "host of the job service; empty: the region's; http://127.0.0.1:…: without TLS"
    )
    detach: bool = setting(False, "do not watch the job; so too where there is no terminal")
    dry_run: bool = setting(False, "print the job and send nothing")

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            choices, value = option.metadata["choices"], getattr(self, option.name)
            if choices and value not in choices:
                raise ConfigError(
                    f"--{option.name}={value}: expected"
                    f" {', '.join(choice for choice in choices if choice)}"
                )
        _ = self.budget
        image.require_buildable(self.build, self.image_uri)
        if self.platform == "kubernetes":
            self._require_kubernetes()
        elif self.project or self.region or not self.dry_run:
            require_place(self.project, self.region)
        if (
            not self.dry_run
            and not self.build
            and self.image_uri
            and not image.is_pinned(self.image_uri)
        ):
            raise ConfigError(
                f"--image_uri={self.image_uri}: a tag can come to mean another image; give it by"
                f" digest, which gcloud artifacts docker images describe {self.image_uri}"
                " --format='value(image_summary.digest)' prints, or --build"
            )

    @property
    def budget(self) -> Budget:
        """How long the job may run."""
        return make_budget(
            max_hours=self.max_hours,
            price_per_hour=self.price_per_hour,
            max_cost=self.max_cost,
            workers=self.workers,
        )

    def require_run(self, config: Config) -> None:
        """Refuses a run that these machines would lose.

        Raises:
            ConfigError: a restarted job could not go on.
        """
        if self.spot and (not config.run_dir or config.resume == "never"):
            raise ConfigError(
                "--spot: a job whose machine was taken away goes on in its run folder; give"
                " --run_dir=gs://… and leave out --resume=never"
            )

    def _require_kubernetes(self) -> None:
        if not self.dry_run:
            raise ConfigError(
                "--platform=kubernetes: sending is kubectl's; give --dry_run too, and pipe the"
                " output into kubectl create --filename=-"
            )
        if self.workers > 1:
            raise ConfigError(
                f"--workers={self.workers}: a Job of Kubernetes is one pod here; leave"
                " --workers out"
            )
