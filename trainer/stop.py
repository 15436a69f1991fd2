"""SIGTERM: what a machine that is about to go away sends, and how a run ends then."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trainer.errors import RunStopped

_OUTSIDE = "stopped outside of training; the same command goes on from there"


class Stop:
    """Remembers that the run was asked to stop.

    Outside of training the request ends the run at once; training looks at it between two calls and
    writes a checkpoint first.
    """

    def __init__(self) -> None:
        self._asked = False
        self._deferred = False
        self._installed = False

    def install(self) -> None:
        """Makes SIGTERM a request to stop; for entry points, in the main thread."""
        signal.signal(signal.SIGTERM, self._handle)
        self._installed = True

    def install_again(self) -> None:
        """Takes SIGTERM back, if it was ours, from TensorFlow, which takes it when it starts a
        cluster.
        """
        if self._installed:
            self.install()

    def asked(self) -> bool:
        """Tells whether the run is to stop."""
        return self._asked

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a request is only remembered."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    @contextmanager
    def told_plainly(self) -> Iterator[None]:
        """Inside, a request that surfaces from the depths of a library, wrapped as its error, is
        the request again.
        """
        try:
            yield
        except Exception as error:
            # AutoGraph raises the same type again, with the lines of its trace.
            if not self._asked or (isinstance(error, RunStopped) and "\n" not in str(error)):
                raise
            raise RunStopped(_OUTSIDE) from error

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._asked = True
        if not self._deferred:
            raise RunStopped(_OUTSIDE)
