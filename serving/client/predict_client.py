"""The client for one model: a picture's bytes in, a typed prediction out."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc

from serving import contract
from serving.client import errors
from serving.client.channel import open_channel
from serving.client.messages import decode, encode
from serving.protos import message

Picture = bytes | str | os.PathLike[str]

_OUTPUTS_WITHOUT_CLASSES = tuple(name for name in contract.OUTPUTS if name != contract.OUTPUT_CLASSES)
_AVAILABLE = "AVAILABLE"
_FIRST_POLL_S, _SLOWEST_POLL_S = 0.05, 1.0


@dataclass(frozen=True)
class Prediction:
    """What the model says about one picture.

    Attributes:
        label: the most probable class.
        probability: its probability, 0 to 1.
        probabilities: the probability of every class, 0 to 1, in the model's order of classes.
        model_version: the version that answered.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    model_version: int


@dataclass(frozen=True)
class _Sent:
    """A request on its way. The bytes stay at hand in case that it has to be asked again."""

    data: bytes
    call: Any


class PredictClient:
    """Asks one model on one server, one request per picture.

    Close it, or use it in a `with` block. Threads may share one client, and should: it holds one connection. A process
    that forks must open its client after the fork, in the child: gRPC connections do not survive one.
    """

    def __init__(
        self,
        server: str = contract.DEFAULT_SERVER,
        model_name: str = contract.DEFAULT_MODEL_NAME,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = contract.SIGNATURE_BYTES,
        timeout_s: float = 10.0,
    ) -> None:
        """Prepares the connection; nothing is sent yet.

        Args:
            server: ``host:port`` of the gRPC port, or another gRPC name (see `open_channel`).
            model_name: as the server knows it.
            version: ask this version; None asks the newest that is loaded.
            label: ask the version that has this label, such as `contract.STABLE_LABEL`.
            signature: a signature that takes `contract.INPUT_BYTES`.
            timeout_s: how long one call may take, retries included.

        Raises:
            InvalidRequest: both version and label, or a timeout that is not above 0.
        """
        if version is not None and label is not None:
            raise errors.InvalidRequest(
                f"version {version} and label {label!r}: a request asks for one of them, not both"
            )
        if timeout_s <= 0:
            raise errors.InvalidRequest(f"timeout_s is {timeout_s}: it must be above 0 seconds")
        self._server = server
        self._timeout_s = timeout_s
        self._model_spec = message("tensorflow.serving.ModelSpec")(name=model_name, signature_name=signature)
        if version is not None:
            self._model_spec.version.value = version
        if label is not None:
            self._model_spec.version_label = label
        # Model version → class names. A version never changes, so they are asked for once.
        self._classes: dict[int, tuple[str, ...]] = {}
        self._channel = open_channel(server)
        self._predict = self._method("PredictionService/Predict", "PredictResponse")
        self._status = self._method("ModelService/GetModelStatus", "GetModelStatusResponse")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls on their way are cancelled."""
        self._channel.close()

    def predict(self, picture: Picture) -> Prediction:
        """Asks about one picture.

        Args:
            picture: the encoded bytes (JPEG, PNG, GIF, BMP), or the path of a file that holds them.

        Raises:
            NotAPicture: the server cannot decode the bytes.
            UnreadablePicture: the file cannot be read.
            ClientError: another of its kinds: the server gave no answer that can be used.
        """
        return self._receive(self._send(picture))

    def predict_many(
        self, pictures: Iterable[Picture], *, concurrency: int = 8
    ) -> Iterator[Prediction | errors.ClientError]:
        """Asks about any number of pictures, several at a time, in constant memory.

        Args:
            pictures: as for `predict`; read only as far ahead as the concurrency.
            concurrency: how many requests are on their way at most.

        Yields:
            For every picture, in order, its prediction, or the error that `predict` would have raised: one bad picture
            costs the others nothing.

        Raises:
            InvalidRequest: a concurrency below 1.
        """
        if concurrency < 1:
            raise errors.InvalidRequest(f"concurrency is {concurrency}: it must be at least 1")
        pending: deque[_Sent | errors.ClientError] = deque()
        try:
            for picture in pictures:
                pending.append(_or_error(self._send, picture))
                if len(pending) == concurrency:
                    yield self._outcome(pending.popleft())
            while pending:
                yield self._outcome(pending.popleft())
        finally:
            for sent in pending:
                if isinstance(sent, _Sent):
                    sent.call.cancel()

    def model_versions(self) -> dict[int, str]:
        """Asks which versions the server knows.

        Returns:
            Version → state: START, LOADING, AVAILABLE, UNLOADING or END. With a version of its own the client asks for
            that one; a label is ignored, as TensorFlow Serving does.

        Raises:
            ModelNotFound: the server has never heard of the model, or of the version.
            ClientError: another of its kinds.
        """
        request = message("tensorflow.serving.GetModelStatusRequest")(model_spec=self._model_spec)
        try:
            response = self._status(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error, self._server) from error
        return {entry.version: entry.State.Name(entry.state) for entry in response.model_version_status}

    def wait_until_ready(self, timeout_s: float) -> None:
        """Waits until a version of the model (the client's own, if it has one) is available.

        Args:
            timeout_s: how long to go on asking; the last question may take the client's own timeout longer.

        Raises:
            ModelNotReady: it did not become available; the text says what the server last answered.
            ClientError: an answer that waiting does not mend.
        """
        deadline = time.monotonic() + timeout_s
        pause_s = _FIRST_POLL_S
        while True:
            cause = None
            try:
                versions = self.model_versions()
                if _AVAILABLE in versions.values():
                    return
                last = f"versions {versions}"
            except (errors.ServerUnavailable, errors.DeadlineExceeded, errors.ModelNotFound) as error:
                cause, last = error, str(error)
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise errors.ModelNotReady(
                    f"model {self._model_spec.name} on {self._server} is not available after {timeout_s:g} s: {last}"
                ) from cause
            time.sleep(min(pause_s, remaining_s))
            pause_s = min(2 * pause_s, _SLOWEST_POLL_S)

    def _method(self, path: str, response: str) -> Any:
        return self._channel.unary_unary(
            f"/tensorflow.serving.{path}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=message(f"tensorflow.serving.{response}").FromString,
        )

    def _send(self, picture: Picture) -> _Sent:
        data = picture if isinstance(picture, bytes) else _read(picture)
        return _Sent(data, self._call(data, with_classes=not self._classes))

    def _call(self, data: bytes, *, with_classes: bool) -> Any:
        request = message("tensorflow.serving.PredictRequest")(model_spec=self._model_spec)
        request.inputs[contract.INPUT_BYTES].CopyFrom(encode([data]))
        if not with_classes:
            request.output_filter.extend(_OUTPUTS_WITHOUT_CLASSES)
        return self._predict.future(request, timeout=self._timeout_s)

    def _receive(self, sent: _Sent) -> Prediction:
        response = self._result(sent.call)
        version = response.model_spec.version.value
        if version not in self._classes and contract.OUTPUT_CLASSES not in response.outputs:
            # The server has moved to a version whose class names nobody has asked for yet.
            response = self._result(self._call(sent.data, with_classes=True))
            version = response.model_spec.version.value
        try:
            (valid,) = _output(response, contract.OUTPUT_VALID)
            if not valid:
                raise errors.NotAPicture
            if version not in self._classes:
                self._classes[version] = tuple(map(_text, _output(response, contract.OUTPUT_CLASSES)))
            (label,) = _output(response, contract.OUTPUT_LABEL)
            (probability,) = _output(response, contract.OUTPUT_PROBABILITY)
            probabilities = _output(response, contract.OUTPUT_PROBABILITIES)
            by_class = dict(zip(self._classes[version], probabilities, strict=True))
        except ValueError as error:
            raise errors.UnexpectedReply(
                f"{self._server}: version {version} of model {self._model_spec.name} answers with {error}: "
                "it is not a model that Whisker exported; check the model's name"
            ) from error
        return Prediction(_text(label), probability, by_class, version)

    def _outcome(self, sent: _Sent | errors.ClientError) -> Prediction | errors.ClientError:
        return _or_error(self._receive, sent) if isinstance(sent, _Sent) else sent

    def _result(self, call: Any) -> Any:
        try:
            return call.result()
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error, self._server) from error


def _or_error(step: Callable[[Any], Any], argument: object) -> Any:
    try:
        return step(argument)
    except errors.ClientError as error:
        return error


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise errors.UnreadablePicture(f"the file cannot be read: {error.strerror}") from error


def _output(response: Any, name: str) -> list[Any]:
    # Looking a missing name up in a message map adds it.
    if name not in response.outputs:
        raise ValueError(f"no output {name!r}")
    return decode(response.outputs[name])


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
