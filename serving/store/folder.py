"""The model store in a local folder, or on any file system that is mounted like one."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from serving.store.model_store import ModelStore
from serving.store.versions import CLAIMS, STAGING, is_version
from whisker_ml.contract import SAVED_MODEL_FILE
from whisker_ml.errors import disk_errors
from whisker_ml.files import replace, synchronise

_CONFIG_LOCK = ".models.config.lock"


class LocalStore(ModelStore):
    """A store in a folder: a version is staged beside the others and appears whole, by one rename.

    A publisher holds a lock on its claim, which the kernel drops with the process: what is staged
    under a claim that nobody holds was left by a killed one. On a file system that machines share,
    they must see one another's locks.
    """

    def __init__(self, model_dir: str, model_name: str) -> None:
        # Absolute, as TensorFlow Serving demands of base_path; symbolic links stay as the user
        # spelled them.
        super().__init__(os.path.abspath(model_dir), model_name)  # noqa: PTH100 Path.absolute() keeps ".."
        self._base = Path(self.base_path)
        self._config = Path(self.config_path)

    def check(self) -> None:
        """As every store's, and makes the model's folder: one that cannot be made or written shows
        at once.
        """
        with disk_errors(self._base):
            self._base.mkdir(parents=True, exist_ok=True)
            if not os.access(self._base, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        super().check()

    def _names(self) -> Iterable[str]:
        for pattern in ("*", f"{CLAIMS}/*", f"*/{SAVED_MODEL_FILE}"):
            for path in self._base.glob(pattern):
                yield path.relative_to(self._base).as_posix()

    def _claim(self, number: int) -> bool:
        claim = self._claim_file(number)
        with disk_errors(claim.parent):
            claim.parent.mkdir(parents=True, exist_ok=True)
            try:
                claim.touch(exist_ok=False)
            except FileExistsError:
                return False
        return True

    def _write(self, number: int, files: Mapping[str, Path]) -> None:
        staged = self._base / STAGING / str(number)
        with disk_errors(staged), self._claim_file(number).open() as claim:
            fcntl.flock(claim, fcntl.LOCK_EX)
            self._remove_abandoned()
            try:
                for name, source in files.items():
                    target = staged / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, target)
                for path in (*staged.rglob("*"), staged):
                    synchronise(path)
                staged.rename(self._base / str(number))
                synchronise(self._base)
            finally:
                shutil.rmtree(staged, ignore_errors=True)

    def _remove_abandoned(self) -> None:
        for staged in (self._base / STAGING).glob("*"):
            if is_version(staged.name) and self._claim_file(int(staged.name)).exists():
                with self._claim_file(int(staged.name)).open() as claim:
                    try:
                        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    shutil.rmtree(staged, ignore_errors=True)

    def _delete(self, number: int) -> None:
        staged = self._base / STAGING / str(number)
        with disk_errors(staged), self._claim_file(number).open("a") as claim:
            fcntl.flock(claim, fcntl.LOCK_EX)
            staged.parent.mkdir(exist_ok=True)
            # It vanishes in one step; where a kill keeps it from being removed then, the next
            # publisher does that.
            (self._base / str(number)).rename(staged)
            shutil.rmtree(staged)

    @contextmanager
    def _local(self, version: int) -> Iterator[Path]:
        yield self._base / str(version)

    def _claim_file(self, number: int) -> Path:
        return self._base / CLAIMS / str(number)

    def _read(self, path: str) -> tuple[bytes, int]:
        with disk_errors(path):
            # The lock of _exclusive stands in for a generation.
            return (Path(path).read_bytes() if Path(path).is_file() else b""), 0

    def _replace(self, path: str, content: bytes, generation: int) -> bool:  # noqa: ARG002
        replace(Path(path), content)
        return True

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with disk_errors(self._config), self._config.with_name(_CONFIG_LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # All writers hold the lock: fresh copies that are there now are those of killed ones.
            for path in (self._config, Path(self._history_path)):
                for fresh in path.parent.glob(f".{path.name}.[0-9]*"):
                    fresh.unlink(missing_ok=True)
            yield
