"""What no schema says of the manifest: that its parts name each other, and that the server gets
what it understands.
"""

import copy
import json
import os
import re
import subprocess
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from serving.config import batching, monitoring
from serving.server.flags import Flags
from trainer.cloud import Submission, specification

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "infra" / "kubernetes" / "serving.yaml"
PLACEHOLDERS = {"LOCATION", "PROJECT", "REPOSITORY", "DIGEST", "BUCKET"}

# Of tensorflow_model_server 2.20 (main.cc), those that the local server need not know.
FLAGS_OF_THE_REAL_SERVER = {
    "grpc_channel_arguments",
    "monitoring_config_file",
    "enable_grpc_healthcheck_service",
}


@pytest.fixture(scope="module")
def objects():
    return {each["kind"]: each for each in yaml.safe_load_all(MANIFEST.read_text("utf-8"))}


@pytest.fixture(scope="module")
def pod(objects):
    return objects["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    (only,) = pod["containers"]
    return only


@pytest.fixture(scope="module")
def entrypoint():
    text = (
        (ROOT / "infra" / "docker" / "serving.Dockerfile").read_text("utf-8").replace("\\\n", " ")
    )
    return json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[1])[1:]


@pytest.fixture(scope="module")
def arguments(container, entrypoint):
    """Everything that the server is started with: the image's, then the manifest's; name to
    value.
    """
    return dict(
        argument.removeprefix("--").split("=", 1) for argument in [*entrypoint, *container["args"]]
    )


def test_every_kind_is_there_once():
    kinds = [each["kind"] for each in yaml.safe_load_all(MANIFEST.read_text("utf-8"))]
    assert sorted(kinds) == [
        "ConfigMap",
        "Deployment",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    ]


def test_every_selector_finds_the_pods_of_the_deployment(objects, pod):
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in pod["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()


def test_flags_exist_and_have_the_form_that_the_server_reads(container):
    known = {flag.name for flag in fields(Flags)} | FLAGS_OF_THE_REAL_SERVER
    for argument in container["args"]:
        # A value behind a space would be an unknown argument, and the server goes on with its
        # default.
        name = re.fullmatch(r"--([a-z_]+)=\S+", argument)
        assert name, argument
        assert name[1] in known, argument


def test_no_flag_is_given_twice(container, entrypoint):
    names = [argument.partition("=")[0] for argument in [*entrypoint, *container["args"]]]
    assert len(set(names)) == len(names)


def test_probes_ask_a_health_service_that_is_switched_on_at_the_port_that_is_open(
    container, arguments
):
    assert arguments["enable_grpc_healthcheck_service"] == "true"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert str(container[probe]["grpc"]["port"]) == arguments["port"], probe
    # Kubernetes' gRPC probe speaks no TLS.
    assert "ssl_config_file" not in arguments


def test_ports_are_the_servers_and_every_name_of_one_is_declared(objects, container, arguments):
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": int(arguments["port"]), "rest": int(arguments["rest_api_port"])}
    assert {
        port["targetPort"]: port["port"] for port in objects["Service"]["spec"]["ports"]
    } == ports
    for rule in objects["NetworkPolicy"]["spec"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= set(ports)


def test_a_name_gives_the_client_every_pod(objects):
    assert objects["Service"]["spec"]["clusterIP"] == "None"


def test_start_may_take_as_long_as_the_attempts_to_load_a_version(objects, container):
    defaults = Flags()
    attempts_s = defaults.max_num_load_retries * defaults.load_retry_interval_micros / 1e6
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 2 * attempts_s
    assert (
        objects["Deployment"]["spec"]["progressDeadlineSeconds"]
        > probe["periodSeconds"] * probe["failureThreshold"]
    )


def test_a_pod_serves_on_until_clients_have_left_it_and_is_not_killed_before(
    pod, container, arguments
):
    channel = dict(pair.split("=") for pair in arguments["grpc_channel_arguments"].split(","))
    # gRPC lengthens the age by up to a tenth (src/core, MAX_CONNECTION_AGE_JITTER); a cluster's DNS
    # caches for 30 s.
    left_s = 1.1 * int(channel["grpc.max_connection_age_ms"]) / 1000
    left_s += int(channel["grpc.max_connection_age_grace_ms"]) / 1000 + 30
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    assert left_s <= int(seconds) < pod["terminationGracePeriodSeconds"]


def test_a_bucket_is_not_asked_every_second(arguments):
    assert arguments["model_config_file"].startswith("gs://")
    assert int(arguments["file_system_poll_wait_seconds"]) >= 60
    polled = int(arguments["model_config_file_poll_wait_seconds"])
    assert polled == 0 or polled >= 60


def test_configuration_files_are_read_by_our_own_readers_from_where_they_are_mounted(
    objects, pod, container, arguments, tmp_path
):
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == "config")
    (volume,) = (each for each in pod["volumes"] if each["name"] == mount["name"])
    assert volume["configMap"]["name"] == objects["ConfigMap"]["metadata"]["name"]
    read = {}
    for flag, module in (
        ("batching_parameters_file", batching),
        ("monitoring_config_file", monitoring),
    ):
        path = Path(arguments[flag])
        assert str(path.parent) == mount["mountPath"]
        (tmp_path / path.name).write_text(objects["ConfigMap"]["data"][path.name], encoding="utf-8")
        read[flag] = module.read(tmp_path / path.name)
    assert {Path(arguments[flag]).name for flag in read} == set(objects["ConfigMap"]["data"])
    assert arguments["enable_batching"] == "true"
    assert read["batching_parameters_file"].max_batch_size.value > 0
    assert read["monitoring_config_file"].prometheus_config.enable


def test_the_server_runs_without_rights_that_it_does_not_need(objects, pod, container):
    assert pod["securityContext"]["runAsNonRoot"] is True
    user = re.search(
        r"^USER (\d+)$", (ROOT / "infra/docker/serving.Dockerfile").read_text("utf-8"), re.MULTILINE
    )
    assert pod["securityContext"]["runAsUser"] == int(user[1])
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"]
    assert pod["automountServiceAccountToken"] is False


def test_what_is_mounted_is_declared_and_resources_are_bounded(pod, container):
    assert {each["name"] for each in container["volumeMounts"]} == {
        each["name"] for each in pod["volumes"]
    }
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]


def test_a_rollout_or_an_eviction_leaves_a_pod_that_serves(objects):
    deployment = objects["Deployment"]["spec"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert objects["PodDisruptionBudget"]["spec"]["maxUnavailable"] < deployment["replicas"]


def test_network_policy_says_something_of_both_directions(objects):
    policy = objects["NetworkPolicy"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    for rule in policy["ingress"]:
        assert rule["from"], "everybody"
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} >= {53, 443}


def test_placeholders_are_those_that_the_page_replaces():
    page = (ROOT / "infra" / "README.md").read_text("utf-8")
    (command,) = (
        block
        for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
        if "kubectl apply" in block
    )
    assert set(re.findall(r"s/([A-Z]+)/", command)) == PLACEHOLDERS
    filled = subprocess.run(
        ["bash", "-euc", command.partition("|")[0]],
        cwd=ROOT,
        env={
            **os.environ,
            "PROJECT": "my-project",
            "REGION": "us-central1",
            "SERVING": "sha256:" + "0" * 64,
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout
    values = "\n".join(line for line in filled.splitlines() if not line.lstrip().startswith("#"))
    assert not [name for name in PLACEHOLDERS if re.search(rf"\b{name}\b", values)]
    deployment = next(each for each in yaml.safe_load_all(filled) if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    # What a container runtime takes for the name of an image: lower case. A tag could come to mean
    # another one.
    assert re.fullmatch(r"[a-z0-9.-]+(/[a-z0-9-]+)+@sha256:0{64}", container["image"])


def test_a_busy_server_stops_getting_requests_long_before_it_is_killed(container):
    window_s = {
        probe: container[probe]["periodSeconds"] * container[probe].get("failureThreshold", 3)
        for probe in ("readinessProbe", "livenessProbe")
    }
    assert window_s["livenessProbe"] >= 5 * window_s["readinessProbe"]


# What Pod Security "restricted" refuses, for the fields that a pod of ours could have
# (kubernetes.io/docs/concepts/security/pod-security-standards, read on 2026-11-27).
VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}


def refused(pod):
    """Why a namespace that enforces "restricted" does not admit a pod."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    for volume in pod.get("volumes", []):
        found += [f"volume {kind}" for kind in volume if kind not in VOLUMES | {"name"}]
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        # What the pod says holds where the container says nothing.
        context = pod.get("securityContext", {}) | container.get("securityContext", {})
        capabilities = context.get("capabilities", {})
        wrong = {
            "privileged": context.get("privileged", False),
            "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is not False,
            "capabilities": capabilities.get("drop") != ["ALL"]
            or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
            "runAsNonRoot": context.get("runAsNonRoot") is not True,
            "runAsUser": context.get("runAsUser") == 0,
            "seccompProfile": context.get("seccompProfile", {}).get("type")
            not in ("RuntimeDefault", "Localhost"),
            "hostPort": any(port.get("hostPort") for port in container.get("ports", [])),
            "procMount": context.get("procMount", "Default") != "Default",
            "sysctls": bool(context.get("sysctls")),
        }
        found += [name for name, there in wrong.items() if there]
    return found


def pods():
    """Name and pod of every workload in infra/kubernetes, and of a job of two workers."""
    objects = {
        path.stem: yaml.safe_load_all(path.read_text("utf-8"))
        for path in sorted(MANIFEST.parent.glob("*.yaml"))
    }
    several = Submission(platform="kubernetes", workers=2, image_uri="example.dev/t", dry_run=True)
    objects["workers"] = specification.kubernetes_objects(several, [], datetime.now(UTC))
    for name, found in objects.items():
        for each in found:
            if "template" in each.get("spec", {}):
                yield pytest.param(each["spec"]["template"]["spec"], id=name)


@pytest.mark.parametrize("workload", list(pods()))
def test_pod_security_restricted_admits_the_pod(workload):
    assert refused(workload) == []


@pytest.mark.parametrize(
    ("where", "change", "fault"),
    [
        ("pod", {"securityContext": {"runAsNonRoot": True}}, "seccompProfile"),
        ("pod", {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "runAsNonRoot"),
        ("pod", {"hostNetwork": True}, "hostNetwork"),
        ("pod", {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}, "volume hostPath"),
        ("container", {"securityContext": {}}, "capabilities"),
        ("container", {"securityContext": {}}, "allowPrivilegeEscalation"),
        ("container", {"securityContext": {"runAsUser": 0}}, "runAsUser"),
        ("container", {"ports": [{"containerPort": 1, "hostPort": 1}]}, "hostPort"),
    ],
)
def test_pod_security_restricted_refuses(pod, where, change, fault):
    changed = copy.deepcopy(pod)
    (changed if where == "pod" else changed["containers"][0]).update(change)
    assert fault in refused(changed)


@pytest.mark.parametrize("workload", list(pods()))
def test_every_workload_is_bounded_and_read_only_and_for_the_image_s_processors(workload):
    assert workload["nodeSelector"]["kubernetes.io/arch"] == "amd64"
    assert workload["automountServiceAccountToken"] is False
    mounted = {mount["name"] for mount in workload["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in workload["volumes"]}
    for container in workload["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


def test_user_and_home_of_the_trainer_s_pod_are_its_image_s():
    text = (ROOT / "infra/docker/trainer.Dockerfile").read_text("utf-8")
    job = yaml.safe_load((MANIFEST.parent / "train.yaml").read_text("utf-8"))
    pod = job["spec"]["template"]["spec"]
    user = re.search(r"^USER (\d+)$", text, re.MULTILINE)[1]
    assert pod["securityContext"]["runAsUser"] == int(user)
    home = re.search(r"^WORKDIR (/home/\S+)$", text, re.MULTILINE)[1]
    paths = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
    assert {home, "/tmp", "/dev/shm"} == set(paths)  # noqa: S108
