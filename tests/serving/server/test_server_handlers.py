"""Handlers on a manager of their own: what is merged, what a reload waits for, which calls are not
run at all.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from serving.server import grpc_service, loading
from serving.server.batching import Parameters, Scheduler
from serving.server.discovery import single_model
from serving.server.flags import Flags
from serving.server.handlers import Handlers
from serving.server.manager import Manager
from serving.server.status import StatusError
from tests.serving.server.asking import Client, refusal, request
from tests.serving.server.heads import example, export_heads

RELOAD = "ModelService/HandleReloadConfigRequest"
JOIN_S = 20.0


@pytest.fixture
def manager():
    manager = Manager(
        loading.load_saved_model,
        lambda: None,
        Flags(file_system_poll_wait_seconds=0, max_num_load_retries=0),
    )
    yield manager
    assert manager.stop(JOIN_S)


@pytest.fixture
def client(manager, exported):
    manager.apply(single_model("half", f"{exported}/half"))
    manager.start()
    server, port = grpc_service.bind(Handlers(manager, None), "127.0.0.1", 0)
    server.start()
    client = Client(port, 0)
    yield client
    client.channel.close()
    server.stop(None).wait()


def listing(**base_paths):
    models = [
        {"name": name, "base_path": str(path), "model_platform": "tensorflow"}
        for name, path in base_paths.items()
    ]
    return {"model_config_list": {"config": models}}


def test_reload_answers_once_the_new_model_does_and_drops_what_is_not_listed(client, exported):
    response = client.call(RELOAD, config=listing(second=exported / "half"))
    assert (response.status.error_code, response.HasField("status")) == (0, True)
    answer = client.predict(request("second", {"x": np.array([2], np.float32)}))
    assert list(answer.outputs["y"].float_val) == [4.0]
    assert refusal(client.predict, request("half", {}))[0] == "NOT_FOUND"


def test_reload_of_a_model_that_cannot_be_loaded_says_why(client, exported, tmp_path):
    (tmp_path / "broken" / "1").mkdir(parents=True)
    code, text = refusal(
        client.call, RELOAD, config=listing(half=exported / "half", broken=tmp_path / "broken")
    )
    assert code == "UNKNOWN"
    assert text.startswith(
        "1 model(s) did not become available: {{{name: broken version: 1} due to error: NOT_FOUND: "
        "Could not find SavedModel .pb or .pbtxt at supplied export directory path: "
    )
    assert text.endswith("}, }")


def test_reload_that_is_refused_changes_nothing(client, exported):
    fields = listing(half=exported / "half")
    fields["model_config_list"]["config"] *= 2
    text = "Illegal to list model half multiple times in config list"
    assert refusal(client.call, RELOAD, config=fields) == ("INVALID_ARGUMENT", text)


def test_reload_waits_for_the_folder_until_the_deadline(client, exported, tmp_path):
    config = listing(half=exported / "half", later=tmp_path / "later")
    assert refusal(client.call, RELOAD, timeout_s=1, config=config)[0] == "DEADLINE_EXCEEDED"


def test_reload_ends_when_the_server_does(manager, exported, tmp_path):
    manager.apply(single_model("half", f"{exported}/half"))
    handlers = Handlers(manager, None)
    message = ReloadConfigRequest(config=listing(later=tmp_path / "later"))
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(handlers.reload_config, message, None)
        manager.start()
        manager.stop(JOIN_S)
        with pytest.raises(StatusError, match="^UNAVAILABLE: The server is stopping$"):
            waiting.result(JOIN_S)


def test_two_signatures_on_one_input_with_the_same_output_name_do_not_share_a_run(
    manager, tmp_path
):
    export_heads(tmp_path / "heads" / "1")
    manager.apply(single_model("heads", f"{tmp_path}/heads"))
    manager.tick()
    scheduler = Scheduler(Parameters(max_batch_size=2, batch_timeout_s=0.5, num_batch_threads=1))
    handlers = Handlers(manager, scheduler)
    serialized = [example(x=4).SerializeToString()]
    barrier = threading.Barrier(2)

    def ask(signature):
        barrier.wait()
        return handlers.infer(request("heads", {"inputs": serialized}, signature), None).outputs[
            "outputs"
        ]

    with ThreadPoolExecutor(2) as threads:
        value, column = threads.map(ask, ["regress", "regress_column"])
    assert [dim.size for dim in value.tensor_shape.dim] == [1]
    assert [dim.size for dim in column.tensor_shape.dim] == [1, 1]
    manager.start()


class Gone:
    """The context of a call whose client has gone, or whose deadline is over."""

    def __init__(self, active, remaining):
        self.is_active = lambda: active
        self.time_remaining = lambda: remaining

    def abort(self, code, details):
        raise StatusError(code, details)


@pytest.mark.parametrize(("active", "remaining"), [(False, None), (True, 0.0)])
def test_call_that_nobody_waits_for_is_not_run(active, remaining):
    calls = []
    bound = threading.BoundedSemaphore(2)
    method = grpc_service._guarded(lambda *arguments: calls.append(arguments), bound, bound)
    with pytest.raises(StatusError) as error:
        method(PredictRequest(), Gone(active, remaining))
    assert error.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert calls == []
