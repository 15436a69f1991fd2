"""Runs on machines of a cloud: what is asked of it besides the run itself, checked when made. Only
this package knows a cloud's products by name.
"""

import dataclasses
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from trainer.config import Config, check_setting
from trainer.errors import ConfigError
from whisker_ml.cli import setting
from whisker_ml.files import BUCKET_SCHEME

DEFAULT_MACHINE, DEFAULT_ACCELERATOR = "g2-standard-8", "NVIDIA_L4"

# What an image is built from, and by which file in it.
CHECKOUT = Path(__file__).parents[2]
DOCKERFILE = "infra/docker/trainer.Dockerfile"

# Numbers, and why there is a limit: a slip of a key must not be paid for.
_BOUNDS: dict[str, tuple[float, float, str]] = {
    "accelerator_count": (0, 16, "the most that a machine has"),
    "workers": (1, 100, "each step waits for all of them, and is paid for on each"),
    "max_hours": (0, 720, "30 days; the service ends a job after 7 by itself"),
    "price_per_hour": (0, 1e9, "in any currency"),
    "max_cost": (0, 1e9, "in any currency"),
}

# Texts that become arguments of other programs, lines of comment, or hosts: their form, and what is
# expected where they have another.
_PART = r"[a-z0-9]+((\.|_{1,2}|-+)[a-z0-9]+)*"
_FORMS = {
    "project": (
        r"([a-z0-9.-]+:)?[a-z0-9][a-z0-9-]*",
        "the id or number of a Google Cloud project, such as my-project",
    ),
    "region": (
        r"[a-z]+-[a-z]+[0-9]+",
        "a region, such as us-central1 (a zone such as us-central1-a is none)",
    ),
    "api_endpoint": (
        r"((https?://)?[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?|http://\[[0-9a-f:]+\](:[0-9]+)?)?",
        "a host, such as us-central1-aiplatform.googleapis.com, or http://127.0.0.1:PORT",
    ),
    # As docker takes host, path, tag and digest (docs.docker.com/reference/cli/docker/image/tag/).
    "image_uri": (
        rf"([A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?/)?{_PART}(/{_PART})*"
        r"(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]+)?",
        "the image that holds the trainer, such as"
        " LOCATION-docker.pkg.dev/PROJECT/REPOSITORY/trainer@sha256:…",
    ),
    "service_account": (
        r"([a-z0-9]([a-z0-9.@-]*[a-z0-9])?)?",
        "an address such as name@project.iam.gserviceaccount.com, or a name of Kubernetes",
    ),
    "machine": (r"[a-z0-9]+(-[a-z0-9]+)*", f"a machine type, such as {DEFAULT_MACHINE}"),
    "accelerator": (
        r"([A-Z0-9]+(_[A-Z0-9]+)*)?",
        f"an accelerator type, such as {DEFAULT_ACCELERATOR}, or nothing",
    ),
}

# Machines whose processors are Arm, and accelerators that are built into such machines only. As of
# 2026-11-27; nobody opened the vendor's page of Arm machines.
_ARM = re.compile(r"(a4x|c4a|n4a|t2a)[a-z]*-.*|NVIDIA_GB[0-9]+")


def require_form(**texts: str) -> None:
    """Refuses, by their form alone, texts that cannot be what the flags of their names are.

    Raises:
        ConfigError: the form is wrong.
    """
    for name, text in texts.items():
        form, expected = _FORMS[name]
        if not re.fullmatch(form, text, re.ASCII):
            raise ConfigError(f"--{name}={text}: expected {expected}")


@cache
def facts() -> dict[str, Any]:
    """Reads the vendor's facts: `machines` and `permissions`."""
    return tomllib.loads(Path(__file__).with_name("vendor.toml").read_text(encoding="utf-8"))


def require_known(machine: str, accelerator: str, count: int) -> None:
    """Refuses what is no machine or accelerator, and what the images do not run on; arguments as
    `require_possible` has them.

    Raises:
        ConfigError: the form is wrong, or the processors are Arm.
    """
    require_form(machine=machine, accelerator=accelerator)
    if accelerator and count < 1:
        raise ConfigError(
            f"--accelerator_count={count}: expected at least 1 with --accelerator={accelerator}"
        )
    if any(map(_ARM.fullmatch, (machine, accelerator))):
        raise ConfigError(
            f"--machine={machine} --accelerator={accelerator}: the processors there are Arm, and"
            f" the trainer's image is for x86-64; give another machine, such as {DEFAULT_MACHINE}"
        )


def require_possible(machine: str, accelerator: str, count: int) -> None:
    """Refuses a machine and accelerators that do not exist together.

    Args:
        machine: machine type, such as ``g2-standard-8``.
        accelerator: accelerator type, such as ``NVIDIA_L4``; empty for none.
        count: accelerators in the machine; looked at only where there is an `accelerator`.

    Raises:
        ConfigError: the pair is impossible; the text names the values that fit.
    """
    require_known(machine, accelerator, count)
    pair = f"--machine={machine} --accelerator={accelerator}"
    machines = facts()["machines"]
    kind, built_in = machines.get(machine, (accelerator, count))
    if (accelerator, count) != (kind, built_in):
        raise ConfigError(
            f"{pair} --accelerator_count={count}: {machine} is built with {built_in} {kind}; "
            f"give --accelerator={kind} --accelerator_count={built_in}, or another machine"
        )
    fitting = [name for name, (kind, _) in machines.items() if kind == accelerator]
    if fitting and machine not in fitting:
        raise ConfigError(
            f"{pair}: {accelerator} is built into {', '.join(fitting)} only; give one of these"
            " machines"
        )


def require_remote(config: Config) -> None:
    """Refuses a run that names files of this machine, which the cloud's machine cannot see.

    Raises:
        ConfigError: a setting names a local file or folder; the text says what to give in its
            place.
    """
    for name, known, remedy in (
        ("data", ("sample", "cats_and_dogs"), "copy the folder to a bucket"),
        ("base_weights", ("imagenet", "none"), "copy the file to a bucket"),
        ("exclude", ("",), "copy the file to a bucket"),
        ("run_dir", ("",), "name a folder in a bucket"),
        ("model_dir", ("",), "name a store in a bucket"),
    ):
        value = getattr(config, name)
        if value in known or (value.startswith(BUCKET_SCHEME) and value != BUCKET_SCHEME):
            continue
        alternatives = f", or one of {', '.join(known)}" if any(known) else ""
        raise ConfigError(
            f"--{name}={value}: a job in the cloud cannot reach this machine's files; {remedy} and"
            f" give --{name}={BUCKET_SCHEME}…{alternatives}"
        )


# What the job service sets in a container, as settings of a run, where the job has a base output
# directory (the description of CustomJobSpec.base_output_directory in google-cloud-aiplatform
# 2.7.0): AIP_MODEL_DIR, ``<base>/model/``, is ``--model_dir``: a model store with numbered
# versions, not a single model. AIP_CHECKPOINT_DIR, ``<base>/checkpoints/``, makes ``<base>`` the
# run folder, which has its checkpoints just there. AIP_TENSORBOARD_LOG_DIR, ``<base>/logs/``, gets
# a copy of the run folder's ``tensorboard/``.

TENSORBOARD = "AIP_TENSORBOARD_LOG_DIR"


def environment_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Takes `run_dir` and `model_dir` from the variables that are set; a flag that is given wins
    over them.
    """
    return {
        name: folder.rstrip("/").removesuffix(suffix)
        for name, variable, suffix in (
            ("run_dir", "AIP_CHECKPOINT_DIR", "/checkpoints"),
            ("model_dir", "AIP_MODEL_DIR", ""),
        )
        if (folder := environment.get(variable))
    }


def is_pinned(image_uri: str) -> bool:
    """Tells whether an image is named by digest, which cannot come to mean another one."""
    return "@sha256:" in image_uri


def require_buildable(kind: str, image_uri: str, project: str, checkout: Path = CHECKOUT) -> None:
    """Refuses what `--build` of this kind cannot build from a checkout.

    Raises:
        ConfigError: the name is a digest, the project has no id, or this is no checkout.
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


class Budget(NamedTuple):
    """A job's time limit.

    Attributes:
        timeout_s: seconds after which the job is ended, whoever watches.
        reason: a sentence that says where the limit comes from.
    """

    timeout_s: int
    reason: str


@dataclass(frozen=True)
class Submission:
    """Where, on what, for how long and for how much a run goes on: every flag of `whisker-submit`.

    Raises:
        ConfigError: a value cannot work; the text names the flag, the value and what is expected.
    """

    project: str = setting("", "Google Cloud project that pays", group="Job")
    region: str = setting("", "where the job runs, such as us-central1")
    image_uri: str = setting(
        "", "container image that holds the trainer, by digest; with --build by name and tag"
    )
    build: str = setting(
        "",
        "build the image from this checkout and push it first; empty: it is there",
        choices=("", "cloudbuild", "docker"),
    )
    platform: str = setting(
        "vertex",
        "a custom job of Vertex AI, or (--dry_run only) a Job of Kubernetes",
        choices=("vertex", "kubernetes"),
    )
    machine: str = setting(DEFAULT_MACHINE, "machine type")
    accelerator: str = setting(DEFAULT_ACCELERATOR, "accelerator type; empty: none")
    accelerator_count: int = setting(1, "accelerators in each machine")
    workers: int = setting(1, "machines that train together, all of the same kind")
    spot: bool = setting(
        False,
        "machines that cost less and may be taken away; the job then resumes from its checkpoint",
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
            check_setting(option, getattr(self, option.name))
        _ = self.budget
        require_form(**{name: text for name in _FORMS if (text := getattr(self, name))})
        require_known(self.machine, self.accelerator, self.accelerator_count)
        if self.platform == "kubernetes" and not self.dry_run:
            raise ConfigError(
                "--platform=kubernetes: sending is kubectl's; give --dry_run too, and pipe the"
                " output into kubectl create --filename=-"
            )
        if self.platform == "vertex" and (self.project or self.region or not self.dry_run):
            require_form(project=self.project, region=self.region)
        if self.build:
            require_buildable(self.build, self.image_uri, self.project)
        if self.image_uri and not (self.dry_run or self.build or is_pinned(self.image_uri)):
            raise ConfigError(
                f"--image_uri={self.image_uri}: a tag can come to mean another image; give it by"
                f" digest, which gcloud artifacts docker images describe {self.image_uri}"
                " --format='value(image_summary.digest)' prints, or --build"
            )

    @property
    def gpus(self) -> int:
        """Accelerators in each machine."""
        return self.accelerator_count if self.accelerator else 0

    @property
    def budget(self) -> Budget:
        """How long the job may run: the smaller of what `max_hours` and `max_cost` allow."""
        for name, (least, most, reason) in _BOUNDS.items():
            number = getattr(self, name)
            if not least <= number <= most:
                raise ConfigError(
                    f"--{name}={number:.12g}: expected {least:g} to {most:.12g} ({reason})"
                )
        if self.max_cost and not self.price_per_hour:
            raise ConfigError(
                f"--max_cost={self.max_cost:g} without --price_per_hour: give what one worker costs"
                " in an hour (cloud.google.com/vertex-ai/pricing); Whisker knows no prices"
            )
        hours, reason = self.max_hours, f"{self.max_hours:g} h, by --max_hours"
        hourly = self.price_per_hour * self.workers
        crew = f"{self.workers} worker{'s' * (self.workers > 1)}"
        if self.max_cost and self.max_cost / hourly < hours:
            hours = self.max_cost / hourly
            reason = (
                f"{hours:.2f} h, by --max_cost: {self.max_cost:g} / ({crew} ×"
                f" {self.price_per_hour:g} an hour)"
            )
        elif hourly:
            reason += f", {hours * hourly:.2f} at most for {crew}"
        timeout_s = math.floor(hours * 3600)
        if timeout_s < 60:
            raise ConfigError(
                f"the job would be ended after {timeout_s} s ({reason}): allow at least a minute"
            )
        return Budget(timeout_s, reason)

    def require_run(self, config: Config) -> None:
        """Refuses a run that these machines would lose.

        Raises:
            ConfigError: a restarted job could not go on.
        """
        if self.spot and (not config.run_dir or config.resume == "never"):
            raise ConfigError(
                "--spot: a job whose machine was taken away resumes in its run folder; give"
                " --run_dir=gs://… and leave out --resume=never"
            )
        # Of each machine: the accelerators that --gpus names, or all of them.
        each = self.gpus and len(config.gpus.split(",")) if config.gpus else self.gpus
        replicas = self.workers * (each or 1)
        if self.workers > 1 and config.batch_size % replicas:
            raise ConfigError(
                f"--batch_size={config.batch_size} with --workers={self.workers}: expected a"
                f" multiple of {replicas}, the replicas of all workers"
            )
