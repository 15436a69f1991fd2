"""How the tests start a server and ask it."""

import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

COMMAND = [sys.executable, "-m", "serving.server"]
# The real server, where there is one: TENSORFLOW_MODEL_SERVER=tensorflow_model_server.
OTHER_COMMAND = shlex.split(os.environ.get("TENSORFLOW_MODEL_SERVER", ""))
START_DEADLINE_S = 90.0
CALL_DEADLINE_S = 30.0
ROOT = Path(__file__).parents[3]
SERVICE = "tensorflow.serving.PredictionService"


# Request and response of what `Client.call` calls.
METHODS = {
    "PredictionService/Classify": (
        classification_pb2.ClassificationRequest,
        classification_pb2.ClassificationResponse,
    ),
    "PredictionService/Regress": (
        regression_pb2.RegressionRequest,
        regression_pb2.RegressionResponse,
    ),
    "PredictionService/MultiInference": (
        inference_pb2.MultiInferenceRequest,
        inference_pb2.MultiInferenceResponse,
    ),
    "PredictionService/GetModelMetadata": (
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
    ),
    "ModelService/HandleReloadConfigRequest": (
        model_management_pb2.ReloadConfigRequest,
        model_management_pb2.ReloadConfigResponse,
    ),
}


class Client:
    """Speaks gRPC and REST to a server, with the messages of tensorflow_serving.apis."""

    def __init__(self, port, rest_api_port, channel=None):
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = channel or grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
        self.rest = f"http://127.0.0.1:{rest_api_port}"
        self._predict = self.channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            predict_pb2.PredictRequest.SerializeToString,
            predict_pb2.PredictResponse.FromString,
        )
        self._status = self.channel.unary_unary(
            "/tensorflow.serving.ModelService/GetModelStatus",
            get_model_status_pb2.GetModelStatusRequest.SerializeToString,
            get_model_status_pb2.GetModelStatusResponse.FromString,
        )

    def call(self, method, timeout_s=CALL_DEADLINE_S, **fields):
        """Calls one of `METHODS` with a request of these fields."""
        request, response = METHODS[method]
        call = self.channel.unary_unary(
            f"/tensorflow.serving.{method}", request.SerializeToString, response.FromString
        )
        return call(request(**fields), timeout=timeout_s)

    def predict(self, request, timeout_s=CALL_DEADLINE_S):
        return self._predict(request, timeout=timeout_s)

    def predict_soon(self, request):
        return self._predict.future(request, timeout=CALL_DEADLINE_S)

    def status(self, request):
        return self._status(request, timeout=CALL_DEADLINE_S)

    def states(self, model):
        response = self.status(
            get_model_status_pb2.GetModelStatusRequest(model_spec={"name": model})
        )
        names = get_model_status_pb2.ModelVersionStatus.State.Name
        return {one.version: names(one.state) for one in response.model_version_status}

    def http(self, path, body=None, method=None):
        """Gives the status code and the parsed JSON."""
        request = urllib.request.Request(self.rest + path, data=body, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=CALL_DEADLINE_S) as response:  # noqa: S310
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


@contextmanager
def running(scratch, *arguments):
    """A server process, with a `client`, its `ports` and its `log`; killed in the end."""
    ports_file, log = scratch / "ports.json", scratch / "log"
    command = [*COMMAND, *arguments, f"--ports_file={ports_file}"]
    if OTHER_COMMAND:
        # It knows no --ports_file, and opens its ports when every model is loaded.
        ports = {"port": free_port(), "rest_api_port": free_port()}
        command = [
            *OTHER_COMMAND,
            *arguments,
            *(f"--{name}={number}" for name, number in ports.items()),
        ]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT) as it,
    ):
        try:
            if OTHER_COMMAND:
                wait_until(
                    lambda: all(map(is_open, ports.values())) or it.poll() is not None,
                    START_DEADLINE_S,
                )
                ports_file.write_text(json.dumps(ports))
            wait_until(lambda: ports_file.exists() or it.poll() is not None, START_DEADLINE_S)
            assert it.poll() is None, log.read_text()
            it.ports, it.log = json.loads(ports_file.read_text()), log
            it.client = Client(**it.ports)
            yield it
        finally:
            it.kill()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def silent_calls(server, connections, of_each, method=f"/{SERVICE}/Predict"):
    """Calls that never send their request, over so many connections; the calls, which are ended in
    the end.
    """
    end = threading.Event()

    def nothing():
        end.wait(60)
        return
        yield

    with ExitStack() as stack:
        # Channels with equal arguments would share a connection.
        channels = [
            stack.enter_context(
                grpc.insecure_channel(f"127.0.0.1:{server.ports['port']}", [("number", number)])
            )
            for number in range(connections)
        ]
        stack.callback(end.set)
        # A call that nobody holds is cancelled.
        calls = [
            # On the wire a unary call is one, too.
            channel.stream_stream(method)(nothing(), timeout=60)
            for channel in channels
            for _ in range(of_each)
        ]
        yield calls


def refusal(call, *arguments, **keywords):
    """Gives code and details of a call that has to fail."""
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments, **keywords)
    return error.value.code().name, error.value.details()


def wait_until(condition, deadline_s=CALL_DEADLINE_S):
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.05)


def request(model, inputs, signature="", **spec):
    """A PredictRequest; `inputs` is name to a value that make_tensor_proto takes."""
    message = predict_pb2.PredictRequest(
        model_spec={"name": model, "signature_name": signature, **spec}
    )
    for name, value in inputs.items():
        message.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return message


def write_config(root, more_labels=""):
    (root / "models.config").write_text(f"""model_config_list {{
          config {{
            name: "half" base_path: "{root}/half" model_platform: "tensorflow"
            model_version_policy {{ all {{}} }}
            version_labels {{ key: "stable" value: 1 }} {more_labels}
          }}
          config {{ name: "probe" base_path: "{root}/probe" model_platform: "tensorflow" }}
        }}""")
