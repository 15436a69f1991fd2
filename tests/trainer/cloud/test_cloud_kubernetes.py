import pytest

from trainer.cloud.kubernetes import manifest
from trainer.cloud.submission import Submission
from trainer.errors import ConfigError

ASKED = {
    "platform": "kubernetes",
    "dry_run": True,
    "image_uri": "example.dev/t@sha256:0a",
    "accelerator": "NVIDIA_L4",
    "accelerator_count": 2,
    "spot": True,
    "service_account": "trainer",
    "max_hours": 1.0,
}


def test_job_asks_for_gpus_ends_by_itself_and_does_not_restart_what_cannot_work():
    job = manifest(Submission(**ASKED), ["--data=gs://b/p"])
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (job["apiVersion"], job["kind"], job["spec"]["activeDeadlineSeconds"]) == (
        "batch/v1",
        "Job",
        3600,
    )
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert container["args"] == ["--data=gs://b/p", "--require_gpu=true"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-l4",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod["serviceAccountName"] == "trainer"
    # Kubernetes takes a podFailurePolicy with this restartPolicy only.
    assert pod["restartPolicy"] == "Never"
    fail, ignore = job["spec"]["podFailurePolicy"]["rules"]
    assert fail["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [2],
    }
    assert ignore["onPodConditions"] == [{"type": "DisruptionTarget"}]


def test_job_without_accelerator_runs_anywhere():
    pod = manifest(
        Submission(**(ASKED | {"accelerator": "", "spot": False, "service_account": ""})), []
    )["spec"]["template"]["spec"]
    assert "nodeSelector" not in pod
    assert "serviceAccountName" not in pod
    assert pod["containers"][0]["resources"] == {"requests": {"ephemeral-storage": "10Gi"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"display_name": "My Job"}, "--display_name=My Job: expected a name of Kubernetes"),
        ({"service_account": "a@b"}, "--service_account=a@b: expected a name of Kubernetes"),
        ({"accelerator_count": 0}, "--accelerator_count=0: expected at least 1"),
        ({"image_uri": ""}, "--image_uri=: expected the image"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        manifest(Submission(**(ASKED | changes)), [])
