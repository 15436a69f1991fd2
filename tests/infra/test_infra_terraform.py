"""The check of Terraform files, on documents in the form in which python-hcl2 reads them; `make
check` reads ours.
"""

import importlib.util
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
