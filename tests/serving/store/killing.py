"""Kills publishers between any two writes, and looks at what they leave.

``python -m tests.serving.store.killing <model_dir> <export> <kills>``: a process of its own, as it
forks one child per kill, which a process with TensorFlow's threads must not do. Prints one JSON
object; a broken promise ends it with an AssertionError.
"""

import json
import os
import signal
import sys
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests.adapters

from serving.store import ModelStore, gcs, open_store
from whisker_ml.files import is_address
from whisker_ml.storage import list_names

NAME = "whisker"


def on_writes(tell: Callable[[], None]) -> None:
    """Calls `tell` before every write of this process: to the file system, or over HTTP to a
    bucket.
    """

    def told(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in (
            "os.mkdir",
            "os.rename",
            "os.link",
            "os.remove",
            "os.rmdir",
            "os.truncate",
            "fcntl.flock",
        )
        if writes or (
            event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            tell()

    class Adapter(requests.adapters.HTTPAdapter):
        def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
            if request.method != "GET":
                tell()
            return super().send(request, *arguments, **options)

    requests.sessions.HTTPAdapter = Adapter
    sys.addaudithook(told)


def work(store: ModelStore, export: Path, publisher: str) -> None:
    """What a child does: everything that writes into a store."""
    version = store.publish(export, publisher=publisher).number
    store.promote(version, "canary")
    store.promote(version)
    store.prune(2)


def fork(task: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        task()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


def end_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(write: int, store: ModelStore, export: Path, publisher: str) -> bool:
    """Runs a child and kills it before its write of that number, from 1; false where it has not so
    many to do.
    """

    def task() -> None:
        writes = 0

        def count() -> None:
            nonlocal writes
            writes += 1
            if writes >= write:
                os.kill(os.getpid(), signal.SIGKILL)

        on_writes(count)
        work(store, export, publisher)

    end = end_of(fork(task))
    assert end in (0, -signal.SIGKILL), end
    return end != 0


def writes_of(store: ModelStore, export: Path) -> int:
    """Counts the writes of a child that nobody kills."""
    reading, writing = os.pipe()

    def task() -> None:
        written: list[None] = []
        on_writes(lambda: written.append(None))
        work(store, export, "a" * 32)
        os.write(writing, str(len(written)).encode())

    assert end_of(fork(task)) == 0
    return int(os.read(reading, 100))


def names(store: ModelStore) -> list[str]:
    if is_address(store.base_path):
        return list_names(store.base_path)
    base = Path(store.base_path)
    return [path.relative_to(base).as_posix() for path in base.rglob("*")]


def claimed(store: ModelStore) -> int:
    """The highest number that is claimed."""
    claims = (name.removeprefix(".claims/") for name in names(store) if ".claims/" in name)
    return max(int(claim) for claim in claims if claim.isdigit())


def main() -> None:
    model_dir, export, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    # Else nothing would count as abandoned for an hour.
    patience, gcs._KILLED_AFTER = gcs._KILLED_AFTER, timedelta(0)
    store = open_store(model_dir, NAME)
    for _ in range(3):
        store.promote(store.publish(export).number)
    total = writes_of(store, export)
    found, verified = [], set()
    while len(found) < kills:
        before, publisher = claimed(store), uuid.uuid4().hex
        if not killed_at(1 + len(found) * total // kills, store, export, publisher):
            total -= 1
            continue
        for version in {*store.versions()} - verified:
            store.verify(version)
        assert store.live_version() in store.versions()
        assert store.previous() in {*store.versions()} - {store.live_version()}
        found.append(sum(name.startswith(".staging/") for name in names(store)))
        # It comes again: with its own number, whatever it had done with it, and no second version.
        again = store.publish(export, publisher=publisher).number
        assert again == before + 1, (again, before)
        assert claimed(store) == again, (claimed(store), again)
        assert store.published_by(publisher).number == again == max(store.versions())
        # The next one: a number of its own, and nothing is left but whole versions.
        published = store.publish(export).number
        store.promote(published)
        assert published == again + 1, (published, again)
        there = store.versions()
        for version in {*there} - verified:
            store.verify(version)
        verified.update(there)
        tops = {name.split("/")[0] for name in names(store)} - {".claims", ".live.json", ".staging"}
        assert tops == set(map(str, there)), (tops, there)
        assert not [name for name in names(store) if name.startswith(".staging/")]
        store.prune(2)
    gcs._KILLED_AFTER = patience
    before = store.versions()
    together = [fork(lambda: store.publish(export)) for _ in range(8)]
    assert [end_of(child) for child in together] == [0] * 8
    new = [version for version in store.versions() if version not in before]
    assert new == list(range(max(before) + 1, max(before) + 9)), new
    for version in new:
        store.verify(version)
    print(json.dumps({"writes": total, "kills": kills, "with_remains": sum(map(bool, found))}))


if __name__ == "__main__":
    main()
