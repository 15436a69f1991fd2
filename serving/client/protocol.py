"""The client's protocol, without sockets: what is asked and what an answer means.

The synchronous and the asynchronous client share it.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from serving.client import answers, errors
from serving.client.answers import (
    MOST_BYTES,
    Prediction,
    Signatures,
    expected,
)
from serving.client.errors import InvalidRequest, UnreadablePicture
from serving.client.tensors import Part, is_array
from serving.protos import message
from whisker_ml import contract

# What goes into a prediction.


class Array(Protocol):
    """What the client uses of a numpy.ndarray; NumPy itself need not be installed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its dimensions."""

    @property
    def dtype(self) -> Any:
        """Type of its elements."""

    def tobytes(self) -> bytes:
        """Its elements, in C order."""


# Encoded bytes (JPEG, PNG, GIF, BMP), a file of them by its path or opened in binary mode, or
# pixels as they are: uint8 or float, 0…255, [height, width, 3].
Picture = bytes | str | os.PathLike[str] | BinaryIO | Array


def read_picture(picture: Picture) -> bytes:
    """Reads encoded bytes out of a file, given by its path or opened.

    Raises:
        InvalidRequest: this is no file at all.
        UnreadablePicture: the file cannot be read, or gives text.
    """
    try:
        if isinstance(picture, str | os.PathLike):
            path = Path(picture)
            # A pipe or a device may never end.
            if path.exists() and not path.is_file() and not path.is_dir():
                raise UnreadablePicture("not a regular file")
            data = path.read_bytes()
        elif hasattr(picture, "read"):
            data = picture.read()
        else:
            raise InvalidRequest(
                f"a picture is a {type(picture).__name__}: expected bytes, a path, a file opened in"
                " binary mode or an array"
            )
    except (OSError, ValueError) as error:
        # ValueError: a path with a zero byte in it, a file object that is closed.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UnreadablePicture(f"the file cannot be read: {reason}") from error
    if not isinstance(data, bytes):
        raise UnreadablePicture("the file gives text: expected one that is opened in binary mode")
    return data


# The client's half of the protocol, without sockets: the part that both clients share.
#
# A `Steps` generator yields what it needs (an answer, a pause, a file) and is sent the result, or
# thrown the error. Who runs it decides whether threads or an event loop wait meanwhile.

PREDICT = "PredictionService/Predict"
_METADATA = "PredictionService/GetModelMetadata"
_STATUS = "ModelService/GetModelStatus"
METHODS = {  # Path → message of the answer.
    PREDICT: "PredictResponse",
    _METADATA: "GetModelMetadataResponse",
    _STATUS: "GetModelStatusResponse",
}

_OTHER_MODEL = "it is not a model that Whisker exported; check the model's name"
_FIRST_POLL_S, _SLOWEST_POLL_S = 0.05, 1.0
# Versions whose signatures and classes are known at a time: a server may answer as ever new ones.
_VERSIONS_KEPT = 4


@dataclass(frozen=True)
class Ask:
    """Wants the answer to a serialized request, as bytes; `method` is one of `METHODS`."""

    method: str
    request: bytes


@dataclass(frozen=True)
class Pause:
    """Wants time to pass."""

    seconds: float


@dataclass(frozen=True)
class Read:
    """Wants the result of a function that may block."""

    function: Callable[[], bytes]


Step = Ask | Pause | Read
Known = TypeVar("Known")
Result = TypeVar("Result")
Steps = Generator[Step, Any, Result]


class ClientProtocol:
    """What is known about one model on one server, and how to ask for more. Threads may share
    it.
    """

    def __init__(
        self,
        server: str,
        model_name: str | None,
        version: int | None,
        label: str | None,
        signature: str,
        max_answer_bytes: int,
    ) -> None:
        """Begins with nothing known; arguments as those of the clients.

        Raises:
            InvalidRequest: both version and label.
        """
        if version is not None and label is not None:
            raise errors.InvalidRequest(
                f"version {version} and label {label!r}: a request asks for one of them, not both"
            )
        self._server = server
        self._signature = signature
        self._max_answer_bytes = max_answer_bytes
        self._any_model = model_name is None
        name = contract.DEFAULT_MODEL_NAME if model_name is None else model_name
        self._model_spec = message("tensorflow.serving.ModelSpec")(name=name)
        if version is not None:
            self._model_spec.version.value = version
        if label is not None:
            self._model_spec.version_label = label
        # By model version, as a version never changes: its class names, its signatures.
        self._classes: OrderedDict[int, tuple[str, ...]] = OrderedDict()
        self._signatures: OrderedDict[int, Signatures] = OrderedDict()
        self._answering: int | None = None  # the version that answered last

    @property
    def _asked(self) -> str:
        return f"{self._server}: model {self._model_spec.name}"

    def predict(self, picture: Picture) -> Steps[Prediction]:
        """Asks about one picture."""
        outcome: Prediction | None
        if is_array(picture):
            (outcome,) = yield from self.predict_batch(picture[None])
        else:
            data = (
                picture
                if isinstance(picture, bytes)
                else (yield Read(partial(read_picture, picture)))
            )
            (outcome,) = yield from self._predictions(self._signature, contract.INPUT_BYTES, [data])
        if outcome is None:
            raise errors.NotAPicture
        return outcome

    def predict_batch(self, pixels: Array) -> Steps[list[Prediction]]:
        """Asks about pixels [n, height, width, 3] in one request."""
        if not is_array(pixels) or len(pixels.shape) != 4:
            shape = list(pixels.shape) if is_array(pixels) else type(pixels).__name__
            raise errors.InvalidRequest(
                f"pixels of shape {shape}: expected arrays of [height, width, 3]"
            )
        if not len(pixels):
            return []
        outcomes = yield from self._predictions(
            contract.SIGNATURE_PIXELS, contract.INPUT_PIXELS, pixels
        )
        found = [outcome for outcome in outcomes if outcome is not None]
        if len(found) < len(outcomes):
            raise errors.UnexpectedReply(
                f"{self._asked} answers that pixels are not a picture: {_OTHER_MODEL}"
            )
        return found

    def predict_raw(
        self, inputs: Mapping[str, Any], signature: str | None, output_filter: Sequence[str]
    ) -> Steps[dict[str, Any]]:
        """Asks any signature; answers arrays where an input is one, else lists."""
        name = signature or self._signature
        parts, _ = yield from self._request(name, inputs, output_filter)
        response = yield from self._answer(name, parts, output_filter, self._max_answer_bytes)
        arrays = any(map(is_array, inputs.values()))
        with expected(self._asked):
            return answers.outputs_of(response, output_filter, arrays=arrays)

    def model_versions(self) -> Steps[dict[int, str]]:
        """Asks which versions the server knows, and their states."""
        request = message("tensorflow.serving.GetModelStatusRequest")(model_spec=self._model_spec)
        response = yield from self._ask(_STATUS, request.SerializeToString())
        return {entry.version: answers.state_of(entry) for entry in response.model_version_status}

    def wait_until_ready(self, timeout_s: float) -> Steps[None]:
        """Asks until a version is available."""
        deadline = time.monotonic() + timeout_s
        pause_s = _FIRST_POLL_S
        cause: errors.ClientError | None = None
        last = ""
        while True:
            try:
                versions = yield from self.model_versions()
                if "AVAILABLE" in versions.values():
                    return
                cause, last = None, f"versions {versions}"
            except (
                errors.ServerUnavailable,
                errors.DeadlineExceeded,
                errors.ModelNotFound,
            ) as error:
                # The last question has hardly any time: what was answered before says more.
                if not last or not isinstance(error, errors.DeadlineExceeded):
                    cause, last = error, str(error)
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise errors.ModelNotReady(
                    f"model {self._model_spec.name} on {self._server} is not available after"
                    f" {timeout_s:g} s: {last}"
                ) from cause
            yield Pause(min(pause_s, remaining_s))
            pause_s = min(2 * pause_s, _SLOWEST_POLL_S)

    def signatures(self, *, anew: bool = False) -> Steps[Signatures]:
        """Gives those of the version that answers now; asks for them once per version, or
        `anew`.
        """
        # Looked up once: another thread may learn of another version at any moment.
        known = None if anew or self._answering is None else self._signatures.get(self._answering)
        if known is None:
            # The spec's signature does not matter.
            request = message("tensorflow.serving.GetModelMetadataRequest")(
                model_spec=self._model_spec, metadata_field=[answers.SIGNATURES]
            )
            response = yield from self._found(_METADATA, request.SerializeToString(), MOST_BYTES)
            with expected(self._asked):
                version = answers.version_of(response, self._model_spec)
                known = _remember(self._signatures, version, answers.signatures_of(response))
            self._answering = version
        return known

    def _request(
        self, name: str, inputs: Mapping[str, Any], output_filter: Sequence[str] = ()
    ) -> Steps[tuple[list[Part], Any]]:
        """Serializes inputs as a signature takes them; gives that too, a SignatureDef."""
        of_before = self._answering
        known = yield from self.signatures()
        try:
            return answers.signature_parts(inputs, output_filter, known, name, self._asked)
        except errors.InvalidRequest:
            if of_before is None:
                raise
            # The server may have moved to a version that wants what the one before did not.
            known = yield from self.signatures(anew=True)
            return answers.signature_parts(inputs, output_filter, known, name, self._asked)

    def _answer(
        self, signature: str, inputs: list[Part], output_filter: Sequence[str], most_bytes: int
    ) -> Steps[Any]:
        head = message("tensorflow.serving.PredictRequest")(
            model_spec=self._model_spec, output_filter=output_filter
        )
        head.model_spec.signature_name = signature
        data = b"".join((head.SerializeToString(), *inputs))
        response = yield from self._found(PREDICT, data, most_bytes)
        with expected(self._asked):
            self._answering = answers.version_of(response, self._model_spec)
        return response

    def _ask(self, method: str, request: bytes, most_bytes: int = MOST_BYTES) -> Steps[Any]:
        try:
            data = yield Ask(method, request)
        except errors.ModelNotFound as error:
            if not self._any_model or len(error.models) != 1:
                raise
            (self._model_spec.name,) = error.models
            # What is said last of a field counts (protobuf.dev/programming-guides/encoding), and
            # model_spec is the first field of every request.
            renamed = message("tensorflow.serving.PredictRequest")()
            renamed.model_spec.name = self._model_spec.name
            data = yield Ask(method, request + renamed.SerializeToString())
        with expected(self._asked):
            return answers.parse(METHODS[method], data, most_bytes)

    def _found(self, method: str, request: bytes, most_bytes: int) -> Steps[Any]:
        """Asks; where the server has no such model, says whether it is still loading."""
        try:
            return (yield from self._ask(method, request, most_bytes))
        except errors.ModelNotFound as error:
            try:
                versions = yield from self.model_versions()
            except errors.ClientError:
                raise error from error.__cause__
            if {"START", "LOADING"} & set(versions.values()):
                raise errors.ModelNotReady(
                    f"{self._asked} is still loading (versions {versions}): call wait_until_ready"
                    " before, or ask again",
                    code=error.code,
                    details=error.details,
                ) from error
            raise

    def _predictions(
        self, signature: str, name: str, values: Any
    ) -> Steps[list[Prediction | None]]:
        """Asks about one or more pictures; gives None for each that is none."""
        count = len(values)
        most_bytes = count * MOST_BYTES
        parts, known = yield from self._request(signature, {name: values})
        wanted = [
            output
            for output in contract.OUTPUTS_WITHOUT_CLASSES
            if self._classes and output in known.outputs
        ]
        for outputs in (wanted, []):
            try:
                response = yield from self._answer(signature, parts, outputs, most_bytes)
            except InvalidRequest as error:
                # The server may have moved to a version that answers less.
                absent = f"not found in signature: {contract.OUTPUT_UNSURE} "
                if not outputs or absent not in error.details:
                    raise
                continue
            version = response.model_spec.version.value
            classes = self._classes.get(version)
            # Or to one whose class names nobody has asked for yet.
            if classes or contract.OUTPUT_CLASSES in response.outputs:
                break
        question = f"{self._server}: version {version} of model {self._model_spec.name}"
        with expected(question, _OTHER_MODEL):
            if classes is None:
                classes = answers.classes_of(response, count)
            outcomes = answers.predictions_of(response, version, classes, count)
            _remember(self._classes, version, classes)
        return outcomes


def _remember(kept: OrderedDict[int, Known], version: int, known: Known) -> Known:
    kept[version] = known
    if len(kept) > _VERSIONS_KEPT:
        kept.popitem(last=False)
    return known
