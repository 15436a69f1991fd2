"""A run folder in a bucket belongs to one process at a time: the one that writes an object in it
again and again.

Nobody's clock is compared with another's: whoever finds a lease watches whether it is renewed.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from trainer.errors import RunError
from whisker_ml import storage
from whisker_ml.errors import StorageError

logger = logging.getLogger(__name__)

NAME = ".lease"
_RENEWED_S = 15.0
# What a machine that vanished costs the one that takes its place.
_EXPIRES_S = 60.0
_LOOK_S = 1.0


class Lease:
    """What `leased` gives.

    Args:
        folder: its address.

    Attributes:
        lost: another process has taken over.
    """

    def __init__(self, folder: str) -> None:
        self.lost = False
        self._folder = folder
        self._address = f"{folder.rstrip('/')}/{NAME}"
        self._generation = 0
        self._ended = threading.Event()
        self._one_at_a_time = threading.Lock()

    def take(self) -> None:
        """Waits until nobody renews it, and makes it this process's.

        Raises:
            RunError: another process renews it.
            StorageError: the bucket cannot be read or written.
        """
        _, seen = storage.read(self._address)
        if seen:
            logger.info(
                f"another run was at work in {self._folder}: waiting up to {_EXPIRES_S:g} s, to see"
                " whether it still is"
            )
        expires = time.monotonic() + _EXPIRES_S
        while seen and time.monotonic() < expires:
            time.sleep(min(_LOOK_S, _RENEWED_S))
            now = storage.read(self._address)[1]
            if now not in (0, seen):
                raise self._taken()
            seen = now
        self._generation = storage.write(self._address, b"", seen)
        if not self._generation:
            raise self._taken()

    def renew(self) -> None:
        """Renews it until `give_back`; for a thread of its own."""
        while not self._ended.wait(_RENEWED_S) and self.held():
            pass

    def held(self) -> bool:
        """Renews it, and tells whether it still is this process's; a process that has slept does
        not know.
        """
        # A bucket that does not answer now may answer before the lease has ended.
        with self._one_at_a_time, suppress(StorageError):
            generation = not self.lost and storage.write(self._address, b"", self._generation)
            self.lost = not generation
            self._generation = generation or self._generation
        return not self.lost

    def paused(self) -> AbstractContextManager[bool]:
        """Inside, it is not renewed: for seconds, not for as long as it lasts."""
        return self._one_at_a_time

    def require(self) -> None:
        """Raises a RunError where another process has taken over."""
        if self.lost:
            raise self._taken()

    def give_back(self) -> None:
        """Ends it."""
        self._ended.set()
        if self.held():
            with suppress(StorageError):
                storage.delete([NAME], self._folder)

    def _taken(self) -> RunError:
        return RunError(
            f"--run_dir={self._folder}: another run is at work there; wait for it, or give another"
            " folder"
        )


@contextmanager
def leased(address: str) -> Iterator[Lease]:
    """Holds the lease of a folder in a bucket.

    Raises:
        RunError: another process holds it.
        StorageError: the bucket cannot be read or written.
    """
    lease = Lease(address)
    lease.take()
    renewing = threading.Thread(target=lease.renew, name="lease", daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        lease.give_back()
        renewing.join()
