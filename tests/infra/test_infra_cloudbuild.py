import re
import string
import subprocess
from pathlib import Path

import pytest
import yaml
from google.cloud.devtools.cloudbuild_v1.types import Build, BuildOptions
from google.protobuf import json_format

ROOT = Path(__file__).parents[2]

# Substitutions that the service always defines, also for a build that no trigger started.
BUILT_IN = {"PROJECT_ID", "PROJECT_NUMBER", "BUILD_ID", "LOCATION"}


@pytest.fixture(scope="module")
def text():
    return (ROOT / "cloudbuild.yaml").read_text("utf-8")


@pytest.fixture(scope="module")
def build(text):
    message = Build()
    json_format.ParseDict(yaml.safe_load(text), Build.pb(message))
    return message


def make_targets(build):
    return [next(word for word in step.args if "=" not in word) for step in build.steps]


def used(text):
    # "$$" is a dollar sign for the shell, not a substitution.
    body = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return set(re.findall(r"(?<!\$)\$\{?(\w+)\}?", body))


def test_message_of_the_service_refuses_a_field_that_it_does_not_know(text):
    broken = yaml.safe_load(text) | {"step": []}
    with pytest.raises(json_format.ParseError, match='no field named "step"'):
        json_format.ParseDict(broken, Build.pb(Build()))


def test_steps_check_then_test_then_build_images_by_make(build):
    assert [step.entrypoint for step in build.steps] == ["make"] * 3
    assert make_targets(build) == ["check", "test", "images"]


def test_every_step_has_an_image_with_a_name_and_an_id_of_its_own(build):
    assert all(step.name for step in build.steps)
    ids = [step.id for step in build.steps]
    assert all(ids)
    assert len(set(ids)) == len(ids)


def test_steps_wait_for_earlier_steps_only(build):
    earlier = {"-"}
    for step in build.steps:
        assert set(step.wait_for) <= earlier, step.id
        earlier.add(step.id)


def test_substitutions_are_well_named_defined_and_used(build, text):
    defined = set(build.substitutions)
    assert all(re.fullmatch(r"_[A-Z0-9_]+", name) for name in defined)
    assert used(text) - BUILT_IN == defined


def test_own_service_account_is_possible(build):
    assert build.options.logging == BuildOptions.LoggingMode.CLOUD_LOGGING_ONLY


def test_make_has_every_target_that_a_step_calls(build):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in make_targets(build):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_images_that_are_pushed_are_those_that_make_builds(build):
    values = dict(build.substitutions) | {"PROJECT_ID": "project", "BUILD_ID": "build"}
    (step,) = [step for step in build.steps if step.id == "images"]
    arguments = [string.Template(argument).substitute(values) for argument in step.args]
    dry_run = subprocess.run(
        ["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    commands = [line for line in dry_run.stdout.replace("\\\n", " ").splitlines() if "docker build" in line]
    tags = [re.search(r"--tag[= ](\S+)", line)[1] for line in commands]
    assert sorted(tags) == sorted(string.Template(image).substitute(values) for image in build.images)
    for line in commands:
        assert (ROOT / re.search(r"--file[= ](\S+)", line)[1]).is_file(), line
