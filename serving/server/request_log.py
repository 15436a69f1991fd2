"""One line of JSON for each request, for whoever asks later what happened. Never a picture."""

import json
import logging
import os
import queue
import threading
from datetime import UTC, datetime
from pathlib import Path

_log = logging.getLogger(__name__)

# Lines that may wait for a disk that is slow; beyond it they are lost, and counted.
_MOST_WAITING = 100_000
_MOST_AT_ONCE = 1000

Fields = dict[str, str | int | float | None]


class RequestLog:
    """Writes lines in a thread of its own; requests never wait for the disk, nor fail by it.

    A file that was renamed or deleted is made anew, as programs that rotate logs expect.
    """

    def __init__(self, path: str) -> None:
        """Takes the path of the file, which lines are appended to."""
        self._path = Path(path)
        self._file: int | None = None
        self._lost = 0
        self._waiting: queue.SimpleQueue[tuple[float, Fields] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)
        self._thread.start()

    def add(self, time_s: float, fields: Fields) -> None:
        """Notes a request.

        Args:
            time_s: when it came, in seconds since 1970.
            fields: what is known of it.
        """
        if self._waiting.qsize() < _MOST_WAITING:
            self._waiting.put((time_s, fields))
        else:
            self._lost += 1

    def close(self) -> None:
        """Writes what waits, and closes the file."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        ended = False
        while not ended:
            entries = [self._waiting.get()]
            while len(entries) < _MOST_AT_ONCE and not self._waiting.empty():
                entries.append(self._waiting.get())
            ended = None in entries
            self._write([entry for entry in entries if entry is not None])
        if self._file is not None:
            os.close(self._file)

    def _write(self, entries: list[tuple[float, Fields]]) -> None:
        text = "".join(
            json.dumps({"time": f"{datetime.fromtimestamp(time_s, UTC):%FT%T.%fZ}", **fields})
            + "\n"
            for time_s, fields in entries
        )
        try:
            file = self._opened()
            rest = memoryview(text.encode())
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError as error:
            if not self._lost:
                _log.warning("--request_log_file=%s: %s; serving continues", self._path, error)
            self._lost += len(entries)
            return
        if self._lost:
            _log.warning("--request_log_file=%s: %d lines were lost", self._path, self._lost)
            self._lost = 0

    def _opened(self) -> int:
        """Gives the file that has the path now."""
        try:
            if self._file is not None and os.path.samestat(os.fstat(self._file), self._path.stat()):
                return self._file
        except FileNotFoundError:
            pass
        if self._file is not None:
            os.close(self._file)
            self._file = None
        # Without O_NONBLOCK a pipe that nobody reads would stop the thread for ever.
        self._file = os.open(
            self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o640
        )
        return self._file
