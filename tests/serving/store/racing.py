"""Processes that publish, promote, roll back and prune at random, some killed at random, while
others look at models.config as polling servers do.

``python -m tests.serving.store.racing <model_dir> <export> <steps> <seed>``: a process of its own,
for the reason that `killing` has. A broken promise ends it with an AssertionError.
"""

import os
import random
import signal
import sys
from functools import partial
from pathlib import Path

from serving.config import models_config
from serving.store import ModelStore, open_store
from serving.store.state import VersionMissingError
from tests.serving.store.killing import NAME, end_of, fork
from whisker_ml.errors import ConflictError

WORKERS, POLLERS = 4, 2
# Of so many steps, one is some process's last.
KILLED_ONE_OF = 10


# Children that outlive it end too.
MAIN = os.getpid()


def named(store: ModelStore, content: bytes) -> set[int]:
    return models_config.named(models_config.parse(content, store.config_path), NAME)


def poll(store: ModelStore) -> None:
    """Looks, for ever, whether models.config names what is not there."""
    while os.getppid() == MAIN:
        read = store._read(store.config_path)
        missing = named(store, read[0]) - set(store.versions())
        # Else what was read is no longer what is there.
        if missing and store._read(store.config_path) == read:
            raise AssertionError(f"models.config names {missing}, which is gone: {read[0]!r}")


def work(store: ModelStore, export: Path, seed: int, steps: int) -> None:
    """Changes the store, for ever; each change is a byte in the pipe `steps`."""
    chance = random.Random(seed)
    while os.getppid() == MAIN:
        try:
            version = chance.choice(store.versions())
            chance.choice(
                [
                    partial(store.publish, export),
                    partial(store.promote, version),
                    partial(store.promote, version, over=store.live_version()),
                    partial(store.promote, version, "canary"),
                    store.rollback,
                    partial(store.prune, chance.choice((1, 2, 3))),
                ]
            )()
        except (VersionMissingError, ConflictError):
            # Others were faster.
            pass
        os.write(steps, b".")


def main() -> None:
    model_dir, export, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(sys.argv[4])
    store = open_store(model_dir, NAME)
    for _ in range(3):
        store.promote(store.publish(export).number)
    reading, writing = os.pipe()

    def start() -> int:
        seed = chance.getrandbits(32)
        return fork(lambda: work(store, export, seed, writing))

    pollers = [fork(lambda: poll(store)) for _ in range(POLLERS)]
    workers = [start() for _ in range(WORKERS)]
    for _ in range(steps):
        os.read(reading, 1)
        for child in (*pollers, *workers):
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "a process has failed"
        if not chance.randrange(KILLED_ONE_OF):
            victim = workers.pop(chance.randrange(WORKERS))
            os.kill(victim, signal.SIGKILL)
            assert end_of(victim) == -signal.SIGKILL
            workers.append(start())
    for child in (*pollers, *workers):
        os.kill(child, signal.SIGKILL)
        assert end_of(child) == -signal.SIGKILL
    # Whatever they left, everything works, and what is there is whole.
    store.promote(store.publish(export).number)
    store.prune(1)
    assert named(store, store._read(store.config_path)[0]) <= set(store.versions())
    for version in store.versions():
        store.verify(version)


if __name__ == "__main__":
    main()
