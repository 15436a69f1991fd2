"""What is asked of the cloud: how long, which names and paths, what the service sets."""

import dataclasses

import pytest
from google.cloud.aiplatform_v1.types import AcceleratorType

from trainer import cloud
from trainer.cloud import (
    Submission,
    environment_settings,
    facts,
    require_form,
    require_possible,
    require_remote,
)
from trainer.config import Config
from trainer.errors import ConfigError


def budget(**changes):
    return Submission(**({"dry_run": True} | changes)).budget


def test_without_a_price_the_hours_count():
    assert budget() == (86400, "24 h, by --max_hours")


def test_cost_limit_counts_every_worker_and_says_so():
    assert budget(price_per_hour=2.5, max_cost=20.0, workers=4) == (
        7200,
        "2.00 h, by --max_cost: 20 / (4 workers × 2.5 an hour)",
    )


def test_smaller_of_the_two_limits_counts():
    assert budget(max_hours=1.5, price_per_hour=2.0, max_cost=20.0) == (
        5400,
        "1.5 h, by --max_hours, 3.00 at most for 1 worker",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_cost": 5.0}, "--max_cost=5 without --price_per_hour: give what one worker costs"),
        ({"max_hours": -1.0}, r"--max_hours=-1: expected 0 to 720 \(30 days; the service ends"),
        ({"max_hours": 9999999.0}, "--max_hours=9999999: expected 0 to 720"),
        ({"workers": 99999999}, "--workers=99999999: expected 1 to 100"),
        ({"accelerator_count": 17}, "--accelerator_count=17: expected 0 to 16"),
        ({"max_cost": 1e300, "price_per_hour": 1.0}, r"--max_cost=1e\+300: expected 0 to"),
        ({"price_per_hour": float("nan")}, "--price_per_hour=nan: expected"),
        ({"max_hours": float("inf")}, "--max_hours=inf: expected"),
        ({"workers": 0}, "--workers=0: expected 1 to 100"),
        ({"max_hours": 0.0}, "would be ended after 0 s"),
        ({"max_cost": 0.01, "price_per_hour": 9.0}, "would be ended after 4 s"),
    ],
)
def test_limit_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        budget(**changes)


def test_every_number_has_a_bound():
    numbers = {field.name for field in dataclasses.fields(Submission) if field.type in (int, float)}
    assert set(cloud._BOUNDS) == numbers
    for name, (least, most, _) in cloud._BOUNDS.items():
        for value in (least - 1, most * 2, float("nan")):
            with pytest.raises(ConfigError, match=f"--{name}="):
                Submission(dry_run=True, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_uri", "--help:1"),
        ("service_account", "--help"),
        ("service_account", "a\nb: c@p.iam.gserviceaccount.com"),
        ("machine", "--help"),
        ("accelerator", "--HELP"),
        ("api_endpoint", "--help"),
        ("api_endpoint", "http://127.0.0.1:1/x y"),
        ("project", "--help"),
        ("region", "--help"),
    ],
)
@pytest.mark.parametrize("platform", ["vertex", "kubernetes"])
def test_text_that_another_program_could_take_for_something_else_is_refused(name, value, platform):
    given = {"project": "p", "region": "us-central1", name: value}
    with pytest.raises(ConfigError, match=f"--{name}=") as refusal:
        Submission(dry_run=True, platform=platform, **given)
    assert "expected" in str(refusal.value)


def test_every_text_is_checked_or_known_to_need_no_check():
    texts = {field.name for field in dataclasses.fields(Submission) if field.type is str}
    checked = {"image_uri", "service_account", "machine", "accelerator", "api_endpoint"}
    # Choices; and a name that is quoted, and checked by each platform.
    assert texts - checked - {"project", "region"} == {"build", "platform", "display_name"}


def test_batch_that_the_workers_cannot_share_is_refused_before_it_is_paid_for():
    asked = Submission(dry_run=True, workers=3)
    with pytest.raises(ConfigError, match="--batch_size=32 with --workers=3: expected a multiple"):
        asked.require_run(Config(run_dir="gs://b/r"))
    asked.require_run(Config(run_dir="gs://b/r", batch_size=33))
    two = Submission(
        dry_run=True,
        workers=2,
        machine="n1-standard-8",
        accelerator="NVIDIA_L4",
        accelerator_count=4,
    )
    with pytest.raises(ConfigError, match="expected a multiple of 8"):
        two.require_run(Config(batch_size=12))
    two.require_run(Config(batch_size=12, gpus="0,1"))


@pytest.mark.parametrize("region", ["us-central1", "northamerica-northeast1", "europe-west12"])
def test_region_and_project_of_the_right_form_pass(region):
    require_form(project="example.com:my-project", region=region)


@pytest.mark.parametrize(
    ("project", "region", "message"),
    [
        ("", "us-central1", "--project=: expected the id or number"),
        ("My Project", "us-central1", "--project=My Project: expected"),
        ("p", "", "--region=: expected a region"),
        (
            "p",
            "us-central1-a",
            r"--region=us-central1-a: expected a region, such as us-central1 \(a zone",
        ),
    ],
)
def test_what_is_no_project_or_region_is_refused(project, region, message):
    with pytest.raises(ConfigError, match=message):
        require_form(project=project, region=region)


@pytest.mark.parametrize("data", ["sample", "cats_and_dogs", "gs://bucket/pictures"])
def test_run_whose_paths_are_names_or_buckets_passes(data):
    require_remote(
        Config(
            data=data,
            base_weights="gs://bucket/w.h5",
            run_dir="gs://bucket/r",
            model_dir="gs://bucket/m",
        )
    )


def test_run_without_run_and_model_folders_passes():
    require_remote(Config(run_dir="", model_dir=""))


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        (
            "data",
            "pictures",
            "copy the folder to a bucket and give --data=gs://…, or one of sample, cats_and_dogs",
        ),
        ("data", "./sample", "give --data=gs://…"),
        ("data", "gs://", "give --data=gs://…"),
        (
            "base_weights",
            "weights/w.h5",
            "copy the file to a bucket and give --base_weights=gs://…, or one of imagenet, none",
        ),
        ("exclude", "list.txt", "copy the file to a bucket and give --exclude=gs://…"),
        ("run_dir", "runs/1", "name a folder in a bucket and give --run_dir=gs://…"),
        ("model_dir", "models", "name a store in a bucket and give --model_dir=gs://…"),
    ],
)
def test_path_of_this_machine_is_refused_with_its_cure(name, value, remedy):
    with pytest.raises(ConfigError) as refusal:
        require_remote(Config(**{name: value}))
    assert str(refusal.value).startswith(f"--{name}={value}: a job in the cloud cannot reach")
    assert remedy in str(refusal.value)


def test_folders_of_the_service_are_those_of_the_run():
    # As CustomJobSpec.base_output_directory describes them; the third is not a setting.
    assert environment_settings(
        {
            "AIP_MODEL_DIR": "gs://b/out/model/",
            "AIP_CHECKPOINT_DIR": "gs://b/out/checkpoints/",
            "AIP_TENSORBOARD_LOG_DIR": "gs://b/out/logs/",
            "CLOUD_ML_PROJECT_ID": "1",
        }
    ) == {"run_dir": "gs://b/out", "model_dir": "gs://b/out/model"}


@pytest.mark.parametrize("environment", [{}, {"AIP_MODEL_DIR": "", "AIP_CHECKPOINT_DIR": ""}])
def test_nothing_set_says_nothing(environment):
    assert environment_settings(environment) == {}


def test_folder_of_another_name_is_the_run_folder_itself():
    assert environment_settings({"AIP_CHECKPOINT_DIR": "gs://b/mine"}) == {"run_dir": "gs://b/mine"}


def test_default_pair_is_possible_and_fully_checked():
    require_possible(cloud.DEFAULT_MACHINE, cloud.DEFAULT_ACCELERATOR, 1)
    assert cloud.DEFAULT_MACHINE in facts()["machines"]


def test_every_accelerator_of_the_table_is_one_that_the_service_knows():
    kinds, counts = zip(*facts()["machines"].values(), strict=True)
    assert set(kinds) <= {member.name for member in AcceleratorType}
    assert max(counts) == cloud._BOUNDS["accelerator_count"][1]


@pytest.mark.parametrize(
    ("machine", "accelerator", "count"),
    [
        ("g2-standard-96", "NVIDIA_L4", 8),
        ("g4-standard-384", "NVIDIA_RTX_PRO_6000", 8),
        ("a2-megagpu-16g", "NVIDIA_TESLA_A100", 16),
    ],
)
def test_pair_of_the_table_passes(machine, accelerator, count):
    require_possible(machine, accelerator, count)


@pytest.mark.parametrize(
    ("machine", "accelerator", "count", "message"),
    [
        (
            "g2-standard-8",
            "NVIDIA_L4",
            2,
            (
                "g2-standard-8 is built with 1 NVIDIA_L4; give --accelerator=NVIDIA_L4"
                " --accelerator_count=1"
            ),
        ),
        ("g2-standard-8", "NVIDIA_TESLA_T4", 1, "g2-standard-8 is built with 1 NVIDIA_L4"),
        ("a2-highgpu-4g", "", 1, "a2-highgpu-4g is built with 4 NVIDIA_TESLA_A100"),
        ("n1-standard-8", "NVIDIA_B200", 8, "NVIDIA_B200 is built into a4-highgpu-8g only"),
        ("g2-standard-9", "NVIDIA_L4", 1, "give one of these machines"),
        ("n1-standard-8", "NVIDIA_TESLA_T4", 0, "--accelerator_count=0: expected at least 1"),
        ("", "", 1, "--machine=: expected a machine type, such as g2-standard-8"),
        ("a4x-highgpu-4g", "NVIDIA_GB200", 4, "the processors there are Arm"),
        ("a4x-maxgpu-4g", "NVIDIA_GB300", 4, "the processors there are Arm"),
        ("n1-standard-8", "NVIDIA_GB200", 4, "the processors there are Arm"),
        ("c4a-standard-8", "", 0, "the trainer's image is for x86-64; give another machine"),
        ("t2a-standard-8", "", 0, "the processors there are Arm"),
        ("e2\nx: y", "", 0, "expected a machine type"),
        ("--help", "", 0, "--machine=--help: expected a machine type"),
        ("e2-standard-8", "T4\nx", 1, "expected an accelerator type"),
    ],
)
def test_impossible_pair_is_refused_with_what_fits(machine, accelerator, count, message):
    with pytest.raises(ConfigError) as refusal:
        require_possible(machine, accelerator, count)
    assert message in str(refusal.value)


def test_machine_that_is_not_in_the_table_passes():
    require_possible("n1-standard-8", "NVIDIA_TESLA_T4", 4)
    require_possible("e2-standard-8", "", 1)
