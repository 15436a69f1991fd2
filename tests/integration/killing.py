"""Kills runs at each of their operations on files and objects, gives the same command again, and
compares what comes of it with a run that nobody disturbed.

``python -m tests.integration.killing <folder> [<gs://…>]``: real processes that die by SIGKILL; run
folder and store are in the folder, or in a bucket. It forks a child for each run: TensorFlow is
imported once, and no process that has started its runtime is forked.

``python -m tests.integration.killing <folder> <count>``: some operations, in one process; a kill is
an error there, after which no operation succeeds.

Each prints one JSON object.
"""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h5py
import numpy as np
import requests.adapters

from serving.config import models_config
from serving.store import open_store
from tests.trained_model import write_pictures
from whisker_ml import files, storage
from whisker_ml.cli import import_tensorflow
from whisker_ml.files import is_address

AT_ONCE = 2
# Of one run, one after the other.
KILLS = 3
# Of a run or of a server that nobody needs any more.
DEADLINE_S = 300.0
OUTLIVE_S = 60.0
SETTINGS: dict[str, Any] = {
    "data": "pictures",
    "image_size": 32,
    "batch_size": 8,
    "epochs": 1,
    "variant": "plain",
    "deterministic": True,
}
# What differs from run to run: times and rates; a size, as TensorFlow gives a SavedModel a random
# fingerprint of one or two bytes more or less; and the last digits of what was served, which depend
# on the requests that shared a run.
TIMES = {
    "largest_difference",
    "size_bytes",
    "seconds",
    "images_per_second",
    "throughput",
    "latency_ms",
    "load_seconds",
    "took_ms",
}

# Names that tempfile makes, then numbers: of processes, threads, and times.
_RANDOM = (
    (re.compile(r"(?<=^tmp/whisker-scratch-)\d+/(\w+)-[a-z0-9_]{8}.*"), r"\1"),
    (re.compile(r"(?<=/\.staging/\d/).*"), "*"),
    (re.compile(r"[0-9a-f]{32}"), "*"),
    (re.compile(r"\d+(-\d+)*"), "#"),
    # All of them are written by one function.
    (re.compile(r"(?<=/pictures/\.).*(?=\.#)"), "*"),
    (re.compile(r"(?<=/pictures/)[a-z_]+\.(png|jpg)"), "*"),
)
# Of files: with the path that changes as the first argument, and as the second.
_ONE_PATH = {"os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
_TWO_PATHS = {"os.rename", "os.link", "os.symlink"}


def generic(name: str) -> str:
    """A name without what differs from run to run."""
    for pattern, instead in _RANDOM:
        name = pattern.sub(instead, name)
    return name


class Operations:
    """Tells of each operation of this process that would change a file or an object, before it is
    done; and again of a file that has been opened and holds nothing yet.

    Args:
        base: folder of the files that count.
        tell: gets a name that is the same in every run.
    """

    def __init__(self, base: Path, tell: Callable[[str], None]) -> None:
        self._telling = False
        self.begin(base, tell)

    def begin(self, base: Path, tell: Callable[[str], None]) -> None:
        """Begins anew."""
        self._base = str(base)
        self._told: list[str] = []
        self._tell_of = tell

    def install(self) -> None:
        """Begins; there is no end."""
        operations = self

        class Adapter(requests.adapters.HTTPAdapter):
            def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
                if request.method != "GET":
                    operations._tell(_request(request))
                return super().send(request, *arguments, **options)

        requests.sessions.HTTPAdapter = Adapter
        sys.addaudithook(self._hook)

    def _tell(self, name: str) -> None:
        # Begun, and done.
        again = name.endswith("state.json") and name in self._told
        self._told.append(name)
        self._tell_of(f"{name} again" if again else name)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._telling:
            return
        if threading.current_thread() is not threading.main_thread():
            return
        if event == "open":
            path, flags = arguments[0], arguments[2]
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            if not writes or not isinstance(path, str) or Path(path).is_dir():
                return
            name = self._name(path)
            # What `files.replacing` writes counts when it gets its name.
            if name and not name.endswith(".#"):
                self._tell(f"open {name}")
                if flags & os.O_TRUNC or not Path(path).exists():
                    self._telling = True
                    try:
                        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | flags & os.O_TRUNC))
                        self._tell(f"opened {name}")
                        if flags & os.O_EXCL:
                            Path(path).unlink()
                    finally:
                        self._telling = False
        elif event in _ONE_PATH | _TWO_PATHS:
            path = os.fsdecode(arguments[event in _TWO_PATHS])
            if event in ("os.remove", "os.rmdir") and arguments[1] >= 0:
                path = f"/proc/self/fd/{arguments[1]}/{path}"
            # What changes nothing is no moment of its own.
            if (event == "os.mkdir") == os.path.lexists(path) and event in _ONE_PATH:
                return
            if name := self._name(path):
                self._tell(f"{event.removeprefix('os.')} {name}")

    def _name(self, path: str) -> str:
        whole = str(Path(path).parent.resolve() / Path(path).name)
        name = whole.removeprefix(f"{self._base}/")
        # What is not ours is made by TensorFlow and Keras.
        if name == whole or (name.startswith("tmp/") and not name.startswith("tmp/whisker-")):
            return ""
        return generic(name)


def _request(request: Any) -> str:
    """Names a request: what it does, and to which object."""
    place = unquote(request.path_url.partition("?")[0])
    body = request.body or b""
    if "/upload/" in place and (found := re.search(rb'"name": ?"([^"]+)"', body)):
        place = found[1].decode()
    else:
        place = place.rpartition("/o/")[2]
    # The first part is the case's own.
    return f"{request.method} {generic(place.partition('/')[2])}"


class Case:
    """A folder with pictures, in which a command is given.

    Args:
        base: the folder.
        bucket: address for run folder and store; empty: they are in the folder.
        named: whether the command names the run folder.
    """

    def __init__(self, base: Path, bucket: str, *, named: bool) -> None:
        self.base = base
        root = f"{bucket}/{base.name}" if bucket else str(base)
        self.store = f"{root}/store"
        self.settings = {**SETTINGS, "model_dir": f"{root}/store" if bucket else "store"}
        if named or bucket:
            self.settings["run_dir"] = f"{root}/run" if bucket else "run"

    def make(self) -> None:
        """Begins, with a copy of the pictures beside its folder."""
        shutil.copytree(self.base.parent / "pictures", self.base / "pictures")
        (self.base / "tmp").mkdir()
        (self.base / "log").touch()

    def command(self, tell: Callable[[str], None] | None = None) -> int:
        """Gives the command in a child of its own; its exit code, or minus the signal."""
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            os.setpgid(0, 0)
            signal.alarm(int(DEADLINE_S))
            os.chdir(self.base)
            os.environ |= {
                "TMPDIR": str(self.base / "tmp"),
                "PYTHONPATH": str(Path(__file__).parents[2]),
            }
            tempfile.tempdir = None
            log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if tell:
                Operations(self.base, tell).install()
            from trainer import task

            sys.argv = [
                "trainer.task",
                *(f"--{each}={self.settings[each]}" for each in self.settings),
            ]
            task.main()
            os._exit(0)
        except SystemExit as ended:
            sys.stdout.flush()
            os._exit(ended.code if isinstance(ended.code, int) else 1)
        except BaseException:
            traceback.print_exc()
            os._exit(99)

    def operations(self) -> list[str]:
        """Gives the command; the names of what it does, each once, in order."""
        noted = self.base / "tmp" / "operations"
        stream = os.open(noted, os.O_WRONLY | os.O_CREAT)
        assert self.command(lambda name: os.write(stream, f"{name}\n".encode())) == 0, self.log()
        os.close(stream)
        names = noted.read_text().splitlines()
        noted.unlink()
        return list(dict.fromkeys(names))

    def killed_at(self, name: str) -> int:
        """Gives the command in a child that dies at an operation; its exit code."""

        def kill(now: str) -> None:
            if now == name:
                os.kill(os.getpid(), signal.SIGKILL)

        return self.command(kill)

    def log(self) -> str:
        return (self.base / "log").read_text()[-3000:]

    @contextmanager
    def run(self) -> Iterator[Path]:
        """A folder that holds the run."""
        address = self.settings.get("run_dir", "")
        if is_address(address):
            with tempfile.TemporaryDirectory() as folder:
                storage.download_folder(address, Path(folder))
                yield Path(folder)
        elif address:
            yield self.base / address
        else:
            (folder,) = (self.base / "runs").iterdir()
            yield folder

    def outcome(self) -> dict[str, Any]:
        """All that must be as if nobody had disturbed the run."""
        store = open_store(self.store, "whisker")
        versions = store.versions()
        for version in versions:
            store.verify(version)
        with self.run() as run:
            result = without_times(json.loads((run / "result.json").read_text()))
            text = json.dumps(result, sort_keys=True).replace(self.store.removesuffix("/store"), "")
            manifest = store.manifest(versions[-1])
            return {
                "weights": weights(run / "model.keras"),
                "checkpoint": manifest["checkpoint"]["sha256"]
                == sha256((run / "model.keras").read_bytes()).hexdigest(),
                "predictions": (run / "predictions.jsonl").read_text(),
                "ledger": (run / "ledger.json").read_text(),
                "result": json.loads(re.sub(r"runs/[\d-]+-plain", "RUN", text)),
                "state": json.loads((run / "state.json").read_text())["state"],
                "gate": without_times(json.loads((run / "gate.json").read_text())),
                "metrics": [
                    without_times(json.loads(line)) | {"pictures_per_second": 0}
                    for line in (run / "metrics.jsonl").read_text().splitlines()
                ],
                "versions": versions,
                "published": {file: entry["sha256"] for file, entry in manifest["files"].items()}
                == {
                    file.relative_to(run / "export").as_posix(): sha256(
                        file.read_bytes()
                    ).hexdigest()
                    for file in (run / "export").rglob("*")
                    if file.is_file() and file.name != "whisker.json"
                },
                "named": sorted(models_config.named(store.config(), "whisker")),
                "live": store.live_version(),
                "names": self.names(),
            }

    def names(self) -> list[str]:
        """Names of all files and objects; TensorBoard's are one for each start."""
        found = [path.relative_to(self.base).as_posix() for path in self.base.rglob("*")]
        if is_address(self.store):
            found += storage.list_names(self.store.removesuffix("/store"))
        return sorted(
            {
                re.sub(r"\d{8}-\d+", "TIME", name)
                for name in found
                if not re.search("tfevents|__autograph|__pycache__", name)
            }
        )

    def outlived(self) -> list[str]:
        """Ends processes that do not end after the one that started them; says which."""
        left = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (entry / "cwd").readlink() == self.base and int(entry.name) != os.getpid():
                    process = os.pidfd_open(int(entry.name))
                    if not select.select([process], [], [], OUTLIVE_S)[0]:
                        left.append((entry / "cmdline").read_text())
                        signal.pidfd_send_signal(process, signal.SIGKILL)
                    os.close(process)
        return [f"processes left: {left}"] * bool(left)

    def remove(self) -> None:
        os.chdir(self.base.parent)
        shutil.rmtree(self.base)


def without_times(value: Any) -> Any:
    if isinstance(value, Mapping):
        # Of the gate's floors, two are about times and size.
        measured = str(value.get("floor")).startswith(("latency", "size"))
        return {
            name: without_times(part)
            for name, part in value.items()
            if name not in TIMES and name != "run_dir" and not (measured and name == "value")
        }
    if isinstance(value, list):
        return [without_times(part) for part in value]
    return value


def weights(file: Path) -> dict[str, str]:
    """Digests of what a Keras file holds."""
    found = {}
    content = BytesIO(zipfile.ZipFile(file).read("model.weights.h5"))

    def add(name: str, part: Any) -> None:
        if isinstance(part, h5py.Dataset):
            found[name] = sha256(np.ascontiguousarray(part[()])).hexdigest()

    with h5py.File(content) as tree:
        tree.visititems(add)
    assert found
    return found


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            line
            for name in sorted({*one, *other})
            for line in differences(one.get(name), other.get(name), f"{place}.{name}")
        ]
    if one == other:
        return []
    if isinstance(one, list) and place.endswith("names"):
        return [f"{place}: left {sorted({*other} - {*one})}, missing {sorted({*one} - {*other})}"]
    return [f"{place}: {str(one)[:300]} | {str(other)[:300]}"]


class Gone(BaseException):
    """The process is no more."""


class WarmCase(Case):
    """The same in this process. There, a kill is an error: at that operation, and at all that come
    after it, as nobody is there any more to clean up.
    """

    operations_here = Operations(Path("/nowhere"), lambda _: None)

    def command(self, tell: Callable[[str], None] | None = None) -> int:
        """Gives the command; its exit code, or minus the signal that stands for the error."""
        import keras

        from trainer.config import Config
        from trainer.pipeline import run

        os.chdir(self.base)
        tempfile.tempdir = str(self.base / "tmp")
        # Else layers are numbered on from run to run.
        keras.backend.clear_session()
        self.operations_here.begin(self.base, tell or (lambda _: None))
        try:
            run(Config(**self.settings))
        except Gone:
            return -signal.SIGKILL
        except Exception:
            traceback.print_exc()
            return 1
        finally:
            self.operations_here.begin(self.base, lambda _: None)
        return 0

    def killed_at(self, name: str) -> int:
        """Gives the command, which fails at an operation."""
        gone = False

        def fail(now: str) -> None:
            nonlocal gone
            gone = gone or now == name
            if gone:
                raise Gone(now)

        return self.command(fail)


def violations(case: Case, names: Sequence[str], undisturbed: dict[str, Any]) -> list[str]:
    """Kills a run at each of some operations, one after the other, and lets the same command end.

    Returns:
        What is otherwise than in an undisturbed run.
    """
    found, left = [], list(names)
    while left:
        case.make()
        killed = 0
        while left and (end := case.killed_at(left[0])) == -signal.SIGKILL:
            found += [f"{left[0]}: {line}" for line in case.outlived()]
            killed += 1
            left.pop(0)
        # What had been done before the first kill need not be done again: anew, then.
        if left and not (killed and end == 0):
            return [*found, f"not killed at {left[0]}: exit {end}: {case.log()}"]
        end = end if left else case.command()
        if end != 0:
            return [*found, f"exit {end}: {case.log()}"]
        try:
            found += differences(undisturbed, case.outcome())
        except Exception as error:
            traceback.print_exc()
            found.append(f"{type(error).__name__}: {error}")
        found += case.outlived()
        case.remove()
    return found


def chains(names: Sequence[str]) -> list[Sequence[str]]:
    """Early, middle and late operations in turn: what comes after a kill is killed again."""
    count = -(-len(names) // KILLS)
    return [names[first::count] for first in range(count)]


def work(plan: list[Any], share: int, found: Path) -> None:
    """Goes through a share of the chains; writes a line for each that broke a promise."""
    with found.open("w", encoding="utf-8") as stream:
        for number, (case, names, undisturbed) in enumerate(plan):
            if number % AT_ONCE == share:
                started = time.monotonic()
                broken = violations(case, names, undisturbed)
                if broken:
                    stream.write(json.dumps({"at": names, "broken": broken}) + "\n")
                took = f"{time.monotonic() - started:.0f} s"
                print(number + 1, len(plan), took, names, broken, file=sys.stderr, flush=True)


def in_one_process(root: Path, count: int) -> tuple[int, list[Any]]:
    """Gives how many operations were tried, and what was broken."""
    WarmCase.operations_here.install()
    case = WarmCase(root / "case", "", named=True)
    case.make()
    names: list[str] = []
    assert case.command(names.append) == 0
    undisturbed = case.outcome()
    case.remove()
    names = list(dict.fromkeys(names))
    names = [names[number * (len(names) - 1) // (count - 1)] for number in range(count)]
    return count, violations(case, names, undisturbed)


def in_processes(root: Path, bucket: str) -> tuple[int, list[Any]]:
    """Gives how many operations were tried, and what was broken."""
    plan: list[Any] = []
    points = 0
    for named in (True,) if bucket else (True, False):
        first = Case(root / f"undisturbed-{named:d}", bucket, named=named)
        first.make()
        names = first.operations()
        undisturbed = first.outcome()
        first.remove()
        # From there on the run is done, and the same command says so.
        done = 1 + next(n for n, name in enumerate(names) if name.endswith("state.json again"))
        names = names[:done]
        if bucket:
            # What is below the temporary folder is the same wherever the run folder is.
            names = [name for name in names if " tmp/" not in name]
        if not named:
            # Which folder is found is decided by the first files in it.
            begun = 1 + next(n for n, name in enumerate(names) if name.endswith("ledger.json"))
            names = [*names[:begun], *names[begun::4]]
        print(len(names), names, file=sys.stderr, flush=True)
        points += len(names)
        for chain in chains(names):
            case = Case(root / f"case-{len(plan)}", bucket, named=named)
            plan.append((case, chain, undisturbed))
    found = [root / f"found-{share}" for share in range(AT_ONCE)]
    children = []
    for share in range(AT_ONCE):
        child = os.fork()
        if not child:
            try:
                work(plan, share, found[share])
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(ends), ends
    return points, [json.loads(line) for file in found for line in file.read_text().splitlines()]


def main() -> None:
    root, where = Path(sys.argv[1]).resolve(), "".join(sys.argv[2:])
    started = time.monotonic()
    import_tensorflow()
    import matplotlib.pyplot  # noqa: F401

    from trainer import lease, pipeline, task  # noqa: F401

    # Else each command would wait for a minute, to see whether the killed one is still at work.
    lease._RENEWED_S, lease._EXPIRES_S, lease._LOOK_S = 0.5, 3.0, 0.2
    files._NEW_S = 0.0
    pictures = write_pictures(root / "pictures", per_class=40)
    # Looks at a frozen test set are counted.
    command = [sys.executable, "-m", "trainer.data", "split", str(pictures)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=DEADLINE_S)
    points, broken = (
        in_one_process(root, int(where)) if where.isdigit() else in_processes(root, where)
    )
    seconds = time.monotonic() - started
    print(json.dumps({"points": points, "seconds": seconds, "broken": broken}))


if __name__ == "__main__":
    main()
