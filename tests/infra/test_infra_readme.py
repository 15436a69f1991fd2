import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trainer.cloud import specification

ROOT = Path(__file__).parents[2]
README = ROOT / "infra" / "README.md"
TEXT = README.read_text("utf-8")
# What Terraform leaves behind where somebody has used it.
FILES = [
    path
    for path in sorted((ROOT / "infra").rglob("*"))
    if path.is_file() and not re.search(r"\.terraform|tfstate|__pycache__", str(path))
]
MADE_BY_TERRAFORM = {"infra/terraform/.terraform.lock.hcl", "infra/terraform/terraform.tfstate"}
TERRAFORM = "".join(path.read_text("utf-8") for path in FILES if path.suffix == ".tf")

# What infra/vertex/job.yaml and infra/kubernetes/train.yaml are made for.
EXAMPLE = {"PROJECT": "my-project", "REGION": "us-central1", "TRAINER": "sha256:" + "0" * 64}


@pytest.mark.parametrize("page", [ROOT / "cloudbuild.yaml", *FILES], ids=lambda page: page.name)
def test_paths_and_modules_that_infrastructure_names_exist(page):
    text = page.read_text("utf-8")
    for path in re.findall(
        r"(?<![\w/$}])(?:infra|requirements|trainer|serving|tests)/[\w./-]*\w", text
    ):
        # An image's name has the form of a path, and a tag or digest after it.
        if not re.search(rf"{re.escape(path)}[:@]", text):
            assert (ROOT / path).exists() or path in MADE_BY_TERRAFORM, path
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert module == "venv" or importlib.util.find_spec(module), module


def test_every_file_of_the_folder_is_in_the_table():
    for path in FILES:
        assert path == README or f"| `{path.relative_to(ROOT)}` |" in TEXT, path


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (README.parent / target).is_file(), target
    headings = {
        re.sub(r"\W+", "-", line.lower()) for line in re.findall(r"^##+ (.+)$", TEXT, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#(.+?)\)", TEXT)) <= headings


def test_make_targets_that_the_page_names_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"(?:^ *|`)make ([\w-]+)(?:`|$)", TEXT, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("name", ["vertex/job.yaml", "kubernetes/train.yaml"])
def test_job_file_is_what_the_page_s_command_prints(tmp_path, name):
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    submits = [block for block in blocks if "whisker-submit" in block]
    (command,) = (
        block
        for block in submits
        if ("--platform=kubernetes" in block) == name.startswith("kubernetes")
    )
    printed = tmp_path / "job.yaml"
    command = command.replace(".venv/bin", f"'{Path(sys.executable).parent}'").replace(
        "job.yaml", f"'{printed}'"
    )
    subprocess.run(
        ["bash", "-euc", command],
        cwd=ROOT,
        env={**os.environ, **EXAMPLE},
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert printed.read_bytes() == (ROOT / "infra" / name).read_bytes()


def test_job_files_run_the_image_s_own_command_on_a_gpu_or_not_at_all():
    job, pod = (
        yaml.safe_load((ROOT / "infra" / name).read_text("utf-8"))
        for name in ("vertex/job.yaml", "kubernetes/train.yaml")
    )
    for container in (
        job["workerPoolSpecs"][0]["containerSpec"],
        pod["spec"]["template"]["spec"]["containers"][0],
    ):
        assert tuple(container["command"]) == specification.COMMAND
        assert "--require_gpu=true" in container["args"]


def test_variables_and_outputs_that_the_page_names_are_terraform_s():
    variables = set(re.findall(r'^variable "(\w+)"', TERRAFORM, re.MULTILINE))
    assert set(re.findall(r"-var=(\w+)=", TEXT)) <= variables
    outputs = set(re.findall(r'^output "(\w+)"', TERRAFORM, re.MULTILINE))
    assert set(re.findall(r"`(?:terraform -chdir=infra/terraform )?output (\w+)`", TEXT)) <= outputs
    # Without it no command of the page finds what Terraform made.
    for name, default in (
        ("region", "us-central1"),
        ("repository", "whisker"),
        ("namespace", "default"),
    ):
        assert re.search(rf'variable "{name}" {{[^}}]*default += "{default}"', TERRAFORM), name


def test_accounts_buckets_and_cluster_that_the_page_names_are_terraform_s():
    accounts = set(re.findall(r'account_id += "([\w-]+)"', TERRAFORM))
    assert set(re.findall(r"([\w-]+)@\$PROJECT\.iam", TEXT)) <= accounts
    pods = set(re.findall(r'"\$\{local\.pods\}/([\w-]+)"', TERRAFORM))
    manifests = (path for path in FILES if path.parent.name == "kubernetes")
    assert pods == {
        name
        for path in manifests
        for name in re.findall(r"serviceAccountName: (\S+)", path.read_text())
    }
    days = dict(
        re.findall(
            r"(\w+) = (\d+)\n", re.search(r"\n  buckets = \{.*?\n  \}", TERRAFORM, re.DOTALL)[0]
        )
    )
    assert f"some days ({', '.join(f'{name} {count}' for name, count in days.items())})" in TEXT
    assert set(re.findall(r"(?:\$PROJECT|PROJECT)-whisker-(\w+)", TEXT)) == set(days)
    assert '"${var.project}-whisker-${each.key}"' in TERRAFORM
    (cluster,) = re.findall(
        r'resource "google_container_cluster" "\w+" {[^}]*?\n  name += "(\w+)"', TERRAFORM
    )
    assert set(re.findall(r"get-credentials (\S+)", TEXT)) == {cluster}


def test_substitutions_that_the_page_gives_are_the_build_s():
    build = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text("utf-8"))
    assert set(re.findall(r"\b(_[A-Z][A-Z_]+)=", TEXT)) <= set(build["substitutions"])
