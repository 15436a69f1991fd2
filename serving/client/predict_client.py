"""The client for one model: a picture in, a typed prediction out."""

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import grpc

from serving.client import errors
from serving.client.channel import MAX_ANSWER_BYTES, Server, Tls, Token, open_channel
from serving.client.errors import ClientError
from serving.client.protocol import (
    METHODS,
    Array,
    Ask,
    ClientProtocol,
    Pause,
    Picture,
    Prediction,
    Read,
    Result,
    Step,
    Steps,
)
from whisker_ml import contract

# What both clients are made of, and when neither may be used.


class TimeBudget:
    """How much longer a client may wait for the server, all that one call of a method asks taken
    together; what happens in its `with` block is waiting.

    Attributes:
        left_s: in seconds; gRPC ends at once what is given 0 or less.
    """

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *exc_info: object) -> None:
        self.left_s -= time.monotonic() - self._start


class BaseClient:
    """A channel, the methods on it, and what has been learned of the model."""

    _asynchronous = False

    def __init__(
        self,
        server: Server = contract.DEFAULT_SERVER,
        model_name: str | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = contract.SIGNATURE_BYTES,
        timeout_s: float = 10.0,
        tls: Tls | None = None,
        token: Token | None = None,
        interceptors: Sequence[Any] = (),
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        """Prepares the connection; nothing is sent yet.

        Args:
            server: ``host:port`` of the gRPC port, another gRPC name, or several ``host:port`` that
                are asked in turn (see `open_channel`).
            model_name: as the server knows it; None: `contract.DEFAULT_MODEL_NAME`, or the only
                model of a server that says which it has (Whisker's does, TensorFlow's cannot).
            version: ask this version; None asks the newest that is loaded.
            label: ask the version that has this label, such as `contract.STABLE_LABEL`.
            signature: the one that pictures as bytes are sent to; pixels go to
                `contract.SIGNATURE_PIXELS`.
            timeout_s: how long a method waits for the server, all that it asks and retries
                included; `predict_many` for each picture.
            tls: how to check and encrypt the connection; None: plaintext.
            token: a bearer token, or a function that gives one for every call; needs `tls` except
                to this machine.
            interceptors: of gRPC, for unary-unary calls; for `AsyncPredictClient` those of
                grpc.aio. They see requests and answers as the bytes on the wire.
            max_answer_bytes: of one answer; a longer one raises MessageTooLarge before it is in
                memory. Of an answer about pictures no more than 4 MiB a picture is read. One that
                is made to hurt can take 90 times its size while it is read.

        Raises:
            InvalidRequest: both version and label, a timeout that is not above 0, or an argument
                that the channel cannot use.
        """
        self._server = server if isinstance(server, str) else ",".join(server)
        self._protocol = ClientProtocol(
            self._server, model_name, version, label, signature, max_answer_bytes
        )
        if timeout_s <= 0:
            raise errors.InvalidRequest(f"timeout_s is {timeout_s}: it must be above 0 seconds")
        self._timeout_s = timeout_s
        self._process = os.getpid()
        self._closed = False
        self._channel = open_channel(
            server,
            tls=tls,
            token=token,
            interceptors=interceptors,
            max_answer_bytes=max_answer_bytes,
            asynchronous=self._asynchronous,
        )
        # Answers stay bytes: gRPC would log a traceback of those that are no message.
        self._methods = {
            path: self._channel.unary_unary(f"/tensorflow.serving.{path}") for path in METHODS
        }

    def _method(self, path: str) -> Any:
        """Gives the call, where it can end.

        Raises:
            InvalidRequest: the client is closed, or belongs to the process that this one was forked
                from.
        """
        if self._process != os.getpid():
            raise errors.InvalidRequest(
                f"this client was made by process {self._process} and process {os.getpid()} was"
                " forked from it: a connection does not survive a fork; make a client after the"
                " fork"
            )
        if self._closed:
            raise errors.InvalidRequest("this client is closed: make another one")
        return self._methods[path]

    def _error(self, error: BaseException) -> ClientError:
        """Says why a call has no answer: its status, or that the client was closed meanwhile."""
        if isinstance(error, grpc.RpcError):
            return errors.from_rpc_error(error, self._server)
        return ClientError(f"{self._server}: the client was closed before the answer came")


def check_concurrency(concurrency: int) -> None:
    """Refuses a concurrency with which nothing would ever be asked.

    Raises:
        InvalidRequest: below 1.
    """
    if concurrency < 1:
        raise errors.InvalidRequest(f"concurrency is {concurrency}: it must be at least 1")


@dataclass(frozen=True)
class _Sent:
    """A request on its way, what is to be done with its answer, and how long to wait for it."""

    steps: Steps[Prediction]
    call: grpc.Future
    budget: TimeBudget


class PredictClient(BaseClient):
    """Asks one model on one server, or on several with the same models, one request per picture.

    Close it, or use it in a `with` block. Threads may share one client, and should: it holds one
    connection to each server. A process that forks makes its client after the fork, in the child;
    the parent's is refused there in one line. Parent and child may each have one.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls on their way are cancelled."""
        self._closed = True
        self._channel.close()

    def predict(self, picture: Picture) -> Prediction:
        """Asks about one picture.

        Args:
            picture: its encoded bytes (JPEG, PNG, GIF, BMP); the path of a file that holds them, or
                the file, opened in binary mode; or its pixels, a NumPy array of uint8 or float,
                0…255, [height, width, 3] of the model's size.

        Raises:
            NotAPicture: the server cannot decode the bytes.
            UnreadablePicture: the file cannot be read.
            ClientError: another of its kinds: the server gave no answer that can be used.
        """
        return self._run(self._protocol.predict(picture))

    def predict_batch(self, pixels: Array) -> list[Prediction]:
        """Asks about several pictures of one size in one request.

        Args:
            pixels: a NumPy array of uint8 or float, 0…255, [n, height, width, 3].

        Raises:
            ClientError: one of its kinds.
        """
        return self._run(self._protocol.predict_batch(pixels))

    def predict_many(
        self, pictures: Iterable[Picture], *, concurrency: int = 8
    ) -> Iterator[Prediction | ClientError]:
        """Asks about any number of pictures, several at a time, in constant memory.

        Args:
            pictures: as for `predict`; read only as far ahead as the concurrency.
            concurrency: how many requests are on their way at most.

        Yields:
            For every picture, in order, its prediction, or the error that `predict` would have
            raised: one bad picture costs the others nothing.

        Raises:
            InvalidRequest: a concurrency below 1.
        """
        check_concurrency(concurrency)
        pending: deque[_Sent | ClientError] = deque()
        try:
            for number, picture in enumerate(pictures):
                budget = TimeBudget(self._timeout_s)
                if number == 0:
                    # Once, and not for each of the first pictures; what is wrong they will say.
                    with suppress(ClientError):
                        self._run(self._protocol.signatures(), budget)
                pending.append(self._send(picture, budget))
                if len(pending) == concurrency:
                    yield self._outcome(pending.popleft())
            while pending:
                yield self._outcome(pending.popleft())
        finally:
            for sent in pending:
                if isinstance(sent, _Sent):
                    sent.call.cancel()

    def predict_raw(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str | None = None,
        output_filter: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Asks any signature of any model.

        Args:
            inputs: name → NumPy array, value (bytes, str, float, int, bool), or list of values or
                of lists; sent in the type that the signature states, where that loses no more than
                precision.
            signature: None: the client's own.
            output_filter: the outputs to answer; none: all.

        Returns:
            Name → what the model answers in its shape: NumPy arrays where an input is one, else
            lists (and strings as bytes); bfloat16 as float32, quantized numbers as the integers
            that stand for them.

        Raises:
            InvalidRequest: names or types that the signature does not want; nothing was sent. Or
                the server refuses.
            ClientError: another of its kinds.
        """
        return self._run(self._protocol.predict_raw(inputs, signature, output_filter))

    def model_versions(self) -> dict[int, str]:
        """Asks which versions the server knows.

        Returns:
            Version → state: START, LOADING, AVAILABLE, UNLOADING or END. With a version of its own
            the client asks for that one; a label is ignored, as TensorFlow Serving does.

        Raises:
            ModelNotFound: the server has never heard of the model, or of the version.
            ClientError: another of its kinds.
        """
        return self._run(self._protocol.model_versions())

    def wait_until_ready(self, timeout_s: float) -> None:
        """Waits until a version of the model (the client's own, if it has one) is available.

        Args:
            timeout_s: how long to go on asking.

        Raises:
            ModelNotReady: it did not become available; the text says what the server last answered.
            ClientError: an answer that waiting does not fix.
        """
        self._run(self._protocol.wait_until_ready(timeout_s), TimeBudget(timeout_s))

    def _run(
        self,
        steps: Steps[Result],
        budget: TimeBudget | None = None,
        step: Step | grpc.Future | None = None,
    ) -> Result:
        """Does one step after the other, from `step` on if that was taken already."""
        budget = budget or TimeBudget(self._timeout_s)
        try:
            step = step or next(steps)
            while True:
                try:
                    answer = self._perform(step, budget)
                except ClientError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            return end.value

    def _perform(self, step: Step | grpc.Future, budget: TimeBudget) -> Any:
        if isinstance(step, Read):
            return step.function()
        try:
            with budget:
                if isinstance(step, Pause):
                    return time.sleep(step.seconds)
                if isinstance(step, Ask):
                    ask = self._method(step.method)
                    return ask(step.request, timeout=min(budget.left_s, self._timeout_s))
                return step.result()
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            raise self._error(error) from error

    def _send(self, picture: Picture, budget: TimeBudget) -> _Sent | ClientError:
        """Goes as far as the first question, and does not wait for its answer."""
        steps = self._protocol.predict(picture)
        try:
            step = next(steps)
            while not isinstance(step, Ask):
                step = steps.send(self._perform(step, budget))
            call = self._method(step.method).future(step.request, timeout=budget.left_s)
            return _Sent(steps, call, budget)
        except ClientError as error:
            return error

    def _outcome(self, sent: _Sent | ClientError) -> Prediction | ClientError:
        if not isinstance(sent, _Sent):
            return sent
        try:
            return self._run(sent.steps, sent.budget, sent.call)
        except ClientError as error:
            return error
