"""From a request to its answer, the same for gRPC and REST: which version, which method, alone or
in a batch.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest, ClassificationResponse
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest, MultiInferenceResponse
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest, ReloadConfigResponse
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.regression_pb2 import RegressionRequest, RegressionResponse

from serving.server import examples, prediction
from serving.server.batching import Scheduler
from serving.server.manager import Manager
from serving.server.metrics import Metrics
from serving.server.prediction import DEFAULT_SIGNATURE, Run
from serving.server.servable import Servable
from serving.server.status import StatusError, invalid_argument

_RELOAD_POLL_S = 0.05


class Handlers:
    """Answers requests; used by many threads at once.

    The methods raise StatusErrors as the real server answers. Their `timeout_s` is what is left of
    the client's deadline, None for no limit.
    """

    def __init__(
        self,
        manager: Manager,
        scheduler: Scheduler | None,
        as_content: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        """Takes what is loaded, and what merges requests (None: each runs alone).

        Args:
            manager: see there.
            scheduler: see there.
            as_content: Predict answers with tensor_content rather than with the typed fields.
            metrics: where requests and runs are counted; None for a place of its own.
        """
        self.manager = manager
        self.metrics = metrics or Metrics()
        self._scheduler = scheduler
        self._as_content = as_content

    def predict(self, request: PredictRequest, timeout_s: float | None) -> PredictResponse:
        """Answers PredictionService.Predict."""
        with self._use(request) as servable:
            response = prediction.predict(
                servable, request, self._runner(servable, timeout_s), self._as_content
            )
            _name_version(response.model_spec, request.model_spec, servable)
        return response

    def classify(
        self, request: ClassificationRequest, timeout_s: float | None
    ) -> ClassificationResponse:
        """Answers PredictionService.Classify."""
        with self._use(request) as servable:
            run = self._runner(servable, timeout_s)
            result = examples.classify(
                servable, request.model_spec.signature_name, request.input, run
            )
            response = ClassificationResponse(result=result)
            _name_version(response.model_spec, request.model_spec, servable)
        return response

    def regress(self, request: RegressionRequest, timeout_s: float | None) -> RegressionResponse:
        """Answers PredictionService.Regress."""
        with self._use(request) as servable:
            run = self._runner(servable, timeout_s)
            result = examples.regress(
                servable, request.model_spec.signature_name, request.input, run
            )
            response = RegressionResponse(result=result)
            _name_version(response.model_spec, request.model_spec, servable)
        return response

    def multi_inference(
        self, request: MultiInferenceRequest, timeout_s: float | None
    ) -> MultiInferenceResponse:
        """Answers PredictionService.MultiInference; the first task says which version."""
        spec = request.tasks[0].model_spec if request.tasks else ModelSpec()
        with self._lend(spec) as servable:
            response = examples.multi_inference(
                servable, request, self._runner(servable, timeout_s)
            )
            for task, result in zip(request.tasks, response.results, strict=True):
                _name_version(result.model_spec, task.model_spec, servable)
        return response

    def metadata(self, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
        """Answers PredictionService.GetModelMetadata."""
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid_argument(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid_argument(f"Metadata field {field} is not supported")
        with self._use(request) as servable:
            response = GetModelMetadataResponse()
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = servable.version
            response.metadata["signature_def"].Pack(
                SignatureDefMap(signature_def=servable.signatures)
            )
        return response

    def run(
        self,
        servable: Servable,
        signature: SignatureDef,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str],
        timeout_s: float | None,
    ) -> dict[str, np.ndarray]:
        """Runs a signature of a version that `manager` has lent, in a batch if batching is on.

        See `prediction.run_signature`.
        """
        return prediction.run_signature(
            signature, inputs, output_filter, self._runner(servable, timeout_s)
        )

    def model_status(self, spec: ModelSpec) -> GetModelStatusResponse:
        """Answers ModelService.GetModelStatus; a label is ignored, as in the real server."""
        response = GetModelStatusResponse()
        number = spec.version.value if spec.HasField("version") else None
        for version, state, error in self.manager.states(spec.name, number):
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
                raise StatusError(
                    grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for the new models"
                )
            if self.manager.stopping.wait(_RELOAD_POLL_S):
                raise StatusError(grpc.StatusCode.UNAVAILABLE, "The server is stopping")
        response = ReloadConfigResponse()
        response.status.SetInParent()
        for name, count in before.items():
            response.metric.add(name=name, int64_value_increase=self.metrics.total(name) - count)
        return response

    @contextmanager
    def _use(self, request: Any) -> Iterator[Servable]:
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        with self._lend(request.model_spec) as servable:
            yield servable

    @contextmanager
    def _lend(self, spec: ModelSpec) -> Iterator[Servable]:
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        number = spec.version.value if spec.HasField("version") else None
        with self.manager.use(spec.name, number, spec.version_label) as servable:
            yield servable

    def _runner(self, servable: Servable, timeout_s: float | None) -> Run:
        def run(
            feeds: Mapping[str, np.ndarray], fetches: Sequence[str]
        ) -> Mapping[str, np.ndarray]:
            def execute(
                values: Mapping[str, np.ndarray], limit_s: float | None
            ) -> dict[str, np.ndarray]:
                return dict(zip(fetches, servable.run(values, fetches, limit_s), strict=True))

            with self.metrics.run():
                if self._scheduler is None or servable.batching is None:
                    return execute(feeds, timeout_s)
                key = (servable, frozenset(feeds), tuple(fetches))
                return self._scheduler.run(key, execute, feeds, timeout_s, servable.batching)

        return run


def _name_version(answer: ModelSpec, requested: ModelSpec, servable: Servable) -> None:
    answer.name = requested.name
    answer.signature_name = requested.signature_name or DEFAULT_SIGNATURE
    answer.version.value = servable.version
