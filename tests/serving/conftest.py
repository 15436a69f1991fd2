"""A real gRPC server with TensorFlow Serving's methods, for the client to talk to."""

import threading
from collections import deque
from concurrent import futures

import grpc
import pytest

from serving import contract
from serving.client.messages import encode
from serving.protos import message

DEFAULT_CLASSES = ("cats", "dogs")


class StandIn:
    """Serves a model that reads its answer from the picture: b"<class> <probability> …".

    b"rubbish…" is no picture, and b"slow" is not answered (with "cats") before `released` is set.
    """

    def __init__(self, port=0):
        self.version = 3
        self.classes = {3: DEFAULT_CLASSES}
        self.states = deque([{3: "AVAILABLE"}])  # what GetModelStatus says, call by call; the last one stays
        self.outputs = contract.OUTPUTS
        self.failures = deque()  # (code, details): what the next calls get, one each
        self.requests = []  # every Predict request that arrived, those that failed too
        self.seconds_left = []  # of the deadline of every Predict request
        self.statuses = 0
        self.released = threading.Event()
        self._lock = threading.Condition()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        )
        for service, method, request, answer in (
            ("PredictionService", "Predict", "PredictRequest", self._predict),
            ("ModelService", "GetModelStatus", "GetModelStatusRequest", self._status),
        ):
            handler = grpc.unary_unary_rpc_method_handler(
                answer, message(f"tensorflow.serving.{request}").FromString, lambda reply: reply.SerializeToString()
            )
            handlers = {method: handler}
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", handlers),)
            )
        self.address = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"

    def start(self):
        self._server.start()

    def stop(self):
        self.released.set()
        self._server.stop(None).wait()

    def arrived(self, count):
        """Waits until so many Predict requests have arrived."""
        with self._lock:
            return self._lock.wait_for(lambda: len(self.requests) >= count, timeout=10)

    def _fail(self, context):
        with self._lock:
            failure = self.failures.popleft() if self.failures else None
        if failure:
            context.abort(*failure)

    def _predict(self, request, context):
        with self._lock:
            self.requests.append(request)
            self.seconds_left.append(context.time_remaining())
            self._lock.notify_all()
        self._fail(context)
        if request.model_spec.name != contract.DEFAULT_MODEL_NAME:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({request.model_spec.name})"
            )
        (data,) = request.inputs[contract.INPUT_BYTES].string_val
        if data.startswith(b"slow"):
            self.released.wait(30)
            data = b"cats 0.5"
        classes = self.classes[self.version]
        if data.startswith(b"rubbish"):
            label, probability, valid = "", 0.0, False
        else:
            label, probability, valid = *self._read(data), True
        rest = (1 - probability) / (len(classes) - 1)
        outputs = {
            contract.OUTPUT_LABEL: encode([label]),
            contract.OUTPUT_PROBABILITY: encode([probability]),
            contract.OUTPUT_PROBABILITIES: encode([probability if name == label else rest for name in classes]),
            contract.OUTPUT_CLASSES: encode(classes),
            contract.OUTPUT_VALID: encode([valid]),
        }
        response = message("tensorflow.serving.PredictResponse")()
        response.model_spec.version.value = self.version
        for name in request.output_filter or self.outputs:
            response.outputs[name].CopyFrom(outputs[name])
        return response

    @staticmethod
    def _read(data):
        label, probability = data.split()[:2]
        return label.decode(), float(probability)

    def _status(self, request, context):
        self.statuses += 1
        self._fail(context)
        if request.model_spec.name != contract.DEFAULT_MODEL_NAME:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {request.model_spec.name}")
        response = message("tensorflow.serving.GetModelStatusResponse")()
        states = self.states.popleft() if len(self.states) > 1 else self.states[0]
        for version, state in states.items():
            response.model_version_status.add(version=version, state=state)
        return response


@pytest.fixture
def stand_in():
    server = StandIn()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def stand_in_class():
    return StandIn
