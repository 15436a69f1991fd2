"""Every permission that a command needs is in a role that Terraform grants; infra/README.md lists
them: `python -m tests.infra.test_infra_permissions` writes it.
"""

import re
from pathlib import Path

import pytest

from trainer.cloud import facts

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "infra" / "README.md"
BLOCKS = {
    (kind, name): body
    for kind, name, body in re.findall(
        r'^resource "(\w+)" "(\w+)" {\n(.*?)^}',
        "".join(path.read_text("utf-8") for path in sorted((ROOT / "infra").rglob("*.tf"))),
        re.DOTALL | re.MULTILINE,
    )
}

# What the roles hold of it, read on 2026-11-27 from docs.cloud.google.com/iam/docs/
# roles-permissions, but for iam, logging and storage, which nobody opened.
READY_MADE = {
    "roles/artifactregistry.reader": {
        "artifactregistry.repositories.downloadArtifacts",
        "artifactregistry.tags.get",
    },
    "roles/artifactregistry.writer": {
        "artifactregistry.repositories.downloadArtifacts",
        "artifactregistry.repositories.uploadArtifacts",
        "artifactregistry.tags.get",
    },
    "roles/container.defaultNodeServiceAccount": set(),
    "roles/iam.serviceAccountUser": {"iam.serviceAccounts.actAs"},
    "roles/logging.logWriter": {"logging.logEntries.create"},
    "roles/ondemandscanning.admin": {
        "ondemandscanning.operations.get",
        "ondemandscanning.scans.analyzePackages",
        "ondemandscanning.scans.listVulnerabilities",
    },
    "roles/storage.objectUser": {
        f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list")
    },
    "roles/storage.objectViewer": {"storage.objects.get", "storage.objects.list"},
}

# Who gives which command: a workflow elsewhere is the builder, and so is the build that it starts,
# which submits the job and does not watch it.
OF_THE_BUILDER = (
    "gcloud builds submit",
    "gcloud artifacts docker images describe",
    "the build",
    "docker push",
    "make scan",
    "whisker-submit",
)
OF_THE_TRAINER = ("the job",)
YOU, BUILD, JOB = "you", "the build's service account", "the job's service account"


def permissions():
    for group in facts()["permissions"]:
        for name, reason, _ in group["needs"]:
            yield group["command"], name, group["holder"], reason


def granted(member):
    """The permissions in all roles that name a member."""
    found = set()
    for body in BLOCKS.values():
        if not re.search(rf"member += {re.escape(member)}$", body, re.MULTILINE):
            continue
        for role in re.findall(r'"(roles/[\w.]+)"', body):
            found |= READY_MADE[role]
        for role in re.findall(r"google_project_iam_custom_role\.(\w+)\.", body):
            found |= set(
                re.findall(
                    r'"([\w.]+)"',
                    re.search(
                        r"permissions += \[(.*?)\]",
                        BLOCKS["google_project_iam_custom_role", role],
                        re.DOTALL,
                    )[1],
                )
            )
    return found


def needed(commands, holders):
    return {
        name
        for command, name, holder, _ in permissions()
        if command in commands and holder in holders
    }


@pytest.mark.parametrize(
    ("member", "commands"),
    [
        ("google_service_account.builder.member", OF_THE_BUILDER),
        ("google_service_account.trainer.member", OF_THE_TRAINER),
        ('"${local.pods}/whisker-trainer"', OF_THE_TRAINER),
    ],
)
def test_account_is_granted_what_its_commands_need(member, commands):
    everybody = {YOU, BUILD, JOB}
    assert needed(commands, everybody) <= granted(member)


def test_own_role_holds_nothing_that_no_command_needs():
    needs = needed(OF_THE_BUILDER, {YOU, BUILD})
    for (kind, name), body in BLOCKS.items():
        if kind == "google_project_iam_custom_role":
            held = set(re.findall(r'^ +"([a-z]+\.[\w.]+)"|\["([\w.]+)"\]', body, re.MULTILINE))
            assert {a or b for a, b in held} <= needs, name


def test_starting_a_build_needs_to_use_the_service():
    assert "serviceusage.services.use" in needed(["gcloud builds submit"], {YOU})


def table():
    lines = ["    | command | permission | of | to |", "    |---|---|---|---|"]
    for command, name, holder, reason in permissions():
        lines.append(f"    | {command} | `{name}` | {holder} | {reason.removeprefix('to ')} |")
    return "\n".join(lines)


TABLE = re.compile(
    r"(    <!-- permissions: [^\n]+ -->\n).*?(    <!-- end of permissions -->)", re.DOTALL
)


def page(text):
    return TABLE.sub(lambda found: f"{found[1]}\n{table()}\n\n{found[2]}", text)


def test_page_lists_the_permissions_of_every_command():
    text = PAGE.read_text("utf-8")
    assert TABLE.search(text)
    assert text == page(text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), encoding="utf-8")
