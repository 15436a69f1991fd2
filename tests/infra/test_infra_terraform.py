"""The check of Terraform files, on documents in the form in which python-hcl2 reads them; `make
check` reads ours.
"""

import importlib.util
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


SPEC = importlib.util.spec_from_file_location(
    "check_terraform", ROOT / "infra" / "check_terraform.py"
)
check_terraform = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_terraform)

RIGHT = {
    "variable": [{'"project"': {"type": "string", "__is_block__": True}}],
    "locals": [{"days": 7, "__is_block__": True}],
    "data": [{'"google_project"': {'"this"': {}}}],
    "resource": [
        {
            '"google_storage_bucket"': {
                '"all"': {
                    "name": '"${var.project}-data"',
                    "lifecycle_rule": [{"condition": [{"age": "${local.days}"}]}],
                }
            }
        },
        {
            '"google_storage_bucket_iam_member"': {
                '"reader"': {
                    "bucket": '${google_storage_bucket.all["data"].name}',
                    "role": '"roles/storage.objectViewer"',
                    "member": (
                        '"principal://iam.googleapis.com/projects/${data.google_project.this.number}/x"'
                    ),
                }
            }
        },
        {
            '"google_project_iam_member"': {
                '"logs"': {
                    "for_each": {"logs": '"roles/logging.logWriter"'},
                    "role": "${each.value}",
                    "member": '"serviceAccount:a"',
                }
            }
        },
    ],
}


def test_a_folder_whose_names_and_grants_are_right_has_no_problem():
    assert check_terraform.problems([RIGHT]) == []


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"locals": [{"x": "${var.region}"}]}, "var.region: used, and not declared"),
        ({"variable": [{'"idle"': {}}]}, "var.idle: declared, and not used"),
        ({"locals": [{"idle": 1}]}, "local.idle: declared, and not used"),
        (
            {"output": [{'"x"': {"value": "${google_storage_bucket.al.id}"}}]},
            "google_storage_bucket.al: used, and not",
        ),
        (
            {"output": [{'"x"': {"value": '"${data.google_project.that.id}"'}}]},
            "data.google_project.that: used, and not",
        ),
        (
            {"output": [{'"x"': {"role": '"roles/editor"'}}]},
            'role = "roles/editor": allows too much',
        ),
        ({"output": [{'"x"': {"for_each": '${toset(["roles/owner"])}'}}]}, "allows too much"),
        ({"output": [{'"x"': {"member": '"allAuthenticatedUsers"'}}]}, "or everybody"),
        ({"output": [{'"x"': {"permissions": ['"storage.*"']}}]}, "a wildcard"),
        (
            {
                "resource": [
                    {'"google_project_iam_member"': {'"x"': {"role": '"roles/storage.admin"'}}}
                ]
            },
            "google_project_iam_member.x: roles/storage.admin on the whole project",
        ),
    ],
)
def test_problem_is_named(more, problem):
    assert any(problem in line for line in check_terraform.problems([RIGHT, more]))


# In the form of jsii: an attribute, a block, and a block of which there may be several.
TYPES = {
    "p.storageBucket.StorageBucketConfig": [
        {"name": "location", "type": {"primitive": "string"}},
        {"name": "forceDestroy", "optional": True, "type": {"primitive": "boolean"}},
        {"name": "versioning", "optional": True, "type": {"fqn": "p.storageBucket.Versioning"}},
        {
            "name": "lifecycleRule",
            "optional": True,
            "type": {
                "union": {
                    "types": [
                        {"fqn": "cdktf.IResolvable"},
                        {"collection": {"elementtype": {"fqn": "p.storageBucket.Rule"}}},
                    ]
                }
            },
        },
    ],
    "p.storageBucket.Versioning": [{"name": "enabled", "type": {"primitive": "boolean"}}],
    "p.storageBucket.Rule": [{"name": "age", "optional": True, "type": {"primitive": "number"}}],
    "p.dataGoogleProject.DataGoogleProjectConfig": [],
}
GIVEN = {
    "location": '"x"',
    "for_each": "${local.all}",
    "versioning": [{"enabled": True, "__is_block__": True}],
    "lifecycle_rule": [{"age": 1, "__is_block__": True}, {"__is_block__": True}],
    "__is_block__": True,
}


@pytest.fixture
def wheel(tmp_path):
    types = {
        name: {"fqn": name, "kind": "interface", "properties": properties}
        for name, properties in TYPES.items()
    }
    content = json.dumps({"types": types}).encode()
    package = io.BytesIO()
    with tarfile.open(fileobj=package, mode="w:gz") as files:
        entry = tarfile.TarInfo("package/.jsii")
        entry.size = len(content)
        files.addfile(entry, io.BytesIO(content))
    with zipfile.ZipFile(tmp_path / "provider.whl", "w") as files:
        files.writestr("provider/_jsii/provider.jsii.tgz", package.getvalue())
    return tmp_path / "provider.whl"


def refused(wheel, changes=(), kind="google_storage_bucket"):
    body = GIVEN | dict(changes)
    document = {
        "resource": [{f'"{kind}"': {'"all"': {k: v for k, v in body.items() if v is not None}}}],
        "data": [{'"google_project"': {'"this"': {"depends_on": [], "__is_block__": True}}}],
    }
    return check_terraform.unknown(document, check_terraform.schema(wheel))


def test_what_the_provider_s_schema_takes_has_no_problem(wheel):
    assert refused(wheel) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"locations": '"x"'}, "google_storage_bucket.all: there is no argument locations"),
        ({"location": None}, "google_storage_bucket.all: location must be given"),
        ({"versioning": {"enabled": True}}, "google_storage_bucket.all: versioning is a block"),
        (
            {"force_destroy": [{"__is_block__": True}]},
            "google_storage_bucket.all: force_destroy is no block",
        ),
        (
            {"versioning": [{"on": True, "__is_block__": True}]},
            "google_storage_bucket.all.versioning: enabled must be given",
        ),
        (
            {"lifecycle_rule": [{"__is_block__": True}, {"ages": 1, "__is_block__": True}]},
            "google_storage_bucket.all.lifecycle_rule: there is no argument ages",
        ),
    ],
)
def test_what_the_provider_s_schema_refuses_is_named(wheel, changes, problem):
    assert problem in refused(wheel, changes)


def test_resource_that_the_provider_lacks_is_named(wheel):
    assert refused(wheel, kind="google_storage_buckets") == [
        "google_storage_buckets.all: the provider has no such resource"
    ]
