"""A real gRPC server with TensorFlow Serving's methods, for the client to talk to."""

import threading
from collections import deque
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from serving.client.tensors import decode_lists, encode
from serving.protos import message
from whisker_ml import contract

DEFAULT_CLASSES = ("cats", "dogs")


class StandIn:
    """Serves a model that reads its answer from the picture: b"<class> <probability> [unsure] …".

    b"rubbish…" is no picture, and b"slow" is not answered (with "cats") before `released` is set.
    """

    def __init__(self, port=0, credentials=None, receive_limit=-1):
        self.version = 3
        self.classes = {3: DEFAULT_CLASSES}
        self.states = deque(
            [{3: "AVAILABLE"}]
        )  # what GetModelStatus says, call by call; the last one stays
        self.outputs = contract.OUTPUTS
        # By version: signature → input → (number of DataType, sizes).
        self.signatures = {
            3: {name: {contract.INPUT_BYTES: (7, [-1])} for name in ("serving_default", "other")}
        }
        self.signatures[3]["pixels"] = {contract.INPUT_PIXELS: (1, [-1, 4, 4, 3])}
        self.failures = deque()  # (code, details): what the next calls get, one each
        self.requests = []  # every Predict request that arrived, those that failed too
        self.peers = set()  # the connections that they came by
        self.tokens = []  # the authorization of every Predict request
        self.seconds_left = []  # of the deadline of every Predict request
        self.statuses = self.metadata = 0
        self.released = threading.Event()
        self._lock = threading.Condition()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(16),
            options=[("grpc.max_receive_message_length", receive_limit), ("grpc.so_reuseport", 0)],
        )
        for service, method, answer in (
            ("PredictionService", "Predict", self._predict),
            ("PredictionService", "GetModelMetadata", self._get_metadata),
            ("ModelService", "GetModelStatus", self._status),
        ):
            request = message(f"tensorflow.serving.{method}Request")
            handler = grpc.unary_unary_rpc_method_handler(
                answer, request.FromString, lambda reply: reply.SerializeToString()
            )
            handlers = {method: handler}
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", handlers),)
            )
        at = f"127.0.0.1:{port}"
        add = self._server.add_insecure_port
        self.port = self._server.add_secure_port(at, credentials) if credentials else add(at)
        self.address = f"127.0.0.1:{self.port}"

    def start(self):
        self._server.start()

    def stop(self):
        self.released.set()
        self._server.stop(None).wait()

    def abort(self):
        """Ends what is under way without an answer."""
        self._server.stop(None).wait()
        self.released.set()

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
            self.peers.add(context.peer())
            self.tokens.append(dict(context.invocation_metadata()).get("authorization"))
            self._lock.notify_all()
        self._fail(context)
        if request.model_spec.name != contract.DEFAULT_MODEL_NAME:
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"Servable not found for request: Latest({request.model_spec.name})",
            )
        if contract.INPUT_PIXELS in request.inputs:
            # A picture's first value says how sure the stand-in is of cats.
            tensor = request.inputs[contract.INPUT_PIXELS]
            rows = [b"cats %g" % (picture[0][0][0] / 100) for picture in decode_lists(tensor)]
        else:
            rows = list(request.inputs[contract.INPUT_BYTES].string_val)
        if rows[0].startswith(b"slow"):
            self.released.wait(30)
            rows = [b"cats 0.5"]
        classes = self.classes[self.version]
        read = [("", 0.0) if row.startswith(b"rubbish") else self._read(row) for row in rows]
        outputs = {
            contract.OUTPUT_LABEL: encode([label for label, _ in read]),
            contract.OUTPUT_PROBABILITY: encode([probability for _, probability in read]),
            contract.OUTPUT_PROBABILITIES: encode(
                [
                    [
                        probability if name == label else (1 - probability) / (len(classes) - 1)
                        for name in classes
                    ]
                    for label, probability in read
                ]
            ),
            contract.OUTPUT_CLASSES: encode([classes] * len(read)),
            contract.OUTPUT_VALID: encode([bool(label) for label, _ in read]),
            contract.OUTPUT_UNSURE: encode([b" unsure" in row for row in rows]),
        }
        if unknown := set(request.output_filter) - set(self.outputs):
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {min(unknown)} Outputs expected to be"
                f" in the set {{{','.join(self.outputs)}}}.",
            )
        response = message("tensorflow.serving.PredictResponse")()
        response.model_spec.version.value = self.version
        for name in request.output_filter or self.outputs:
            response.outputs[name].CopyFrom(outputs[name])
        return response

    @staticmethod
    def _read(data):
        label, probability = data.split()[:2]
        return label.decode(), float(probability)

    def _get_metadata(self, request, context):
        self.metadata += 1
        if request.model_spec.name != contract.DEFAULT_MODEL_NAME:
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"Servable not found for request: Latest({request.model_spec.name})",
            )
        signatures = message("tensorflow.serving.SignatureDefMap")()
        # What is not said about a version is as in the first.
        for name, inputs in self.signatures.get(self.version, self.signatures[3]).items():
            signature = signatures.signature_def[name]
            for key, (dtype, sizes) in inputs.items():
                signature.inputs[key].dtype = dtype
                for size in sizes:
                    signature.inputs[key].tensor_shape.dim.add(size=size)
            for key in self.outputs:
                signature.outputs[key].dtype = 7
        response = message("tensorflow.serving.GetModelMetadataResponse")()
        response.model_spec.version.value = self.version
        response.metadata["signature_def"].Pack(signatures)
        return response

    def _status(self, request, context):
        self.statuses += 1
        self._fail(context)
        if request.model_spec.name != contract.DEFAULT_MODEL_NAME:
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"Could not find any versions of model {request.model_spec.name}",
            )
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


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    """A folder that looks like a SavedModel: a store does not read what it stores."""
    folder = tmp_path / "export"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "fingerprint.pb").write_bytes(b"fingerprint")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(bytes(range(256)) * 64)
    return folder


@pytest.fixture(params=["folder", "bucket"])
def model_dir(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The root of a store that does not exist yet: a folder with a space in its path, or a prefix
    of a bucket.
    """
    if request.param == "folder":
        return str(tmp_path / "all models")
    return f"gs://{request.getfixturevalue('bucket')}/all models"
