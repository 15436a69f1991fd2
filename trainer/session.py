"""What a run carries along: its devices, run folder, clock, and the request to stop."""

import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from types import FrameType

from trainer.cluster import ALONE, Cluster, meet
from trainer.config import Config
from trainer.devices import Devices, Workers, prepare
from trainer.errors import RunStopped
from trainer.run_folder import RunFolder, open_run, scratch_run

logger = logging.getLogger(__name__)


def cache_folder(cache_dir: str = "") -> Path:
    """What keeps drawn and downloaded pictures, weights and features from run to run.

    Args:
        cache_dir: as `--cache_dir`; empty: where the system keeps such things, also for a user
            without a home.
    """
    if cache_dir:
        return Path(cache_dir).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "whisker"
    try:
        return Path.home() / ".cache" / "whisker"
    except RuntimeError:  # neither HOME nor an entry in the list of users
        return Path(tempfile.gettempdir()) / f"whisker-{os.getuid()}"


_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STOPPED_OUTSIDE = "stopped outside of training; the same command resumes from there"


class Clock:
    """Seconds between its stops, by the name of the stage that has ended."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def stop(self, stage: str) -> None:
        """Notes that a stage has ended."""
        now = time.perf_counter()
        self._seconds[stage] = now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        """Gives the seconds of each stage, and `total` until now."""
        return {**self._seconds, "total": time.perf_counter() - self._start}


class Stop:
    """Remembers that the run was asked to stop: by SIGTERM (a machine that is about to go away), by
    Ctrl-C, or by a terminal that is closed.

    Outside of training the request ends the run at once; training looks at it between two calls and
    writes a checkpoint first.
    """

    def __init__(self) -> None:
        self._requested = 0  # the signal that did
        self._deferred = False
        self._installed = False

    def install(self) -> None:
        """Makes these signals requests to stop; for entry points, in the main thread.

        A second Ctrl-C ends the run at once. What is ignored, as under `nohup`, stays so.
        """
        for number in _STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        self._installed = True

    def install_again(self) -> None:
        """Takes SIGTERM back, if it was ours, from TensorFlow, which takes it when it starts a
        cluster.
        """
        if self._installed:
            self.install()

    def requested(self) -> bool:
        """Tells whether the run is to stop."""
        return bool(self._requested)

    def obey(self) -> None:
        """Ends a run whose request to stop was lost: TensorFlow and Keras go on after some errors
        that are raised inside their calls.

        Raises:
            RunStopped: the run was asked to stop.
        """
        if self._requested:
            raise RunStopped(_STOPPED_OUTSIDE)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a request is only remembered."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    @contextmanager
    def raised_plainly(self) -> Iterator[None]:
        """Inside, a request that a library wraps as an error of its own becomes the request again.

        Raises:
            RunStopped: the run was asked to stop; its exit code says by which signal.
        """
        try:
            yield
        except Exception as error:
            if not self._requested:
                raise
            # AutoGraph raises the same type again, with the lines of its trace.
            plain = isinstance(error, RunStopped) and "\n" not in str(error)
            stopped = RunStopped(str(error) if plain else _STOPPED_OUTSIDE)
            stopped.exit_code = 128 + self._requested
            raise stopped from error

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == self._requested == signal.SIGINT:
            raise KeyboardInterrupt
        self._requested = number
        if not self._deferred:
            raise RunStopped(_STOPPED_OUTSIDE)


@dataclass(frozen=True)
class Session:
    """What a run carries along.

    Attributes:
        devices: what computes, and the strategy over it.
        folder: where the run writes; in a worker that is not the chief, a folder that nobody keeps.
        clock: how long each stage takes.
        stop: knows whether the run is to stop.
        downloads: folder that keeps drawn and downloaded pictures, weights and features from run to
            run.
        servers: of the run, which end with it.
    """

    devices: Devices
    folder: RunFolder
    clock: Clock
    stop: Stop
    downloads: Path
    servers: ExitStack = field(default_factory=ExitStack)

    @property
    def workers(self) -> Workers:
        """The processes that share the run."""
        return self.devices.workers

    @property
    def is_chief(self) -> bool:
        """Tells whether this process judges, reports and publishes."""
        return self.workers.is_chief


@contextmanager
def open_session(
    config: Config,
    *,
    cluster: Cluster = ALONE,
    downloads: Path | None = None,
    stop: Stop | None = None,
    tensorboard: str = "",
    now: Callable[[], datetime] = datetime.now,
) -> Iterator[Session]:
    """Waits for the other workers, takes the devices, and begins or resumes the run folder.

    The state of the run folder says afterwards how the block has ended. Arguments as
    `trainer.pipeline.run` has them.

    Raises:
        WhiskerError: workers, devices or the folder are not to be had.
    """
    stop = stop or Stop()
    clock = Clock()
    if cluster.count > 1:
        logger.info(
            "worker %d of %d (%s): waiting for the others",
            cluster.index,
            cluster.count,
            cluster.workers[cluster.index],
        )
        meet(cluster, asdict(config))
    devices = prepare(config, cluster)
    stop.install_again()
    _log_devices(config, devices)
    opened = (
        open_run(config, devices.names, now(), kernels=devices.kernels, tensorboard=tensorboard)
        if cluster.is_chief
        else scratch_run(devices.names)
    )
    with opened as folder, devices.workers.errors(), _quiet(not cluster.is_chief):
        logger.info("%s %s", "resuming in" if folder.resumed else "run folder", folder.address)
        kept = downloads or cache_folder(config.cache_dir)
        with stop.raised_plainly(), ExitStack() as servers:
            yield Session(devices, folder, clock, stop, kept, servers)


def _log_devices(config: Config, devices: Devices) -> None:
    per_replica = -(-config.batch_size // devices.replicas)
    logger.info(
        f"devices {', '.join(devices.names)};"
        f" {devices.replicas} replica{'s' * (devices.replicas > 1)} ({devices.strategy_name});"
        f" batch {config.batch_size} in all,"
        f" {'up to ' * (config.batch_size % devices.replicas > 0)}{per_replica} per replica;"
        f" {devices.precision}; kernels of {devices.kernels}"
    )


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Keeps progress to itself: several workers would print every line several times."""
    package = logging.getLogger("trainer")
    level = package.level
    if quiet:
        package.setLevel(logging.WARNING)
    try:
        yield
    finally:
        package.setLevel(level)
