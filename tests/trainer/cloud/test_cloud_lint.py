import copy

import pytest

from trainer.cloud.submission import require_acceptable, require_labels, require_place
from trainer.errors import ConfigError

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
