"""The vendor's facts, dated, in one place: machines and their GPUs, and permissions."""

import re
from typing import NamedTuple

from trainer.errors import ConfigError
from trainer.gpus import compilation_note

# Which GPUs sit in which of the cloud's machines: refuses pairs that cannot exist before anybody
# pays for finding out.
#
# Read on 2026-11-22 from the GPU table of
# docs.cloud.google.com/gemini-enterprise-agent-platform/machine-learning/training/configure-compute
# (an undated page). Left out: the n1 rows, whose columns could not be told apart; such pairs pass
# unchecked, and `unchecked` says so.

DEFAULT_MACHINE = "g2-standard-8"
DEFAULT_ACCELERATOR = "NVIDIA_L4"

# Machine to the one accelerator and number that it is built with.
_BUILT_IN = {
    **{f"g2-standard-{cpus}": ("NVIDIA_L4", 1) for cpus in (4, 8, 12, 16, 32)},
    **{f"g2-standard-{cpus}": ("NVIDIA_L4", gpus) for cpus, gpus in ((24, 2), (48, 4), (96, 8))},
    **{f"g4-standard-{48 * gpus}": ("NVIDIA_RTX_PRO_6000", gpus) for gpus in (1, 2, 4, 8)},
    **{f"a2-highgpu-{gpus}g": ("NVIDIA_TESLA_A100", gpus) for gpus in (1, 2, 4, 8)},
    "a2-megagpu-16g": ("NVIDIA_TESLA_A100", 16),
    **{f"a2-ultragpu-{gpus}g": ("NVIDIA_A100_80GB", gpus) for gpus in (1, 2, 4, 8)},
    **{f"a3-highgpu-{gpus}g": ("NVIDIA_H100_80GB", gpus) for gpus in (1, 2, 4, 8)},
    "a3-megagpu-8g": ("NVIDIA_H100_MEGA_80GB", 8),
    "a3-ultragpu-8g": ("NVIDIA_H200_141GB", 8),
    "a4-highgpu-8g": ("NVIDIA_B200", 8),
}

# Machines whose processors are Arm, and accelerators that are built into such machines only; the
# images are for x86-64. As of 2026-11-27; nobody opened the vendor's page of Arm machines.
_ARM = re.compile(r"(a4x|c4a|n4a|t2a)[a-z]*-.*")
_ON_ARM = ("NVIDIA_GB200", "NVIDIA_GB300")

# Compute capabilities, from developer.nvidia.com/cuda-gpus and …/cuda-legacy-gpus, read on
# 2026-11-27.
_CAPABILITIES = {
    **{"NVIDIA_TESLA_P100": (6, 0), "NVIDIA_TESLA_P4": (6, 1), "NVIDIA_TESLA_V100": (7, 0)},
    **{"NVIDIA_TESLA_T4": (7, 5), "NVIDIA_TESLA_A100": (8, 0), "NVIDIA_A100_80GB": (8, 0)},
    **{"NVIDIA_L4": (8, 9), "NVIDIA_H100_80GB": (9, 0), "NVIDIA_H100_MEGA_80GB": (9, 0)},
    **{"NVIDIA_H200_141GB": (9, 0), "NVIDIA_B200": (10, 0), "NVIDIA_RTX_PRO_6000": (12, 0)},
}

# What the service's names look like; they are printed in comments, and stand in the job.
_MACHINE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ACCELERATOR = re.compile(r"[A-Z0-9]+(_[A-Z0-9]+)*")
# The most that a machine of the table has.
MOST_ACCELERATORS = max(count for _, count in _BUILT_IN.values())


def require_known_form(machine: str, accelerator: str) -> None:
    """Refuses what is no name of a machine or accelerator, and what the images do not run on.

    Raises:
        ConfigError: the form is wrong, or the processors are Arm.
    """
    if not _MACHINE.fullmatch(machine):
        raise ConfigError(
            f"--machine={machine}: expected a machine type, such as {DEFAULT_MACHINE}"
        )
    if accelerator and not _ACCELERATOR.fullmatch(accelerator):
        raise ConfigError(
            f"--accelerator={accelerator}: expected an accelerator type, such as"
            f" {DEFAULT_ACCELERATOR}, or nothing"
        )
    if _ARM.fullmatch(machine) or accelerator in _ON_ARM:
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
    require_known_form(machine, accelerator)
    pair = f"--machine={machine} --accelerator={accelerator}"
    if accelerator and count < 1:
        raise ConfigError(
            f"--accelerator_count={count}: expected at least 1 with --accelerator={accelerator}"
        )
    if machine in _BUILT_IN:
        kind, built_in = _BUILT_IN[machine]
        if (accelerator, count) != _BUILT_IN[machine]:
            raise ConfigError(
                f"{pair} --accelerator_count={count}: {machine} is built with {built_in} {kind}; "
                f"give --accelerator={kind} --accelerator_count={built_in}, or another machine"
            )
    elif accelerator in {kind for kind, _ in _BUILT_IN.values()}:
        fitting = [name for name, (kind, _) in _BUILT_IN.items() if kind == accelerator]
        raise ConfigError(
            f"{pair}: {accelerator} is built into {', '.join(fitting)} only; give one of these"
            " machines"
        )


def unchecked(machine: str, accelerator: str) -> str:
    """Says what `require_possible` could not judge about a pair that it let through; empty where it
    judged it all.
    """
    if machine in _BUILT_IN:
        return ""
    return f"that {machine} exists" + (
        f" and takes {accelerator} in this number" if accelerator else ""
    )


def compilation(accelerator: str) -> str:
    """Says what TensorFlow has to compile before it computes on an accelerator; empty: nothing, or
    nobody knows.
    """
    capability = _CAPABILITIES.get(accelerator)
    note = compilation_note(accelerator, capability) if capability else ""
    return note and f"{note}. Every job pays this, as its disk ends with it"


# Which permissions a command needs, of whom, and why: so that nobody hands out a role that allows
# everything. `needed` shows the rows of a job, infra/README.md all of them, and Terraform grants
# them (tests/infra/test_infra_permissions.py).
#
# Read on 2026-11-22, or 2026-11-27 for Cloud Build, scans and the pages of roles, from the page
# that stands with each, but for customJobs.list and get, Cloud Logging and Cloud Storage: those
# names are from Google's lists of roles, and nobody opened their pages, nor that of quota projects.

_JOBS = (
    "docs.cloud.google.com/gemini-enterprise-agent-platform/reference/rest/v1/"
    "projects.locations.customJobs"
)
_STORAGE = "cloud.google.com/storage/docs/access-control/iam-json"
_ROLES = "docs.cloud.google.com/iam/docs/roles-permissions"
_ACCOUNT = "docs.cloud.google.com/vertex-ai/docs/general/custom-service-account"
_LOGS = "cloud.google.com/logging/docs/access-control"
_QUOTA = "docs.cloud.google.com/docs/quotas/set-quota-project"
_START = "docs.cloud.google.com/build/docs/securing-builds/configure-access-control"

_ACT_AS = "iam.serviceAccounts.actAs"
YOU, BUILD, JOB = "you", "the build's service account", "the job's service account"
_AGENTS = "the Vertex AI service agents"


class Permission(NamedTuple):
    """One IAM permission.

    Attributes:
        command: that needs it, or `the job` and `the build` themselves.
        holder: who needs it.
        name: as IAM has it.
        reason: what fails without it.
        page: where that stands.
    """

    command: str
    holder: str
    name: str
    reason: str
    page: str


SUBMIT, WATCH = "whisker-submit", "whisker-jobs"
START_BUILD, DESCRIBE = "gcloud builds submit", "gcloud artifacts docker images describe"
RUN_JOB, PUSH, SCAN, RUN_BUILD = "the job", "docker push", "make scan", "the build"

PERMISSIONS = tuple(
    Permission(*row)
    for row in (
        (SUBMIT, YOU, "aiplatform.customJobs.create", "to send the job", f"{_JOBS}/create"),
        (
            SUBMIT,
            YOU,
            "aiplatform.customJobs.list",
            "to see that the same job is not there yet",
            f"{_JOBS}/list",
        ),
        (SUBMIT, YOU, "storage.buckets.get", "to see that buckets are in its region", _STORAGE),
        (SUBMIT, YOU, _ACT_AS, "to run the job as its account", _ACCOUNT),
        # Credentials of gcloud auth application-default login name a project that pays for calls.
        (SUBMIT, YOU, "serviceusage.services.use", "to call services for the project", _QUOTA),
        (WATCH, YOU, "aiplatform.customJobs.get", "to watch the job", f"{_JOBS}/get"),
        (WATCH, YOU, "storage.objects.get", "to show how training goes", _STORAGE),
        (WATCH, YOU, "aiplatform.customJobs.cancel", "to end it early", f"{_JOBS}/cancel"),
        (WATCH, YOU, "logging.logEntries.list", "to read its log", _LOGS),
        (RUN_JOB, JOB, "storage.objects.get", "to read pictures and checkpoints", _STORAGE),
        (RUN_JOB, JOB, "storage.objects.list", "to find them", _STORAGE),
        (RUN_JOB, JOB, "storage.objects.create", "to write run folder and model", _STORAGE),
        (
            RUN_JOB,
            JOB,
            "storage.objects.delete",
            "to replace files of the run folder, and remove old checkpoints",
            _STORAGE,
        ),
        (
            RUN_JOB,
            _AGENTS,
            "artifactregistry.repositories.downloadArtifacts",
            "to pull the image",
            f"{_ROLES}/artifactregistry",
        ),
        (START_BUILD, YOU, "serviceusage.services.use", "to call the service at all", _START),
        (START_BUILD, YOU, "storage.buckets.get", "to find the folder for sources", _STORAGE),
        (START_BUILD, YOU, "storage.objects.create", "to upload the sources", _STORAGE),
        (START_BUILD, YOU, "cloudbuild.builds.create", "to build", f"{_ROLES}/cloudbuild"),
        (START_BUILD, YOU, "cloudbuild.builds.get", "to wait for it", f"{_ROLES}/cloudbuild"),
        (START_BUILD, YOU, _ACT_AS, "to build as the builder", _ACCOUNT),
        (
            DESCRIBE,
            YOU,
            "artifactregistry.tags.get",
            "to find the digest",
            f"{_ROLES}/artifactregistry",
        ),
        (RUN_BUILD, BUILD, "storage.objects.get", "to read the sources", _STORAGE),
        (RUN_BUILD, BUILD, "logging.logEntries.create", "to write its log", _LOGS),
        (
            PUSH,
            BUILD,
            "artifactregistry.repositories.uploadArtifacts",
            "to push the image",
            f"{_ROLES}/artifactregistry",
        ),
        (
            SCAN,
            BUILD,
            "ondemandscanning.scans.analyzePackages",
            "to scan images",
            f"{_ROLES}/ondemandscanning",
        ),
        (
            SCAN,
            BUILD,
            "ondemandscanning.operations.get",
            "to wait for the scan",
            f"{_ROLES}/ondemandscanning",
        ),
        (
            SCAN,
            BUILD,
            "ondemandscanning.scans.listVulnerabilities",
            "to read what it found",
            f"{_ROLES}/ondemandscanning",
        ),
    )
)


def needed(*, service_account: str, build: str) -> list[Permission]:
    """Lists what sending, watching and running a job needs.

    Args:
        service_account: that the job runs as; empty: the service's own.
        build: ``cloudbuild`` or ``docker`` where the image is built first; empty: it is there.
    """
    commands = {SUBMIT, WATCH, RUN_JOB}
    if build == "docker":
        commands |= {PUSH}
    if build == "cloudbuild":
        commands |= {START_BUILD, DESCRIBE, RUN_BUILD, PUSH}
    rows = [row for row in PERMISSIONS if row.command in commands]
    if not service_account:
        rows = [row for row in rows if (row.command, row.name) != (SUBMIT, _ACT_AS)]
    if build == "docker":
        # It is this machine that pushes.
        rows = [row._replace(holder=YOU) if row.command == PUSH else row for row in rows]
    return rows
