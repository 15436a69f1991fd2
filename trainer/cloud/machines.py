"""The vendor's facts, dated, in one place: machines and their GPUs, and permissions."""

from typing import NamedTuple

from trainer.errors import ConfigError

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
    "a4x-highgpu-4g": ("NVIDIA_GB200", 4),
}


def require_possible(machine: str, accelerator: str, count: int) -> None:
    """Refuses a machine and accelerators that do not exist together.

    Args:
        machine: machine type, such as ``g2-standard-8``.
        accelerator: accelerator type, such as ``NVIDIA_L4``; empty for none.
        count: accelerators in the machine; looked at only where there is an `accelerator`.

    Raises:
        ConfigError: the pair is impossible; the text names the values that fit.
    """
    pair = f"--machine={machine} --accelerator={accelerator}"
    if not machine:
        raise ConfigError(f"--machine is empty: expected a machine type, such as {DEFAULT_MACHINE}")
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


# Which permissions a job needs, of whom, and why: so that nobody hands out a role that allows
# everything.
#
# Read on 2026-11-22 from the page that stands with each, but for customJobs.list and get, Cloud
# Logging and Cloud Storage: those names are from Google's lists of roles, and nobody opened their
# pages.

_JOBS = (
    "docs.cloud.google.com/gemini-enterprise-agent-platform/reference/rest/v1/"
    "projects.locations.customJobs"
)
_STORAGE = "cloud.google.com/storage/docs/access-control/iam-json"
_IMAGES = "docs.cloud.google.com/iam/docs/roles-permissions/artifactregistry"
_ACCOUNT = "docs.cloud.google.com/vertex-ai/docs/general/custom-service-account"
_LOGS = "cloud.google.com/logging/docs/access-control"
_BUILDS = "docs.cloud.google.com/iam/docs/roles-permissions/cloudbuild"

_YOU = "you"
_JOB = "the job's service account"


class Permission(NamedTuple):
    """One IAM permission.

    Attributes:
        name: as IAM has it.
        holder: who needs it.
        reason: what fails without it.
        page: where that stands.
    """

    name: str
    holder: str
    reason: str
    page: str


def needed(*, service_account: str, build: str) -> list[Permission]:
    """Lists what sending, watching and running a job needs.

    Args:
        service_account: that the job runs as; empty: the service's own.
        build: ``cloudbuild`` or ``docker`` where the image is built first; empty: it is there.
    """
    builder = _YOU if build == "docker" else "the build's service account"
    rows = [
        ("aiplatform.customJobs.create", _YOU, "to send the job", f"{_JOBS}/create"),
        (
            "aiplatform.customJobs.list",
            _YOU,
            "to see that the same job is not there yet",
            f"{_JOBS}/list",
        ),
        ("aiplatform.customJobs.get", _YOU, "to watch it", f"{_JOBS}/get"),
        ("aiplatform.customJobs.cancel", _YOU, "to end it early", f"{_JOBS}/cancel"),
        ("logging.logEntries.list", _YOU, "to read its log", _LOGS),
        ("storage.buckets.get", _YOU, "to see that buckets are in the job's region", _STORAGE),
        ("storage.objects.get", _YOU, "to show how training goes, from the run folder", _STORAGE),
        ("storage.objects.get", _JOB, "to read pictures and checkpoints", _STORAGE),
        ("storage.objects.list", _JOB, "to find them", _STORAGE),
        ("storage.objects.create", _JOB, "to write run folder and model", _STORAGE),
        (
            "storage.objects.delete",
            _JOB,
            "to replace files of the run folder, and remove old checkpoints",
            _STORAGE,
        ),
        (
            "artifactregistry.repositories.downloadArtifacts",
            "the Vertex AI service agents",
            "to pull the image",
            _IMAGES,
        ),
    ]
    if service_account:
        reason = f"on {service_account}, to run the job as it"
        rows.append(("iam.serviceAccounts.actAs", _YOU, reason, _ACCOUNT))
    if build == "cloudbuild":
        rows.append(("cloudbuild.builds.create", _YOU, "to build the image", _BUILDS))
    if build:
        push = "artifactregistry.repositories.uploadArtifacts"
        rows.append((push, builder, "to push the image", _IMAGES))
    return [Permission(*row) for row in rows]
