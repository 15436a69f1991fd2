"""The run folder: one run's record, begun before the first step and marked with how it ended."""

import json
import logging
import platform
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from trainer.config import OF_BEFORE, Config
from trainer.errors import PicturesChangedError, RunError, RunStopped, WorkersError
from trainer.lease import NAME, Lease, leased
from whisker_ml import files, storage
from whisker_ml.contract import SAVED_MODEL_FILE
from whisker_ml.errors import StorageError, WhiskerError
from whisker_ml.files import is_address
from whisker_ml.machine import available_processors

logger = logging.getLogger(__name__)

_GIT_TIMEOUT_S = 10.0

# Where and whether to resume, what is only looked at, where pixels are kept, and what may be
# published do not change what is computed: a run that the gate refused resumes, and ends, with
# another gate.
_NOT_COMPUTED = (
    "run_dir",
    "resume",
    "profile_steps",
    "require_gpu",
    "cache",
    "gate",
    "gate_margin",
)


# What makes a folder a run, in the order in which it is written: without the last it holds none.
_BEGUN = ("config.json", "environment.json", "state.json")
# In a bucket, what makes others count comes after them: of a checkpoint, of the export, of all.
_LAST = (".index", SAVED_MODEL_FILE, _BEGUN[-1])


class _BusyError(RunError):
    """Another process is at work in the folder."""


@dataclass(eq=False)
class RunFolder:
    """Where a run writes.

    Attributes:
        path: the folder on this machine.
        address: what the user calls it: the same, or ``gs://…``, to which it is copied when the run
            ends.
        environment: what `environment.json` holds: versions, devices, commit.
        tensorboard: ``gs://…`` that gets a copy of the event files; empty: none.
        lease: of the folder, where it is in a bucket.
        id: names the run wherever it is known; a run that resumes keeps it.
        resumed: whether there is an earlier part of the same run to resume.
    """

    path: Path
    address: str
    environment: Mapping[str, str]
    tensorboard: str = ""
    lease: Lease | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    resumed: bool = False

    def state(self) -> dict[str, Any]:
        """What `state.json` holds, such as `state`: ``incomplete``, ``done`` or ``failed``; empty
        where there is no such file.
        """
        return self._read("state.json") if self.file("state.json").exists() else {}

    def begin(self, config: Config, now: datetime) -> None:
        """Writes what the run is, once what a killed process has left half done is removed."""
        files.remove_unfinished(self.path)
        if self.resumed:
            self.id = self._read("environment.json").get("run", self.id)
        state = {"state": "incomplete", "started": now.isoformat(timespec="seconds")}
        contents = asdict(config), {**self.environment, "run": self.id}, state
        for name, content in zip(_BEGUN, contents, strict=True):
            self.write_json(name, content)

    def undisturbed(self) -> AbstractContextManager[Any]:
        """Inside, for seconds, nothing is done in the background: it would draw random numbers."""
        return self.lease.paused() if self.lease else nullcontext()

    def synchronise(self) -> None:
        """Copies what is new to the bucket, where the run folder is in one: a machine may vanish.

        Event files go to the folder that the job service shows too, where it named one. A bucket
        that does not answer is no reason to give up training.

        Raises:
            RunError: another run has taken the folder over.
        """
        if self.lease:
            self.lease.require()
        try:
            if self.tensorboard:
                storage.upload_folder(self.path / "tensorboard", self.tensorboard)
            if not is_address(self.address):
                return
            storage.upload_folder(self.path, self.address, last=_LAST)
            gone = [
                name
                for name in storage.list_names(f"{self.address}/checkpoints")
                if not (self.path / "checkpoints" / name).exists()
            ]
            # A checkpoint without its index is none.
            gone.sort(key=lambda name: not name.endswith(".index"))
            storage.delete(gone, f"{self.address}/checkpoints")
        except StorageError as error:
            logger.warning("not copied to %s this time: %s", self.address, error)

    def file(self, *names: str) -> Path:
        """Path of a file of the run; the folders on the way are made."""
        path = self.path.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a JSON file so that a reader finds all of it or none."""
        files.write_json(self.file(name), content)

    def freeze_ledger(self, digest: str, write: Callable[[Path], None]) -> None:
        """Writes `ledger.json`, or makes sure that a run that resumes has the same pictures.

        Args:
            digest: of the pictures and their split.
            write: writes the ledger to a file.

        Raises:
            PicturesChangedError: they have changed since the run began.
        """
        file = self.file("ledger.json")
        if self.resumed and file.exists():
            before = self._read("ledger.json").get("run_digest", "unknown")
            if before != digest:
                raise PicturesChangedError(
                    f"{self.address}: the pictures have changed since this run began (ledger"
                    f" {before[:12]}, now {digest[:12]}); put them back, or begin again in another"
                    " folder"
                )
        write(file)

    def write_predictions(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes `predictions.jsonl`: `sha256`, `split`, `label` and `logits` of a picture a
        line.
        """
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        files.replace(self.file("predictions.jsonl"), lines.encode())

    def differences(self, config: Config) -> list[str]:
        """Lists the settings that change what is computed and that the run began with otherwise."""
        # What runs did before there were these settings.
        head = "notebook" if config.variant == "transfer" else ""
        before = OF_BEFORE | {"head": head} | self._read("config.json")
        found = [
            f"{name} was {before[name]}, is {value}"
            for name, value in asdict(config).items()
            if name not in _NOT_COMPUTED and before.get(name, value) != value
        ]
        # They round differently: a run that began with others would not give what it would have.
        now = self.environment["kernels"]
        kernels = self._read("environment.json").get("kernels", now)
        if kernels != now:
            found.append(f"kernels were {kernels}, are {now}: see TF_ENABLE_ONEDNN_OPTS")
        return found

    def mark(self, state: str, **more: str | bool) -> None:
        """Writes how the run ended, and why, into `state.json`."""
        try:
            with _writing(self.address):
                self.write_json("state.json", self._read("state.json") | {"state": state} | more)
        except RunError:
            # The disk is what failed: the state stays incomplete, and the error that led here is
            # the one to report.
            if state == "done":
                raise

    def _read(self, name: str) -> dict[str, Any]:
        return files.read_json(self.path / name, f"remove the folder {self.address} to begin again")


@contextmanager
def open_run(
    config: Config,
    devices: Sequence[str],
    now: datetime,
    *,
    kernels: str = "",
    tensorboard: str = "",
) -> Iterator[RunFolder]:
    """Begins a run folder, or resumes the one of the same run; marks in `state.json` how the run
    ended.

    ``done``; ``incomplete`` while it runs, and where it was stopped, killed, or left alone by
    another worker; or ``failed`` with the reason.

    Raises:
        RunError: the folder cannot be written, holds a run that is done, or one with other
            settings.
    """
    environment = _environment(devices, kernels)
    with ExitStack() as held:
        while True:
            address = (
                config.run_dir or _unfinished(config, environment) or _free(now, config.variant)
            )
            try:
                path, lease = held.enter_context(_local_folder(address))
                break
            except _BusyError:
                # Another process of the same command may have found the same folder.
                if config.run_dir:
                    raise
        run = RunFolder(path, address, environment, tensorboard, lease)
        run.resumed = _resumable(run, config)
        with _writing(address):
            run.begin(config, now)
        run.synchronise()
        try:
            yield run
        except (RunStopped, WorkersError, KeyboardInterrupt) as error:
            run.mark("incomplete", reason=str(error) or "interrupted")
            raise
        except BaseException as error:
            mendable = isinstance(error, WhiskerError | OSError)
            resumable = mendable and not isinstance(error, PicturesChangedError)
            run.mark("failed", reason=str(error) or type(error).__name__, resumable=resumable)
            if not isinstance(error, OSError):
                raise
            where = f" ({error.filename})" if error.filename else ""
            raise RunError(
                f"{run.address}: {error.strerror}{where}; free space or give permission"
            ) from error
        run.mark("done")


@contextmanager
def scratch_run(devices: Sequence[str]) -> Iterator[RunFolder]:
    """A run folder that nobody keeps: for workers that are not the chief."""
    with files.scratch_folder("worker-") as folder:
        yield RunFolder(folder, str(folder), _environment(devices))


def _unfinished(config: Config, environment: Mapping[str, str]) -> str | None:
    """The newest run folder of this very command that is neither done nor still at work; else one
    whose process was killed before there was a run in it.
    """
    if config.resume == "never":
        return None
    empty = None
    for path in sorted(Path("runs").glob(f"*-{config.variant}"), reverse=True):
        run = RunFolder(path, str(path), environment)
        try:
            state = run.state()
            if state:
                # Stopped, killed, or failed for a reason that the user can mend.
                resumes = state.get("state") == "incomplete" or state.get("resumable")
                fits = resumes and not run.differences(config)
            else:
                names = (file.name for file in path.iterdir())
                fits = all(name.startswith(".") or name in _BEGUN for name in names)
            if fits:
                with files.locked(path / ".lock"):
                    if state:
                        return run.address
                    empty = run.address
        except BlockingIOError:
            continue
        except (files.DamagedFileError, OSError) as error:
            logger.warning("passed over: %s", error)
    return empty


def _free(now: datetime, variant: str) -> str:
    """Makes a folder with a name that no other run has, and gives its path."""
    for number in count(1):
        name = f"runs/{now:%Y%m%d-%H%M%S}{f'-{number}' * (number > 1)}-{variant}"
        with _writing(name), suppress(FileExistsError):
            Path(name).mkdir(parents=True)
            return name
    raise AssertionError


def _resumable(run: RunFolder, config: Config) -> bool:
    content = run.state()
    if not content:
        return False
    state = content.get("state")
    if state == "done" or config.resume == "never":
        raise RunError(
            f"--run_dir={run.address}: holds a run already ({state}); give another folder, or"
            " remove this one"
        )
    if differences := run.differences(config):
        raise RunError(
            f"--run_dir={run.address}: holds a run with other settings ({'; '.join(differences)});"
            " give the same settings to resume it, or another folder"
        )
    return True


@contextmanager
def _local_folder(address: str) -> Iterator[tuple[Path, Lease | None]]:
    if is_address(address):
        with leased(address) as lease, files.scratch_folder("run-") as folder:
            storage.download_folder(address, folder)
            (folder / NAME).unlink(missing_ok=True)
            try:
                yield folder, lease
            finally:
                if lease.held():
                    storage.upload_folder(folder, address, last=_LAST)
        return
    with locked_folder(address, "a run is at work here; wait for it, or give another folder"):
        yield Path(address).expanduser(), None


@contextmanager
def locked_folder(address: str, busy: str) -> Iterator[int]:
    """Makes a folder, and holds its lock.

    Args:
        address: of the folder, as `--run_dir` gave it.
        busy: what to say where another process holds it.

    Yields:
        The lock's descriptor: a child process that inherits it holds the lock too.

    Raises:
        RunError: another process holds the lock, or the folder cannot be written.
    """
    path = Path(address).expanduser()
    with _writing(address):
        path.mkdir(parents=True, exist_ok=True)
        try:
            with files.locked(path / ".lock") as lock:
                yield lock.fileno()
        except BlockingIOError as error:
            raise _BusyError(f"--run_dir={address}: {busy}") from error


@contextmanager
def _writing(address: str) -> Iterator[None]:
    """Turns what a disk refuses inside into a RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"--run_dir={address}: cannot be written ({error.strerror}); give a folder that this"
            " user may write to"
        ) from error


def _environment(devices: Sequence[str], kernels: str = "") -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": str(available_processors()),
        **{name: version(name) for name in ("tensorflow", "keras", "numpy")},
        "devices": ", ".join(devices),
        "kernels": kernels,
        "commit": commit(),
    }


def git(folder: Path, *arguments: str) -> str | None:
    """What a git command prints in a folder; None where there is no git, or no checkout."""
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def commit() -> str:
    """Commit of the checkout that this code runs from, with ``+`` where files differ from it; else
    ``unknown``.
    """
    folder = Path(__file__).parent
    changed = git(folder, "status", "--porcelain", "--untracked-files=no")
    head = git(folder, "rev-parse", "HEAD")
    if changed is None or head is None:
        return "unknown"
    return head.strip() + ("+" if changed else "")
