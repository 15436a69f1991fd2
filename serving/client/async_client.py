"""The client for one model, for programs with an event loop: as `PredictClient`, awaited."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

import grpc

from serving.client.errors import ClientError
from serving.client.predict_client import BaseClient, TimeBudget, check_concurrency
from serving.client.protocol import Array, Pause, Picture, Prediction, Read, Result, Step, Steps


class AsyncPredictClient(BaseClient):
    """Asks one model on one server, or on several with the same models, one request per picture.

    Close it, or use it in an `async with` block. It belongs to the event loop that it is made in,
    whose tasks may share it, and to no other thread. A process that forks makes its client after
    the fork, in the child. Methods take and give what those of `PredictClient` do, and raise the
    same.
    """

    _asynchronous = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls on their way are cancelled."""
        self._closed = True
        await self._channel.close()

    async def predict(self, picture: Picture) -> Prediction:
        """Asks about one picture; a file is read in a thread."""
        return await self._run(self._protocol.predict(picture))

    async def predict_batch(self, pixels: Array) -> list[Prediction]:
        """Asks about several pictures of one size in one request."""
        return await self._run(self._protocol.predict_batch(pixels))

    async def predict_many(
        self, pictures: Iterable[Picture], *, concurrency: int = 8
    ) -> AsyncIterator[Prediction | ClientError]:
        """Asks about any number of pictures, several at a time, in order and in constant memory."""
        check_concurrency(concurrency)
        pending: deque[asyncio.Task[Prediction | ClientError]] = deque()
        try:
            for number, picture in enumerate(pictures):
                budget = TimeBudget(self._timeout_s)
                if number == 0:
                    # Once, and not for each of the first pictures; what is wrong they will say.
                    with suppress(ClientError):
                        await self._run(self._protocol.signatures(), budget)
                pending.append(asyncio.create_task(self._outcome(picture, budget)))
                if len(pending) == concurrency:
                    yield await pending.popleft()
            while pending:
                yield await pending.popleft()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def predict_raw(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str | None = None,
        output_filter: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Asks any signature of any model."""
        return await self._run(self._protocol.predict_raw(inputs, signature, output_filter))

    async def model_versions(self) -> dict[int, str]:
        """Asks which versions the server knows: version → state."""
        return await self._run(self._protocol.model_versions())

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Waits until a version of the model (the client's own, if it has one) is available."""
        await self._run(self._protocol.wait_until_ready(timeout_s), TimeBudget(timeout_s))

    async def _run(self, steps: Steps[Result], budget: TimeBudget | None = None) -> Result:
        budget = budget or TimeBudget(self._timeout_s)
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._perform(step, budget)
                except ClientError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            return end.value

    async def _perform(self, step: Step, budget: TimeBudget) -> Any:
        if isinstance(step, Read):
            return await asyncio.to_thread(step.function)
        try:
            with budget:
                if isinstance(step, Pause):
                    return await asyncio.sleep(step.seconds)
                ask = self._method(step.method)
                return await ask(step.request, timeout=min(budget.left_s, self._timeout_s))
        except grpc.RpcError as error:
            raise self._error(error) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            # The call was cancelled, and nobody meant this task.
            if self._closed and not (task and task.cancelling()):
                raise self._error(error) from error
            raise

    async def _outcome(self, picture: Picture, budget: TimeBudget) -> Prediction | ClientError:
        try:
            return await self._run(self._protocol.predict(picture), budget)
        except ClientError as error:
            return error
