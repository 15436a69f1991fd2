"""What the server counts and writes down: the page that Prometheus reads, with names, labels and
buckets of TensorFlow Serving; and the log of requests.

The page is written here, as the client library of Prometheus adds to names what the real server
does not: ``_total`` to counters, HELP lines, times of creation.
"""

import bisect
import itertools
import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc

from serving.server.status import StatusError

_log = logging.getLogger(__name__)

_PREFIX = "/tensorflow/serving/"


def _bounds(first: float, growth: float, number: int) -> list[float]:
    """Upper bounds of the buckets of a histogram, in µs."""
    return [first * growth**power for power in range(number)]


# Names of labels, and bounds: without any it is a counter. servables/tensorflow/util.cc,
# batching/batching_session.cc
_METRICS: dict[str, tuple[tuple[str, ...], list[float]]] = {
    "request_count": (("model_name", "status"), []),
    "batching_session/wrapped_run_count": ((), []),
    "request_latency": (("model_name", "API", "entrypoint"), _bounds(10, 1.8, 33)),
    "runtime_latency": (("model_name", "API", "runtime"), _bounds(10, 1.8, 33)),
    "batching_session/queuing_latency": (("thread_pool_name",), _bounds(100, 1.2, 52)),
}

# Clients choose the names that they ask for; beyond this many series of a metric, new names are
# counted as "", and so are names that are longer than this.
_MOST_SERIES = 1000
_LONGEST_NAME = 256


@dataclass
class Request:
    """A request under way, whose names may become known only while it is read.

    Attributes:
        model: its name.
        api: the method, such as Predict.
        version: that answers; None: it is not known yet.
        signature: of the model.
        rows: first dimension of its inputs; None: it has none, or they are not known yet.
        queued_s: seconds until the model began with it; None: it never did.
        run_s: seconds from then to the model's answer.
    """

    model: str = ""
    api: str = ""
    version: int | None = None
    signature: str = ""
    rows: int | None = None
    queued_s: float | None = None
    run_s: float | None = None


class Metrics:
    """Counters and histograms since the start; used by many threads at once. Its lock is held for
    additions alone.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        log: "RequestLog | None" = None,
    ) -> None:
        """Takes a clock in seconds, and where each request is written down."""
        self._clock = clock
        self._log = log
        self._lock = threading.Lock()
        self._current = threading.local()
        self._series: dict[str, dict[tuple[str, ...], _Series]] = {name: {} for name in _METRICS}

    @contextmanager
    def request(
        self, entrypoint: str, model: str = "", api: str = "", counted: bool = True
    ) -> Iterator[Request]:
        """Counts the request that is answered inside, by its status, and if that is OK its latency.

        Args:
            entrypoint: GRPC or REST.
            model: may be set later, as `api` may, on what is yielded.
            api: the method.
            counted: else it is only written down.
        """
        request = self._current.request = Request(model, api)
        began, code = self._clock(), grpc.StatusCode.UNKNOWN
        try:
            yield request
            code = grpc.StatusCode.OK
        except StatusError as error:
            code = error.code
            raise
        finally:
            self._current.request = None
            seconds = self._clock() - began
            if counted:
                self.count("request_count", request.model, code.name)
            if counted and code == grpc.StatusCode.OK:
                self.observe("request_latency", seconds, request.model, request.api, entrypoint)
            if self._log is not None:
                self._log.add(time.time() - seconds, _fields(request, entrypoint, code, seconds))

    @contextmanager
    def run(self) -> Iterator[None]:
        """Measures the run of a model, batching included, of the request that this thread
        answers.
        """
        request, began = getattr(self._current, "request", None), self._clock()
        yield
        if request is not None:
            # The runtime of the real server, unless it is built for another one.
            self.observe(
                "runtime_latency", self._clock() - began, request.model, request.api, "TF1"
            )

    def current(self) -> Request:
        """Gives the request that this thread answers."""
        return getattr(self._current, "request", None) or Request()

    def count(self, name: str, *labels: str) -> None:
        """Adds 1 to a counter."""
        self._add(name, labels, 1)

    def observe(self, name: str, seconds: float, *labels: str) -> None:
        """Adds a duration to a histogram."""
        self._add(name, labels, seconds * 1e6)

    def _add(self, name: str, labels: tuple[str, ...], value: float) -> None:
        with self._lock:
            series = self._series[name]
            if labels not in series and (
                len(series) >= _MOST_SERIES or any(len(label) > _LONGEST_NAME for label in labels)
            ):
                labels = ("", *labels[1:])
            if labels not in series:
                series[labels] = _Series(_METRICS[name][1])
            series[labels].add(value)

    def total(self, name: str) -> int:
        """Gives the sum of a counter over its labels; 0 if there is none of that full name."""
        with self._lock:
            series = self._series.get(name.removeprefix(_PREFIX), {})
            return sum(one.total for one in series.values() if not one.bounds)

    def page(self) -> str:
        """Writes the text that Prometheus reads."""
        lines = []
        with self._lock:
            for name, (labels, bounds) in _METRICS.items():
                full = re.sub("[^A-Za-z0-9_]", ":", _PREFIX + name)
                if self._series[name]:
                    lines.append(f"# TYPE {full} {'histogram' if bounds else 'counter'}")
                for values, series in self._series[name].items():
                    lines += series.lines(full, _pairs(labels, values))
        return "".join(f"{line}\n" for line in lines)


class _Series:
    """The values of one set of labels: how many are in each bucket, and their sum."""

    def __init__(self, bounds: list[float]) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    @property
    def total(self) -> int:
        return sum(self._counts)

    def add(self, value: float) -> None:
        # A bucket of the real server leaves its upper bound to the next one.
        self._counts[bisect.bisect_right(self.bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, pairs: str) -> list[str]:
        if not self.bounds:
            return [f"{name}{{{pairs}}} {self.total}"]
        bounds = [f"{bound:g}" for bound in self.bounds] + ["+Inf"]
        return [
            *(
                f'{name}_bucket{{{pairs},le="{bound}"}} {count}'
                for bound, count in zip(bounds, itertools.accumulate(self._counts), strict=True)
            ),
            f"{name}_sum{{{pairs}}} {self._sum:g}",
            f"{name}_count{{{pairs}}} {self.total}",
        ]


def _fields(request: Request, entrypoint: str, code: grpc.StatusCode, seconds: float) -> "_Fields":
    def milliseconds(value: float | None) -> float | None:
        return None if value is None else round(1000 * value, 3)

    return {
        "protocol": entrypoint,
        "method": request.api,
        "model": request.model,
        "version": request.version,
        "signature": request.signature,
        "rows": request.rows,
        "status": code.name,
        "total_ms": milliseconds(seconds),
        "queued_ms": milliseconds(request.queued_s),
        "executing_ms": milliseconds(request.run_s),
    }


def _pairs(names: Sequence[str], values: Sequence[str]) -> str:
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    return ",".join(
        f'{name}="{value.translate(escapes)}"' for name, value in zip(names, values, strict=True)
    )


# The log of requests: a line of JSON for each, for whoever asks later what happened. Never a
# picture.

# Lines that may wait for a disk that is slow; beyond it they are lost, and counted.
_MOST_WAITING = 100_000
_MOST_AT_ONCE = 1000

_Fields = dict[str, str | int | float | None]


class RequestLog:
    """Writes lines in a thread of its own; requests never wait for the disk, nor fail by it.

    A file that was renamed or deleted is made anew, as programs that rotate logs expect.
    """

    def __init__(self, path: str) -> None:
        """Takes the path of the file, which lines are appended to."""
        self._path = path
        self._lost = 0
        self._waiting: queue.SimpleQueue[tuple[float, _Fields] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)
        self._thread.start()

    def add(self, time_s: float, fields: _Fields) -> None:
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

    def _write(self, entries: list[tuple[float, _Fields]]) -> None:
        text = "".join(
            json.dumps({"time": f"{datetime.fromtimestamp(time_s, UTC):%FT%T.%fZ}", **fields})
            + "\n"
            for time_s, fields in entries
        )
        try:
            # Opened each time: the file may have been renamed.
            with open(self._path, "ab", opener=_open_to_append) as file:
                file.write(text.encode())
        except OSError as error:
            if not self._lost:
                _log.warning("--request_log_file=%s: %s; serving continues", self._path, error)
            self._lost += len(entries)
            return
        if self._lost:
            _log.warning("--request_log_file=%s: %d lines were lost", self._path, self._lost)
            self._lost = 0


def _open_to_append(path: str, flags: int) -> int:
    # Without O_NONBLOCK a pipe that nobody reads would stop the thread for ever.
    return os.open(path, flags | os.O_NONBLOCK, 0o640)
