"""Starts that fail, and the order of a start."""

import functools
import json
import queue
import socket
import subprocess
import threading

import grpc
import pytest

from serving.server.batching import Scheduler
from serving.server.flags import Flags, parse
from serving.server.model_server import serve
from serving.server.status import StatusError
from tests.serving.server.asking import (
    COMMAND,
    ROOT,
    START_DEADLINE_S,
    Client,
    request,
    wait_until,
)
from tests.serving.server.asking import refusal as refused


def refusal(**flags):
    with pytest.raises(StatusError) as error:
        serve(Flags(**flags), queue.SimpleQueue())
    return str(error.value)


@pytest.fixture
def taken_port():
    with socket.socket() as taken:
        # As a second server of ours would have it, if it shared its port.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_start_without_a_model_is_refused():
    assert (
        refusal() == "INVALID_ARGUMENT: Both server_options.model_base_path and"
        " server_options.model_config_file are empty!"
    )


def test_start_without_a_port_is_refused():
    assert (
        refusal(port=0, model_base_path="/m")
        == "INVALID_ARGUMENT: server_options.grpc_port is not set."
    )


def test_port_0_is_enough_where_there_is_a_socket_which_has_to_be_bindable(exported, tmp_path):
    path = tmp_path / "none" / "grpc.sock"
    assert (
        refusal(port=0, grpc_socket_path=str(path), model_base_path=f"{exported}/half")
        == f"UNAVAILABLE: cannot listen for gRPC on unix:{path}: the address is in use or not"
        " allowed; choose another --grpc_socket_path"
    )


def test_channel_argument_without_a_value_is_refused(exported):
    assert (
        refusal(grpc_channel_arguments="grpc.a=1,b", model_base_path=f"{exported}/half")
        == "INVALID_ARGUMENT: --grpc_channel_arguments has b: expected name=value,name=value"
    )


def test_rest_port_that_is_the_grpc_port_leaves_rest_out(exported, tmp_path, caplog):
    stop = queue.SimpleQueue()
    path = tmp_path / "grpc.sock"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    flags = Flags(
        port=free,
        rest_api_port=free,
        grpc_socket_path=str(path),
        model_name="half",
        model_base_path=f"{exported}/half",
    )
    server = threading.Thread(target=serve, args=(flags, stop))
    server.start()
    try:
        wait_until(path.exists)
        with grpc.insecure_channel(f"unix:{path}") as channel:
            assert Client(free, free, channel).states("half") == {2: "AVAILABLE"}
    finally:
        stop.put(15)
        server.join(30)
    assert "server_options.http_port cannot be same as grpc_port." in caplog.text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ("OK", "")),
        (
            ["--bind_all"],
            (
                "PERMISSION_DENIED",
                "HandleReloadConfigRequest is off: start the server with --allow_reload, or with"
                " --model_config_file_poll_wait_seconds=N, and change its --model_config_file",
            ),
        ),
        (["--bind_all", "--allow_reload"], ("OK", "")),
    ],
)
def test_configuration_is_replaced_through_port_and_socket_as_the_flags_say(
    exported, tmp_path, arguments, expected
):
    path, ports_file = tmp_path / "grpc.sock", tmp_path / "ports.json"
    base_path = f"{exported}/half"
    flags = parse(
        [
            f"--ports_file={ports_file}",
            f"--grpc_socket_path={path}",
            "--model_name=half",
            f"--model_base_path={base_path}",
            *arguments,
        ],
        "",
    )
    stop = queue.SimpleQueue()
    server = threading.Thread(target=serve, args=(flags, stop))
    server.start()
    try:
        wait_until(ports_file.exists)
        ports = json.loads(ports_file.read_text())
        model = {"name": "half", "base_path": base_path, "model_platform": "tensorflow"}
        for address in (f"127.0.0.1:{ports['port']}", f"unix:{path}"):
            with grpc.insecure_channel(address) as channel:
                reload = functools.partial(
                    Client(**ports, channel=channel).call,
                    "ModelService/HandleReloadConfigRequest",
                    config={"model_config_list": {"config": [model]}},
                )
                if expected[0] == "OK":
                    assert reload().status.error_code == 0
                else:
                    assert refused(reload) == expected
    finally:
        stop.put(15)
        server.join(30)


def test_batching_parameters_without_batching_are_refused():
    assert (
        refusal(model_base_path="/m", batching_parameters_file="/b")
        == "INVALID_ARGUMENT: server_options.batching_parameters_file is set without setting "
        "server_options.enable_batching to true."
    )


def test_port_in_use_is_refused_with_its_number(exported, taken_port):
    assert (
        refusal(port=taken_port, model_base_path=f"{exported}/half")
        == f"UNAVAILABLE: cannot listen for gRPC on 127.0.0.1:{taken_port}: the address is in use"
        " or not allowed; choose another --port"
    )


def test_rest_port_in_use_is_refused_with_its_number(exported, taken_port):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert refusal(
        port=free, rest_api_port=taken_port, model_base_path=f"{exported}/half"
    ).startswith(f"UNAVAILABLE: cannot listen for REST on 127.0.0.1:{taken_port}: ")


def test_ports_file_that_cannot_be_written_is_refused(exported, tmp_path):
    assert (
        refusal(ports_file=f"{tmp_path}/none/ports.json", model_base_path=f"{exported}/half")
        == f"FAILED_PRECONDITION: --ports_file={tmp_path}/none/ports.json cannot be written: No"
        " such file or directory"
    )


def test_server_that_waits_for_its_first_version_can_be_stopped(tmp_path):
    stop = queue.SimpleQueue()
    stop.put(15)
    assert serve(Flags(model_base_path=str(tmp_path)), stop) is True


def test_first_load_that_fails_ends_the_process_with_one_line_and_255(tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    arguments = ["--max_num_load_retries=0", f"--model_base_path={tmp_path}/m", "--model_name=m"]
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=START_DEADLINE_S,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 255
    assert (
        done.stdout
        == "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available:"
        " {{{name: m version: 1} due to error: NOT_FOUND: Could not find SavedModel .pb or"
        f" .pbtxt at supplied export directory path: {tmp_path}/m/1}}, }}\n"
    )
    assert "Traceback" not in done.stderr


def test_label_that_the_flags_do_not_allow_names_the_flag(tmp_path):
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{tmp_path}/m"'
        ' model_platform: "tensorflow" version_labels { key: "stable" value: 1 } } }'
    )
    done = subprocess.run(
        [*COMMAND, f"--model_config_file={config}"],
        capture_output=True,
        text=True,
        timeout=START_DEADLINE_S,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 255
    assert done.stdout.endswith(
        "not currently available for inference;"
        " give --allow_version_labels_for_unavailable_models=true\n"
    )


def test_batching_flags_merge_requests_and_a_stop_lets_the_waiting_one_go(
    exported, tmp_path, monkeypatch
):
    parameters, ports_file = tmp_path / "batching.config", tmp_path / "ports.json"
    parameters.write_text("max_batch_size { value: 2 } batch_timeout_micros { value: 600000000 }")
    flags = Flags(
        model_name="probe",
        model_base_path=f"{exported}/probe",
        enable_batching=True,
        batching_parameters_file=str(parameters),
        ports_file=str(ports_file),
    )
    arrivals = threading.Semaphore(0)
    enqueue = Scheduler._enqueue
    monkeypatch.setattr(
        Scheduler, "_enqueue", lambda *arguments: (enqueue(*arguments), arrivals.release())
    )
    stop, ended = queue.SimpleQueue(), []
    server = threading.Thread(target=lambda: ended.append(serve(flags, stop)))
    server.start()
    try:
        wait_until(ports_file.exists)
        ports = json.loads(ports_file.read_text())
        calls = [
            Client(**ports).predict_soon(request("probe", {"s": [text]})) for text in (b"a", b"bcd")
        ]
        outputs = [call.result(20).outputs for call in calls]
        lonely = Client(**ports).predict_soon(request("probe", {"s": [b"lonely"]}))
        assert all(arrivals.acquire(timeout=20) for _ in range(3))
    finally:
        stop.put(15)
        server.join(30)
    assert [list(one["length"].int_val) for one in outputs] == [[1], [3]]
    assert [list(one["rows"].int_val) for one in outputs] == [[2], [2]]
    assert list(lonely.result(20).outputs["rows"].int_val) == [1]
    assert ended == [True]
