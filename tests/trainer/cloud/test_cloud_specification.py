import copy
import datetime

import pytest
import yaml
from google.cloud.aiplatform_v1.types import AcceleratorType, CustomJobSpec, Scheduling
from google.protobuf import json_format

from tests.trainer.cloud.job_service import require_acceptable, require_labels
from trainer.cloud import Submission, specification
from trainer.errors import ConfigError

ASKED = {
    "image_uri": "example.dev/p/r/trainer:1",
    "machine": "g2-standard-24",
    "accelerator": "NVIDIA_L4",
    "accelerator_count": 2,
    "max_hours": 0.025,
    "dry_run": True,
}
ARGUMENTS = ["--data=gs://b/p", "--epochs=3"]


def custom_job(arguments=ARGUMENTS, **changes):
    return specification.custom_job(Submission(**(ASKED | changes)), arguments)


def message_of(spec):
    message = CustomJobSpec()
    json_format.ParseDict(spec, CustomJobSpec.pb(message))
    return message


def arguments_of(**changes):
    return custom_job(**changes)["workerPoolSpecs"][0]["containerSpec"]["args"]


def test_specification_reads_back_from_the_service_message():
    message = message_of(custom_job())
    assert len(message.worker_pool_specs) == 1
    pool = message.worker_pool_specs[0]
    assert pool.replica_count == 1
    assert pool.machine_spec.machine_type == "g2-standard-24"
    assert pool.machine_spec.accelerator_type == AcceleratorType.NVIDIA_L4
    assert pool.machine_spec.accelerator_count == 2
    assert pool.container_spec.image_uri == "example.dev/p/r/trainer:1"
    assert list(pool.container_spec.command) == ["python", "-m", "trainer.task"]
    assert list(pool.container_spec.args) == ["--data=gs://b/p", "--epochs=3", "--require_gpu=true"]
    assert message.scheduling == Scheduling(timeout=datetime.timedelta(seconds=90))
    assert message.service_account == ""


def test_workers_are_one_chief_and_the_rest_and_begin_again_together():
    message = message_of(custom_job(workers=3))
    chief, others = message.worker_pool_specs
    assert (chief.replica_count, others.replica_count) == (1, 2)
    assert chief.machine_spec == others.machine_spec
    assert chief.container_spec == others.container_spec
    assert message.scheduling.restart_job_on_worker_restart


def test_spot_and_service_account_are_passed_on():
    message = message_of(custom_job(spot=True, service_account="w@p.iam.gserviceaccount.com"))
    assert message.scheduling.strategy == Scheduling.Strategy.SPOT
    assert message.service_account == "w@p.iam.gserviceaccount.com"


def test_machine_without_accelerator_names_none_and_requires_no_gpu():
    spec = custom_job(machine="e2-standard-8", accelerator="")
    machine = message_of(spec).worker_pool_specs[0].machine_spec
    assert machine.accelerator_type == AcceleratorType.ACCELERATOR_TYPE_UNSPECIFIED
    assert machine.accelerator_count == 0
    assert spec["workerPoolSpecs"][0]["containerSpec"]["args"] == ARGUMENTS


@pytest.mark.parametrize("given", ["--require_gpu=true", "--require_gpu=false"])
def test_require_gpu_of_the_user_is_kept_as_given(given):
    assert arguments_of(arguments=[given]) == [given]


def test_arguments_of_the_caller_are_not_changed():
    arguments = ["--epochs=3"]
    arguments_of(arguments=arguments)
    assert arguments == ["--epochs=3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_uri": ""}, "--image_uri=: expected the image that holds the trainer"),
        ({"image_uri": "a b"}, "--image_uri=a b: expected"),
        ({"image_uri": "a\nb"}, "expected the image that holds the trainer"),
        ({"accelerator_count": 3}, "g2-standard-24 is built with 2 NVIDIA_L4"),
        (
            {"machine": "n1-standard-8", "accelerator": "T4"},
            "CustomJobSpec refuses these settings: ",
        ),
        ({"service_account": "me"}, "--service_account=me: expected an address such as"),
        (
            {"machine": "a4x-highgpu-4g", "accelerator": "NVIDIA_GB200", "accelerator_count": 4},
            "the processors there are Arm",
        ),
        (
            {"machine": "e2-standard-8", "accelerator": "", "arguments": ["--require_gpu=true"]},
            "--require_gpu without an accelerator",
        ),
    ],
)
def test_setting_that_the_service_could_not_run_is_refused(changes, message):
    with pytest.raises(ConfigError) as refusal:
        custom_job(**changes)
    assert message in str(refusal.value)


def test_enum_refused_by_the_message_is_named_by_value():
    with pytest.raises(ConfigError, match="Invalid enum value T4"):
        custom_job(machine="n1-standard-8", accelerator="T4")


def test_yaml_below_its_comments_is_the_made():
    arguments = ["--model_name=a: b #c", "--data=gs://b/Größe", "--run_dir=gs://b/" + "long/" * 60]
    spec = custom_job(arguments)
    text = specification.to_yaml([spec], ["one", "two"])
    assert text.startswith("# one\n# two\nworkerPoolSpecs:\n")
    assert yaml.safe_load(text) == spec
    message_of(yaml.safe_load(text))


def test_same_run_has_the_same_label_and_any_other_another():
    spec = custom_job()
    label = specification.labels(spec, "whisker")
    assert label == specification.labels(custom_job(), "whisker")
    others = [
        specification.labels(spec, "again"),
        *(
            specification.labels(custom_job(**change), "whisker")
            for change in (
                {"image_uri": "other"},
                {"arguments": []},
                {"max_hours": 2.0},
                {"spot": True},
                {"workers": 2},
            )
        ),
    ]
    assert len({each[specification.LABEL] for each in [label, *others]}) == 7


@pytest.mark.parametrize(
    ("place", "project", "region"),
    [({}, "PROJECT", "REGION"), ({"project": "p", "region": "us-east1"}, "p", "us-east1")],
)
def test_send_command_quotes_the_name_and_carries_the_label(place, project, region):
    spec = custom_job()
    label = specification.labels(spec, "it's mine")[specification.LABEL]
    assert (
        specification.send_command(
            spec, Submission(dry_run=True, display_name="it's mine", **place)
        )
        == f"gcloud ai custom-jobs create --project={project} --region={region} "
        f"--display-name='it'\"'\"'s mine' --labels=whisker-spec={label} --config=job.yaml"
    )


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb"])
def test_display_name_that_the_service_does_not_take_is_refused(name):
    with pytest.raises(ConfigError, match="expected 1 to 128 printable characters"):
        specification.labels({}, name)


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


ON_KUBERNETES = {
    "platform": "kubernetes",
    "dry_run": True,
    "image_uri": "example.dev/t@sha256:0a",
    "accelerator": "NVIDIA_L4",
    "accelerator_count": 2,
    "spot": True,
    "service_account": "trainer",
    "max_hours": 1.0,
}


def kubernetes(arguments=(), **changes):
    return specification.kubernetes_objects(
        Submission(**(ON_KUBERNETES | changes)),
        list(arguments),
        datetime.datetime(2026, 11, 27, 8, 9, 10, tzinfo=datetime.UTC),
    )


def test_job_asks_for_gpus_ends_by_itself_and_does_not_restart_what_cannot_work():
    (job,) = kubernetes(arguments=["--data=gs://b/p"])
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (job["apiVersion"], job["kind"], job["spec"]["activeDeadlineSeconds"]) == (
        "batch/v1",
        "Job",
        3600,
    )
    assert container["resources"] == {
        "requests": {"cpu": "8", "memory": "32Gi", "ephemeral-storage": "10Gi"},
        "limits": {"memory": "32Gi", "ephemeral-storage": "10Gi", "nvidia.com/gpu": 2},
    }
    # A second `kubectl create` makes a second Job; the first is deleted some time after its end.
    assert job["metadata"]["generateName"] == "whisker-"
    assert "name" not in job["metadata"]
    assert job["spec"]["ttlSecondsAfterFinished"] == 7 * 24 * 3600
    assert container["args"] == ["--data=gs://b/p", "--require_gpu=true"]
    assert pod["nodeSelector"] == {
        "kubernetes.io/arch": "amd64",
        "cloud.google.com/gke-accelerator": "nvidia-l4",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod["serviceAccountName"] == "trainer"
    # Kubernetes takes a podFailurePolicy with this restartPolicy only.
    assert pod["restartPolicy"] == "Never"
    fail, ignore, follow = job["spec"]["podFailurePolicy"]["rules"]
    assert fail["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [2, 3],
    }
    assert ignore["onPodConditions"] == [{"type": "DisruptionTarget"}]
    assert follow["onExitCodes"]["values"] == [75, 143]


def test_job_without_accelerator_runs_anywhere():
    (job,) = kubernetes(accelerator="", spot=False, service_account="")
    pod = job["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"kubernetes.io/arch": "amd64"}
    assert "serviceAccountName" not in pod
    assert "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"display_name": "My Job"}, "--display_name=My Job: expected a name of Kubernetes"),
        ({"service_account": "a@b"}, "--service_account=a@b: expected a name of Kubernetes"),
        ({"display_name": "1st"}, "--display_name=1st: expected a name of Kubernetes"),
        ({"accelerator_count": 0}, "--accelerator_count=0: expected at least 1"),
        ({"image_uri": ""}, "--image_uri=: expected the image"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        kubernetes(**changes)


def test_several_workers_are_an_indexed_job_that_ends_with_its_chief():
    service, policy, job = kubernetes(workers=3)
    name = "whisker-20261127-080910"
    assert {each["metadata"]["name"] for each in (service, policy, job)} == {name}
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    # Never two pods of one index; Kubernetes takes no other with a podFailurePolicy.
    assert spec["podReplacementPolicy"] == "Failed"
    # The name by which a pod is found ends in that of the service, which finds the pods.
    assert pod["subdomain"] == service["metadata"]["name"]
    labels = spec["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels
    assert service["spec"]["clusterIP"] == "None"
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": {"matchLabels": labels}}]}]
    # Another Job of the same name has pods of its own.
    assert labels["app.kubernetes.io/instance"] == name


def test_longest_name_of_a_worker_is_a_host_name():
    longest = "x" * 44
    *_, job = kubernetes(workers=100, display_name=longest)
    assert len(f"{job['metadata']['name']}-99") <= 63
    with pytest.raises(ConfigError, match="has at most 44"):
        kubernetes(display_name=longest + "x")


def test_objects_of_several_workers_read_back():
    objects = kubernetes(workers=2)
    text = specification.to_yaml(objects, ["one"])
    assert list(yaml.safe_load_all(text)) == objects
    assert "&id" not in text
