import datetime

import pytest
import yaml
from google.cloud.aiplatform_v1.types import AcceleratorType, CustomJobSpec, Scheduling
from google.protobuf import json_format

from trainer.cloud import vertex
from trainer.cloud.submission import Submission
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


def specification(arguments=ARGUMENTS, **changes):
    return vertex.specification(Submission(**(ASKED | changes)), arguments)


def message_of(spec):
    message = CustomJobSpec()
    json_format.ParseDict(spec, CustomJobSpec.pb(message))
    return message


def arguments_of(**changes):
    return specification(**changes)["workerPoolSpecs"][0]["containerSpec"]["args"]


def test_specification_reads_back_from_the_service_message():
    message = message_of(specification())
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
    message = message_of(specification(workers=3))
    chief, others = message.worker_pool_specs
    assert (chief.replica_count, others.replica_count) == (1, 2)
    assert chief.machine_spec == others.machine_spec
    assert chief.container_spec == others.container_spec
    assert message.scheduling.restart_job_on_worker_restart


def test_spot_and_service_account_are_passed_on():
    message = message_of(specification(spot=True, service_account="w@p.iam.gserviceaccount.com"))
    assert message.scheduling.strategy == Scheduling.Strategy.SPOT
    assert message.service_account == "w@p.iam.gserviceaccount.com"


def test_machine_without_accelerator_names_none_and_requires_no_gpu():
    spec = specification(machine="e2-standard-8", accelerator="")
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
            {"machine": "e2-standard-8", "accelerator": "", "arguments": ["--require_gpu=true"]},
            "--require_gpu without an accelerator",
        ),
    ],
)
def test_setting_that_the_service_could_not_run_is_refused(changes, message):
    with pytest.raises(ConfigError) as refusal:
        specification(**changes)
    assert message in str(refusal.value)


def test_enum_refused_by_the_message_is_named_by_value():
    with pytest.raises(ConfigError, match="Invalid enum value T4"):
        specification(machine="n1-standard-8", accelerator="T4")


def test_yaml_below_its_comments_is_the_specification():
    arguments = ["--model_name=a: b #c", "--data=gs://b/Größe", "--run_dir=gs://b/" + "long/" * 60]
    spec = specification(arguments)
    text = vertex.to_yaml(spec, ["one", "two"])
    assert text.startswith("# one\n# two\nworkerPoolSpecs:\n")
    assert yaml.safe_load(text) == spec
    message_of(yaml.safe_load(text))


def test_same_run_has_the_same_label_and_any_other_another():
    spec = specification()
    label = vertex.labels(spec, "whisker")
    assert label == vertex.labels(specification(), "whisker")
    others = [
        vertex.labels(spec, "again"),
        *(
            vertex.labels(specification(**change), "whisker")
            for change in (
                {"image_uri": "other"},
                {"arguments": []},
                {"max_hours": 2},
                {"spot": True},
                {"workers": 2},
            )
        ),
    ]
    assert len({each[vertex.LABEL] for each in [label, *others]}) == 7


def test_send_command_quotes_the_name_and_carries_the_label():
    spec = specification()
    label = vertex.labels(spec, "it's mine")[vertex.LABEL]
    assert (
        vertex.send_command(spec, "it's mine", project="", region="us-central1")
        == "gcloud ai custom-jobs create --project=PROJECT --region=us-central1 "
        f"--display-name='it'\"'\"'s mine' --labels=whisker-spec={label} --config=job.yaml"
    )


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb"])
def test_display_name_that_the_service_does_not_take_is_refused(name):
    with pytest.raises(ConfigError, match="expected 1 to 128 printable characters"):
        vertex.labels({}, name)
