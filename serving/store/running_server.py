"""What a running server of TensorFlow Serving's kind has loaded under which labels, and how its
configuration moves.
"""

from dataclasses import dataclass
from typing import Any, Self

import grpc

from serving.client.channel import Tls, Token, open_channel
from serving.client.errors import InvalidRequest, ModelNotFound, from_rpc_error
from serving.config.models_config import ModelServerConfig
from serving.protos import message

LOADING, AVAILABLE, END = "LOADING", "AVAILABLE", "END"

# Of a question about what is loaded, which a server answers at once.
_QUESTION_S = 10.0
_UNKNOWN_LABEL = "Unrecognized servable version label"


@dataclass(frozen=True)
class VersionStatus:
    """What a server says of a version.

    Attributes:
        state: START, LOADING, AVAILABLE, UNLOADING or END.
        error: why it could not be loaded, in the server's words; empty where nothing is wrong.
    """

    state: str
    error: str


class Reload:
    """A new configuration on its way to the server, which answers once every model with a new name
    is loaded.
    """

    def __init__(self, call: Any, address: str) -> None:
        self._call = call
        self._address = address

    def done(self) -> bool:
        """Tells whether the server has answered."""
        return self._call.done()

    def result(self) -> None:
        """Waits for the answer.

        Raises:
            ClientError: the server has refused the configuration, or cannot load what is new in it.
        """
        try:
            self._call.result()
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._address) from error

    def cancel(self) -> None:
        """Waits no longer; what the server has taken over by then stays."""
        self._call.cancel()


class RunningServer:
    """A server that is to follow a models.config; use it in a `with` block.

    Args:
        address: ``host:port`` of its gRPC port. A name of several servers would reach one of them
            only.
        tls: how to check and encrypt the connection; None: plaintext.
        token: a bearer token for every call.

    Raises:
        InvalidRequest: as `open_channel` says.
    """

    def __init__(self, address: str, *, tls: Tls | None = None, token: Token | None = None) -> None:
        self.address = address
        self._channel = open_channel(address, tls=tls, token=token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._channel.close()

    def versions(self, model_name: str) -> dict[int, VersionStatus]:
        """Lists every version that the server has had of a model; nothing where it does not know
        the model.

        Raises:
            ClientError: it gives no answer.
        """
        request = message("tensorflow.serving.GetModelStatusRequest")(
            model_spec={"name": model_name}
        )
        try:
            response = self._ask("ModelService/GetModelStatus", "GetModelStatusResponse", request)
        except ModelNotFound:
            return {}
        return {
            entry.version: VersionStatus(
                entry.State.Name(entry.state),
                entry.status.error_message if entry.status.error_code else "",
            )
            for entry in response.model_version_status
        }

    def labelled(self, model_name: str, label: str, otherwise: int | None) -> int | None:
        """Gives the version that has a label.

        Args:
            model_name: a model that the server knows.
            label: any.
            otherwise: what to give where the server has the label on a version that is not loaded,
                as it then does not say which.

        Returns:
            The version; None where the server does not know the label.

        Raises:
            ClientError: it gives no answer.
        """
        # Of all questions that take a label, the one that runs no model. GetModelStatus ignores
        # labels.
        request = message("tensorflow.serving.GetModelMetadataRequest")(
            model_spec={"name": model_name, "version_label": label},
            metadata_field=["signature_def"],
        )
        try:
            response = self._ask(
                "PredictionService/GetModelMetadata", "GetModelMetadataResponse", request
            )
        except ModelNotFound:
            return otherwise
        except InvalidRequest as error:
            if _UNKNOWN_LABEL in error.details:
                return None
            raise
        return int(response.model_spec.version.value)

    def reload(self, config: ModelServerConfig, timeout_s: float) -> Reload:
        """Sends a configuration, which replaces the server's own.

        Args:
            config: with a model_config_list of every model that is to be served.
            timeout_s: how long the server may take to answer.
        """
        request = message("tensorflow.serving.ReloadConfigRequest")(config=config)
        # A list without models is one too, where the configuration is empty.
        request.config.model_config_list.SetInParent()
        method = self._method("ModelService/HandleReloadConfigRequest", "ReloadConfigResponse")
        return Reload(method.future(request, timeout=timeout_s), self.address)

    def _ask(self, path: str, response: str, request: Any) -> Any:
        try:
            return self._method(path, response)(request, timeout=_QUESTION_S)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.address) from error

    def _method(self, path: str, response: str) -> Any:
        return self._channel.unary_unary(
            f"/tensorflow.serving.{path}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=message(f"tensorflow.serving.{response}").FromString,
        )
