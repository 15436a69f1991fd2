"""The client for one model: a picture in, a typed prediction out."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import grpc

from serving.client.base_client import BaseClient, check_concurrency
from serving.client.channel import Server, open_channel
from serving.client.dialogue import PREDICT, Ask, Pause, Result, Step, Steps
from serving.client.errors import ClientError
from serving.client.prediction import Array, Picture, Prediction


@dataclass(frozen=True)
class _Sent:
    """A request on its way, and what is to be done with its answer."""

    steps: Steps[Prediction]
    call: Any


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
        return self._run(self._dialogue.predict(picture))

    def predict_batch(self, pixels: Array) -> list[Prediction]:
        """Asks about several pictures of one size in one request.

        Args:
            pixels: a NumPy array of uint8 or float, 0…255, [n, height, width, 3].

        Raises:
            ClientError: one of its kinds.
        """
        return self._run(self._dialogue.predict_batch(pixels))

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
            for picture in pictures:
                pending.append(self._send(picture))
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
            lists (and strings as bytes).

        Raises:
            InvalidRequest: names or types that the signature does not want; nothing was sent. Or
                the server refuses.
            ClientError: another of its kinds.
        """
        return self._run(self._dialogue.predict_raw(inputs, signature, output_filter))

    def model_versions(self) -> dict[int, str]:
        """Asks which versions the server knows.

        Returns:
            Version → state: START, LOADING, AVAILABLE, UNLOADING or END. With a version of its own
            the client asks for that one; a label is ignored, as TensorFlow Serving does.

        Raises:
            ModelNotFound: the server has never heard of the model, or of the version.
            ClientError: another of its kinds.
        """
        return self._run(self._dialogue.model_versions())

    def wait_until_ready(self, timeout_s: float) -> None:
        """Waits until a version of the model (the client's own, if it has one) is available.

        Args:
            timeout_s: how long to go on asking; the last question may take the client's own timeout
                longer.

        Raises:
            ModelNotReady: it did not become available; the text says what the server last answered.
            ClientError: an answer that waiting does not mend.
        """
        self._run(self._dialogue.wait_until_ready(timeout_s))

    def _open(self, server: Server, **options: Any) -> grpc.Channel:
        return open_channel(server, **options)

    def _run(self, steps: Steps[Result], first: Callable[[], Any] | None = None) -> Result:
        """Does one step after the other; `first` gives the answer to the step that was taken
        already.
        """
        try:
            step = self._advance(steps, first) if first else next(steps)
            while True:
                step = self._advance(steps, partial(self._perform, step))
        except StopIteration as end:
            return end.value

    @staticmethod
    def _advance(steps: Steps[Any], perform: Callable[[], Any]) -> Step:
        try:
            answer = perform()
        except ClientError as error:
            return steps.throw(error)
        return steps.send(answer)

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Ask):
            return self._answer(
                partial(self._method(step.method), step.request, timeout=self._timeout_s)
            )
        return time.sleep(step.seconds) if isinstance(step, Pause) else step.function()

    def _answer(self, wait: Callable[[], Any]) -> Any:
        try:
            return wait()
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            raise self._error(error) from error

    def _send(self, picture: Picture) -> _Sent | ClientError:
        """Goes as far as the request about the picture itself, and does not wait for the answer."""
        steps = self._dialogue.predict(picture)
        try:
            step = next(steps)
            while not (isinstance(step, Ask) and step.method == PREDICT):
                step = self._advance(steps, partial(self._perform, step))
            return _Sent(steps, self._method(PREDICT).future(step.request, timeout=self._timeout_s))
        except ClientError as error:
            return error

    def _outcome(self, sent: _Sent | ClientError) -> Prediction | ClientError:
        if not isinstance(sent, _Sent):
            return sent
        try:
            return self._run(sent.steps, partial(self._answer, sent.call.result))
        except ClientError as error:
            return error
