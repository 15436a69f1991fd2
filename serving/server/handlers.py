"""From a request to its answer, the same for gRPC and REST. Order and text of the checks are TensorFlow Serving's."""

from collections.abc import Iterable, Mapping, Sequence

import grpc
import numpy as np
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from serving.server import tensors
from serving.server.batching import Scheduler
from serving.server.manager import Manager
from serving.server.servable import Servable
from serving.server.status import StatusError, invalid_argument

DEFAULT_SIGNATURE = "serving_default"


class Handlers:
    """Answers requests; used by many threads at once."""

    def __init__(self, manager: Manager, scheduler: Scheduler | None) -> None:
        """Takes what is loaded, and what merges requests (None: each runs alone)."""
        self.manager = manager
        self._scheduler = scheduler

    def predict(self, request: PredictRequest, timeout_s: float | None) -> PredictResponse:
        """Answers PredictionService.Predict.

        Args:
            request: as it came.
            timeout_s: what is left of the client's deadline; None for no limit.

        Raises:
            StatusError: as the real server answers.
        """
        spec = request.model_spec
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        name = spec.signature_name or DEFAULT_SIGNATURE
        number = spec.version.value if spec.HasField("version") else None
        with self.manager.use(spec.name, number, spec.version_label) as servable:
            if name not in servable.signatures:
                raise StatusError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
            signature = servable.signatures[name]
            _check_count(signature, request.inputs)
            inputs = _with_defaults(signature, request.inputs)
            outputs = self.run(servable, signature, inputs, request.output_filter, timeout_s)
            response = PredictResponse(model_spec=ModelSpec(name=spec.name, signature_name=name))
            response.model_spec.version.value = servable.version
        for alias, value in outputs.items():
            response.outputs[alias].CopyFrom(tensors.encode(value))
        return response

    def run(
        self,
        servable: Servable,
        signature: SignatureDef,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str],
        timeout_s: float | None,
    ) -> dict[str, np.ndarray]:
        """Runs a signature, in a batch if batching is on.

        Args:
            servable: borrowed from the manager.
            signature: one of its own.
            inputs: alias to value, for each input of the signature.
            output_filter: aliases to answer; empty for all.
            timeout_s: None for no limit.

        Returns:
            Alias to value, in the order asked for.
        """
        aliases = _chosen_outputs(signature, output_filter)
        feeds = {}
        for index, (alias, value) in enumerate(inputs.items()):
            expected, provided = signature.inputs[alias].dtype, tensors.dtype_number(value)
            if expected != provided:
                raise invalid_argument(
                    f"Expects arg[{index}] to be {tensors.dtype_name(expected)} "
                    f"but {tensors.dtype_name(provided)} is provided"
                )
            feeds[signature.inputs[alias].name] = value
        fetches = [signature.outputs[alias].name for alias in aliases]

        def execute(values: Mapping[str, np.ndarray], limit_s: float | None) -> dict[str, np.ndarray]:
            return dict(zip(aliases, servable.run(values, fetches, limit_s), strict=True))

        if self._scheduler is None:
            return execute(feeds, timeout_s)
        return self._scheduler.run((servable, frozenset(feeds), tuple(aliases)), execute, feeds, timeout_s)

    def model_status(self, spec: ModelSpec) -> GetModelStatusResponse:
        """Answers ModelService.GetModelStatus; a label is ignored, as in the real server.

        Raises:
            StatusError: NOT_FOUND.
        """
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


def _check_count(signature: SignatureDef, given: Iterable[str]) -> None:
    sent, expected = set(given), set(signature.inputs)
    if len(sent) > len(expected) or (len(sent) < len(expected) and not signature.defaults):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(expected)} "
            f"len({{{_join(sent)}}}) != len({{{_join(expected)}}}). "
            f"Sent extra: {{{_join(sent - expected)}}}. Missing but required: {{{_join(expected - sent)}}}."
        )


def _with_defaults(signature: SignatureDef, given: Mapping[str, TensorProto]) -> dict[str, np.ndarray]:
    values = {}
    used = set()
    for alias in sorted(signature.inputs):
        if alias in given:
            used.add(alias)
            values[alias] = tensors.decode(alias, given[alias])
        elif alias in signature.defaults:
            values[alias] = tensors.decode(alias, signature.defaults[alias])
        else:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not found in request and "
                f"no default value provided. Inputs expected to be in the request {{{_join(given)}}}, "
                f"or default input alias set: {_join(signature.defaults)}"
            )
    if len(used) != len(given):
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {_join(used)}, request input: {_join(given)}"
        )
    return values


def _chosen_outputs(signature: SignatureDef, output_filter: Sequence[str]) -> list[str]:
    chosen: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {{{_join(signature.outputs)}}}."
            )
        if alias in chosen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        chosen.append(alias)
    return chosen or sorted(signature.outputs)


def _join(names: Iterable[str]) -> str:
    return ",".join(sorted(names))
