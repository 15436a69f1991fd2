"""What the server counts, and the page that Prometheus reads: names, labels and buckets of
TensorFlow Serving.

The page is written here, as the client library of Prometheus adds to names what the real server
does not: ``_total`` to counters, HELP lines, times of creation.
"""

import bisect
import itertools
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from serving.server.request_log import RequestLog
from serving.server.status import StatusError

_PREFIX = "/tensorflow/serving/"

# Names of labels. servables/tensorflow/util.cc, batching/batching_session.cc
_COUNTERS: dict[str, tuple[str, ...]] = {
    "request_count": ("model_name", "status"),
    "batching_session/wrapped_run_count": (),
}
# Names of labels; first upper bound of the buckets in µs, growth from one to the next, their
# number.
_HISTOGRAMS: dict[str, tuple[tuple[str, ...], float, float, int]] = {
    "request_latency": (("model_name", "API", "entrypoint"), 10, 1.8, 33),
    "runtime_latency": (("model_name", "API", "runtime"), 10, 1.8, 33),
    "batching_session/queuing_latency": (("thread_pool_name",), 100, 1.2, 52),
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
        log: RequestLog | None = None,
    ) -> None:
        """Takes a clock in seconds, and where each request is written down."""
        self._clock = clock
        self._log = log
        self._lock = threading.Lock()
        self._current = threading.local()
        self._counts: dict[str, dict[tuple[str, ...], int]] = {name: {} for name in _COUNTERS}
        self._histograms: dict[str, dict[tuple[str, ...], _Histogram]] = {
            name: {} for name in _HISTOGRAMS
        }

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
        with self._lock:
            series = self._counts[name]
            labels = _bounded(series, labels)
            series[labels] = series.get(labels, 0) + 1

    def observe(self, name: str, seconds: float, *labels: str) -> None:
        """Adds a duration to a histogram."""
        with self._lock:
            series = self._histograms[name]
            labels = _bounded(series, labels)
            if labels not in series:
                series[labels] = _Histogram(*_HISTOGRAMS[name][1:])
            series[labels].add(seconds * 1e6)

    def total(self, name: str) -> int:
        """Gives the sum of a counter over its labels; 0 if there is none of that full name."""
        with self._lock:
            return sum(self._counts.get(name.removeprefix(_PREFIX), {}).values())

    def page(self) -> str:
        """Writes the text that Prometheus reads."""
        lines = []
        with self._lock:
            for name, counts in self._counts.items():
                full = _full_name(name)
                lines += [f"# TYPE {full} counter"] if counts else []
                lines += [
                    f"{full}{{{_pairs(_COUNTERS[name], key)}}} {count}"
                    for key, count in counts.items()
                ]
            for name, histograms in self._histograms.items():
                full = _full_name(name)
                lines += [f"# TYPE {full} histogram"] if histograms else []
                for key, histogram in histograms.items():
                    lines += histogram.lines(full, _pairs(_HISTOGRAMS[name][0], key))
        return "".join(f"{line}\n" for line in lines)


class _Histogram:
    def __init__(self, first: float, growth: float, number: int) -> None:
        self._bounds = [first * growth**power for power in range(number)]
        self._counts = [0] * (number + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        # A bucket of the real server leaves its upper bound to the next one.
        self._counts[bisect.bisect_right(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, pairs: str) -> list[str]:
        bounds = [f"{bound:g}" for bound in self._bounds] + ["+Inf"]
        cumulative = list(itertools.accumulate(self._counts))
        return [
            *(
                f'{name}_bucket{{{pairs},le="{bound}"}} {n}'
                for bound, n in zip(bounds, cumulative, strict=True)
            ),
            f"{name}_sum{{{pairs}}} {self._sum:g}",
            f"{name}_count{{{pairs}}} {cumulative[-1]}",
        ]


def _fields(
    request: Request, entrypoint: str, code: grpc.StatusCode, seconds: float
) -> dict[str, str | int | float | None]:
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


def _bounded(series: Collection[tuple[str, ...]], labels: tuple[str, ...]) -> tuple[str, ...]:
    fits = labels in series or (
        len(series) < _MOST_SERIES and all(len(label) <= _LONGEST_NAME for label in labels)
    )
    return labels if fits else ("", *labels[1:])


def _full_name(name: str) -> str:
    return re.sub("[^A-Za-z0-9_]", ":", _PREFIX + name)


def _pairs(names: Sequence[str], values: Sequence[str]) -> str:
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    return ",".join(
        f'{name}="{value.translate(escapes)}"' for name, value in zip(names, values, strict=True)
    )
