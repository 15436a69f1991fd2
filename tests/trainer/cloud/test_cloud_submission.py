"""What is asked of the cloud: how long, which names and paths, what the service sets."""

import copy

import pytest

from trainer.cloud import submission
from trainer.cloud.submission import (
    environment_settings,
    require_acceptable,
    require_labels,
    require_place,
    require_remote,
)
from trainer.config import Config
from trainer.errors import ConfigError

ASKED = {"max_hours": 24.0, "price_per_hour": 0.0, "max_cost": 0.0, "workers": 1}


def test_without_a_price_the_hours_count():
    made = submission.make_budget(**ASKED)
    assert (made.timeout_s, made.reason, made.cost(3600)) == (86400, "24 h, by --max_hours", 0.0)


def test_cost_limit_counts_every_worker_and_says_so():
    made = submission.make_budget(
        **(ASKED | {"price_per_hour": 2.5, "max_cost": 20.0, "workers": 4})
    )
    assert made.timeout_s == 7200
    assert made.reason == "2.00 h, by --max_cost: 20 / (4 workers × 2.5 an hour)"
    assert made.cost(7200) == 20.0


def test_smaller_of_the_two_limits_counts():
    made = submission.make_budget(
        **(ASKED | {"max_hours": 1.5, "price_per_hour": 2.0, "max_cost": 20.0})
    )
    assert (made.timeout_s, made.reason) == (
        5400,
        "1.5 h, by --max_hours, 3.00 at most for 1 worker",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_cost": 5.0}, "--max_cost=5 without --price_per_hour: give what one worker costs"),
        ({"max_hours": -1.0}, "--max_hours=-1: expected a number of at least 0"),
        ({"price_per_hour": float("nan")}, "--price_per_hour=nan: expected"),
        ({"max_hours": float("inf")}, "--max_hours=inf: expected"),
        ({"workers": 0}, "--workers=0: expected at least 1"),
        ({"max_hours": 0.0}, "would be ended after 0 s"),
        ({"max_cost": 0.01, "price_per_hour": 9.0}, "would be ended after 4 s"),
    ],
)
def test_limit_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        submission.make_budget(**(ASKED | changes))


POOL = {
    "machineSpec": {
        "machineType": "g2-standard-8",
        "acceleratorType": "NVIDIA_L4",
        "acceleratorCount": 1,
    },
    "replicaCount": 1,
    "containerSpec": {"imageUri": "i"},
}


def pool(**changes):
    return copy.deepcopy(POOL) | changes


def spec(*pools, **more):
    return {"workerPoolSpecs": list(pools), **more}


def test_chief_and_workers_and_an_empty_pool_between_pass():
    account = {"serviceAccount": "w@p.iam.gserviceaccount.com", "tensorboard": "projects/1/…"}
    require_acceptable(spec(pool(), {}, pool(replicaCount=5), **account))
    require_labels({"whisker-spec": "0a"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (spec(), "expected 1 to 4 pools, received 0"),
        (spec(*[pool()] * 5), "expected 1 to 4 pools, received 5"),
        (
            spec(pool(replicaCount=2)),
            r"workerPoolSpecs\[0\]: expected one replica, the chief, received 2",
        ),
        (spec({}), r"workerPoolSpecs\[0\]: expected one replica"),
        (
            spec(pool(), pool(replicaCount=0)),
            r"workerPoolSpecs\[1\]: expected at least one replica",
        ),
        (spec(pool(containerSpec={})), r"workerPoolSpecs\[0\]: no image; give --image_uri"),
        (
            spec(pool(), pool(machineSpec={"machineType": "g2-standard-8"})),
            "g2-standard-8 is built with 1 NVIDIA_L4",
        ),
        (
            spec(pool(), serviceAccount="somebody@example.com"),
            "--service_account=somebody@example.com: expected",
        ),
        (
            spec(pool(), tensorboard="t"),
            "tensorboard: the service writes there as a service account",
        ),
    ],
)
def test_what_the_service_would_refuse_is_named(content, message):
    with pytest.raises(ConfigError, match=message):
        require_acceptable(content)


@pytest.mark.parametrize("label", ["Upper", "a b", "x" * 64, "a.b"])
def test_label_with_other_characters_is_refused(label):
    for labels in ({label: "x"}, {"x": label}):
        with pytest.raises(ConfigError, match="expected at most 63 lowercase letters"):
            require_labels(labels)


@pytest.mark.parametrize("region", ["us-central1", "northamerica-northeast1", "europe-west12"])
def test_region_and_project_of_the_right_form_pass(region):
    require_place("example.com:my-project", region)


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
        require_place(project, region)


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
