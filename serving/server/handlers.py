"""From a request to its answer, the same for gRPC and REST: which version, which method, alone or
in a batch.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from tensorflow_serving.apis.get_model_status_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
)
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest, ReloadConfigResponse
from tensorflow_serving.apis.model_pb2 import ModelSpec

from serving.server import predict
from serving.server.batching import Execute, Scheduler, Tensors, joined, pieces
from serving.server.flags import DEFAULTS, Flags
from serving.server.manager import Manager
from serving.server.metrics import Metrics
from serving.server.predict import DEFAULT_SIGNATURE, Run
from serving.server.servable import MOST_ROWS, Servable
from serving.server.status import StatusError, deadline_exceeded, invalid_argument, unavailable
from serving.server.tensors import STRING_BYTES, too_much
from whisker_ml.formats import pixels

_RELOAD_POLL_S = 0.05
# Rows that a model may have to make pictures of: as many as a batch of tensorflow_model_server has
# at most, unless a flag says otherwise.
PICTURES = 1000


@dataclass(frozen=True)
class Limits:
    """What one request may ask for: a few bytes may ask for all memory, as one value may stand for
    many. TensorFlow Serving has no such bounds.

    Attributes:
        rows: first dimension of an input, or the number of its examples; None: `PICTURES` where a
            row may be a picture, which are strings and what has four dimensions.
        nbytes: bytes of all inputs, once they are arrays.
        pixels: width times height of all pictures among the inputs.
    """

    rows: int | None
    nbytes: int
    pixels: int

    def check(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Looks at the inputs of a request.

        Raises:
            StatusError: INVALID_ARGUMENT, they are beyond a bound.
        """
        arrays = feeds.values()
        for a in arrays:
            if a.ndim:
                self.check_rows(a.shape[0], pictures=a.dtype == object or a.ndim > 3)
        strings = [value for a in arrays if a.dtype == object for value in a.ravel().tolist()]
        nbytes = sum(a.nbytes for a in arrays if a.dtype != object)
        nbytes += sum(map(len, strings)) + STRING_BYTES * len(strings)
        self._refuse("bytes", nbytes, self.nbytes)
        # A value that stands for many is one object, and is looked at once.
        known = {id(value): pixels(value) for value in {id(v): v for v in strings}.values()}
        self._refuse("pixels", sum(known[id(value)] for value in strings), self.pixels)

    def check_rows(self, rows: int, *, pictures: bool) -> None:
        """Looks at a number of rows, which may be pictures.

        Raises:
            StatusError: INVALID_ARGUMENT, there are too many.
        """
        if pictures or self.rows is not None:
            self._refuse("rows", rows, self.rows or PICTURES)

    @staticmethod
    def _refuse(what: str, wanted: int, most: int) -> None:
        if wanted > most:
            flag = "max_pixels" if what == "pixels" else f"max_request_{what}"
            raise too_much(what, wanted, most, flag)


class Handlers:
    """Answers requests; used by many threads at once.

    The methods raise StatusErrors as the real server answers. Their `timeout_s` is what is left of
    the client's deadline, None for no limit.
    """

    def __init__(
        self,
        manager: Manager,
        scheduler: Scheduler | None,
        metrics: Metrics | None = None,
        flags: Flags = DEFAULTS,
    ) -> None:
        """Takes what is loaded, and what merges requests (None: each runs alone).

        Args:
            manager: see there.
            scheduler: see there.
            metrics: where requests and runs are counted; None for a place of its own.
            flags: what a request may ask for, and how it is answered.
        """
        self.manager = manager
        self.metrics = metrics or Metrics()
        self._scheduler = scheduler
        self._flags = flags
        self.limits = Limits(
            flags.max_request_rows or None, flags.max_request_bytes, flags.max_pixels
        )

    def infer(self, request: Any, timeout_s: float | None) -> Any:
        """Answers Predict, Classify, Regress, and MultiInference, whose first task says which
        version.
        """
        if isinstance(request, MultiInferenceRequest):
            spec = request.tasks[0].model_spec if request.tasks else ModelSpec()
        else:
            spec = _spec(request)
        with self.lend(spec) as servable:
            return predict.answer(
                servable,
                request,
                self.runner(servable, timeout_s),
                self._flags.enable_serialization_as_tensor_content,
                self.limits.nbytes,
            )

    def metadata(self, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
        """Answers PredictionService.GetModelMetadata."""
        spec = _spec(request)
        if not request.metadata_field:
            raise invalid_argument(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid_argument(f"Metadata field {field} is not supported")
        response = GetModelMetadataResponse()
        with self.lend(spec) as servable:
            response.model_spec.name = spec.name
            response.model_spec.version.value = servable.version
            response.metadata["signature_def"].Pack(
                SignatureDefMap(signature_def=servable.signatures)
            )
        return response

    def model_status(self, request: GetModelStatusRequest) -> GetModelStatusResponse:
        """Answers ModelService.GetModelStatus; a label is ignored, as in the real server."""
        spec = _spec(request)
        response = GetModelStatusResponse()
        for version, state, error in self.manager.states(spec.name, _number(spec)):
            status = response.model_version_status.add(version=version, state=int(state))
            # Set even where nothing is wrong: the message is there, as OK and "".
            status.status.SetInParent()
            if error is not None:
                status.status.error_code = error.code.value[0]
                status.status.error_message = error.message
        return response

    def reload_config(
        self, request: ReloadConfigRequest, timeout_s: float | None
    ) -> ReloadConfigResponse:
        """Answers ModelService.HandleReloadConfigRequest, once every model with a new name
        answers.
        """
        if not self._flags.allow_reload:
            raise StatusError(
                grpc.StatusCode.PERMISSION_DENIED,
                "HandleReloadConfigRequest is off: start the server with --allow_reload, or with"
                " --model_config_file_poll_wait_seconds=N, and change its --model_config_file",
            )
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        end = None if timeout_s is None else time.monotonic() + timeout_s
        before = {name: self.metrics.total(name) for name in request.metric_names}
        new = self.manager.apply(request.config)
        while not self.manager.ready(new):
            if end is not None and time.monotonic() >= end:
                raise deadline_exceeded("Timed out waiting for the new models")
            if self.manager.stopping.wait(_RELOAD_POLL_S):
                raise unavailable("The server is stopping")
        response = ReloadConfigResponse()
        response.status.SetInParent()
        for name, count in before.items():
            response.metric.add(name=name, int64_value_increase=self.metrics.total(name) - count)
        return response

    def drain(self) -> None:
        """From now on no batch waits for company."""
        if self._scheduler is not None:
            self._scheduler.drain()

    @contextmanager
    def lend(self, spec: ModelSpec) -> Iterator[Servable]:
        """Lends the version that a request names; see `Manager.use`."""
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        with self.manager.use(spec.name, _number(spec), spec.version_label) as servable:
            request = self.metrics.current()
            request.version = servable.version
            request.signature = spec.signature_name or DEFAULT_SIGNATURE
            yield servable

    def runner(self, servable: Servable, timeout_s: float | None) -> Run:
        """Gives what runs a version that is lent, together with other requests where it may be."""

        def run(
            feeds: Mapping[str, np.ndarray], fetches: Sequence[str]
        ) -> Mapping[str, np.ndarray]:
            self.limits.check(feeds)
            request, submitted = self.metrics.current(), time.monotonic()
            request.rows = max((len(value) for value in feeds.values() if value.ndim), default=None)
            began: list[float] = []

            def begin() -> None:
                began.append(time.monotonic())

            execute = _execution(servable, fetches)
            key = (servable, frozenset(feeds), tuple(fetches))
            try:
                with self.metrics.run():
                    if self._scheduler is not None and servable.batching is not None:
                        return self._scheduler.run(
                            key, execute, feeds, timeout_s, servable.batching, begin=begin
                        )
                    if servable.merger is not None:
                        return servable.merger.run(key, execute, feeds, timeout_s, begin=begin)
                    begin()
                    return execute(feeds, timeout_s)
            finally:
                if began:
                    request.queued_s = began[0] - submitted
                    request.run_s = time.monotonic() - began[0]

        return run


def _execution(servable: Servable, fetches: Sequence[str]) -> Execute:
    """Gives what runs a version; where its rows are independent, in pieces of `MOST_ROWS`."""

    def execute(values: Tensors, limit_s: float | None) -> dict[str, np.ndarray]:
        if servable.merger is None:
            return dict(zip(fetches, servable.run(values, fetches, limit_s), strict=True))
        return joined(
            [
                dict(zip(fetches, servable.run(piece.inputs, fetches, limit_s), strict=True))
                for piece in pieces(values, MOST_ROWS)
            ]
        )

    return execute


def _spec(request: Any) -> ModelSpec:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    return request.model_spec


def _number(spec: ModelSpec) -> int | None:
    return spec.version.value if spec.HasField("version") else None
