"""Which permissions a job needs, of whom, and why: so that nobody hands out a role that allows
everything.

Read on 2026-11-22 from the page that stands with each, but for customJobs.list and get, Cloud
Logging and Cloud Storage: those names are from Google's lists of roles, and nobody opened their
pages.
"""

from dataclasses import dataclass

_JOBS = (
    "docs.cloud.google.com/gemini-enterprise-agent-platform/reference/rest/v1/"
    "projects.locations.customJobs"
)
_STORAGE = "cloud.google.com/storage/docs/access-control/iam-json"
_IMAGES = "docs.cloud.google.com/iam/docs/roles-permissions/artifactregistry"
_ACCOUNT = "docs.cloud.google.com/vertex-ai/docs/general/custom-service-account"
_LOGS = "cloud.google.com/logging/docs/access-control"
_BUILDS = "docs.cloud.google.com/iam/docs/roles-permissions/cloudbuild"

YOU = "you"
JOB = "the job's service account"
SERVICE = "the Vertex AI service agents"


@dataclass(frozen=True)
class Permission:
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
    rows = [
        *(
            (f"aiplatform.customJobs.{method}", YOU, reason, f"{_JOBS}/{method}")
            for method, reason in (
                ("create", "to send the job"),
                ("list", "to see that the same job is not there yet"),
                ("get", "to watch it"),
                ("cancel", "to end it early"),
            )
        ),
        ("logging.logEntries.list", YOU, "to read its log", _LOGS),
        ("storage.buckets.get", YOU, "to see that buckets are in the job's region", _STORAGE),
        ("storage.objects.get", YOU, "to show how training goes, from the run folder", _STORAGE),
        ("storage.objects.get", JOB, "to read pictures and checkpoints", _STORAGE),
        ("storage.objects.list", JOB, "to find them", _STORAGE),
        ("storage.objects.create", JOB, "to write run folder and model", _STORAGE),
        (
            "storage.objects.delete",
            JOB,
            "to replace files of the run folder, and remove old checkpoints",
            _STORAGE,
        ),
        ("artifactregistry.repositories.downloadArtifacts", SERVICE, "to pull the image", _IMAGES),
    ]
    if service_account:
        rows.append(
            (
                "iam.serviceAccounts.actAs",
                YOU,
                f"on {service_account}, to run the job as it",
                _ACCOUNT,
            )
        )
    if build == "cloudbuild":
        rows.append(("cloudbuild.builds.create", YOU, "to build the image", _BUILDS))
    if build:
        builder = YOU if build == "docker" else "the build's service account"
        rows.append(
            ("artifactregistry.repositories.uploadArtifacts", builder, "to push the image", _IMAGES)
        )
    return [Permission(*row) for row in rows]
