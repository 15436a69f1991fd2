"""A model store in a local folder, or on any file system that is mounted like one."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from serving.store.manifest import files_in
from serving.store.store import CLAIMS, HISTORY_FILE, STAGING, ModelStore, is_version
from whisker_ml import files
from whisker_ml.contract import SAVED_MODEL_FILES
from whisker_ml.errors import ConflictError, disk_errors

_CONFIG_LOCK = ".models.config.lock"


class Folder(ModelStore):
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
        """Checks, and makes the folder: one that cannot be made or written shows at once."""
        with disk_errors(self._base):
            self._base.mkdir(parents=True, exist_ok=True)
            if not os.access(self._base, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        super().check()

    def files(self, version: int) -> set[str]:
        """Lists the files of a version."""
        return set(files_in(self._base / str(version)))

    def _names(self) -> tuple[list[str], tuple[int, ...]]:
        """Names below the base path; the lock of `_exclusive` stands in for retiring."""
        patterns = ("*", f"{CLAIMS}/*", *(f"*/{name}" for name in SAVED_MODEL_FILES))
        paths = (path for pattern in patterns for path in self._base.glob(pattern))
        return [path.relative_to(self._base).as_posix() for path in paths], ()

    def _claim(self, number: int, publisher: str) -> bool:
        """Claims a number."""
        claim = self._claim_file(number)
        with disk_errors(claim.parent):
            _make(claim.parent)
            try:
                _create(claim, publisher)
            except FileExistsError:
                return False
        return True

    def _claimed_by(self, publisher: str) -> int | None:
        """Gives the number of a publisher."""
        with disk_errors(self._base):
            for claim in (self._base / CLAIMS).glob("*"):
                is_claim = is_version(claim.name) and stat.S_ISREG(claim.lstat().st_mode)
                if is_claim and claim.read_bytes() == publisher.encode():
                    return int(claim.name)
        return None

    def _write(self, number: int, sources: Mapping[str, Path], *, again: bool) -> None:
        """Writes a version."""
        staged = self._base / STAGING / str(number)
        with disk_errors(staged), files.locked(self._claim_file(number), wait=True):
            _make(staged.parent)
            self._remove_abandoned()
            if again and number in self.versions():
                return
            # The number has just been claimed: nobody needs what is there.
            shutil.rmtree(staged, ignore_errors=True)
            _make(staged)
            try:
                for name, source in sources.items():
                    target = staged / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, target)
                for path in (*staged.rglob("*"), staged):
                    files.synchronise(path)
                staged.rename(self._base / str(number))
                files.synchronise(self._base)
            finally:
                shutil.rmtree(staged, ignore_errors=True)

    def _remove_abandoned(self) -> None:
        for claim in (self._base / CLAIMS).glob(".*"):
            # What has become a claim already.
            with suppress(OSError):
                if claim.lstat().st_nlink > 1:
                    claim.unlink()
        for staged in (self._base / STAGING).glob("*"):
            if is_version(staged.name) and self._claim_file(int(staged.name)).exists():
                # Where the claim is held, its publisher is alive.
                with (
                    suppress(OSError),
                    files.locked(self._claim_file(int(staged.name))),
                ):
                    shutil.rmtree(staged, ignore_errors=True)

    def _retire(self, versions: Sequence[int]) -> list[int]:
        """Gives those that nothing uses."""
        in_use = self.state().in_use
        return [version for version in versions if version not in in_use]

    def _delete(self, number: int) -> None:
        """Deletes a version."""
        staged = self._base / STAGING / str(number)
        with disk_errors(staged), files.locked(self._claim_file(number), wait=True):
            _make(staged.parent)
            # Its publisher gets another number from here on.
            os.truncate(self._claim_file(number), 0)
            # It vanishes in one step; where a kill keeps it from being removed then, the next
            # publisher does that.
            (self._base / str(number)).rename(staged)
            shutil.rmtree(staged)

    @contextmanager
    def _local(self, version: int) -> Iterator[Path]:
        """Gives a local folder with a version."""
        yield self._base / str(version)

    def _claim_file(self, number: int) -> Path:
        return self._base / CLAIMS / str(number)

    def _read(self, path: str) -> tuple[bytes, int]:
        """Reads a file."""
        with disk_errors(path):
            # The lock of `exclusive` stands in for a generation.
            return (Path(path).read_bytes() if Path(path).is_file() else b""), 0

    def _replace(self, path: str, content: bytes, generation: int) -> bool:  # noqa: ARG002
        """Replaces a file."""
        files.replace(Path(path), content)
        return True

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keeps others out."""
        lock = self._config.with_name(_CONFIG_LOCK)
        with disk_errors(self._config), files.locked(lock, wait=True):
            # All writers hold the lock: fresh copies that are there now are those of killed ones.
            for path in (self._config, self._base / HISTORY_FILE):
                for fresh in path.parent.glob(f".{path.name}.[0-9]*"):
                    fresh.unlink(missing_ok=True)
            yield


def _create(file: Path, content: str) -> None:
    """Makes a new file; its content comes with it, where the file system has links.

    Raises:
        FileExistsError: there is one.
    """
    if content:
        whole = file.with_name(f".{content}")
        whole.write_text(content)
        try:
            os.link(whole, file)
            return
        except FileExistsError:
            raise
        except OSError:
            pass
        finally:
            whole.unlink()
    with file.open("x") as stream:
        stream.write(content)


def _make(folder: Path) -> None:
    """Makes a folder of the store's own, which may be no link to elsewhere."""
    if folder.is_symlink():
        raise ConflictError(f"{folder} is a link: the store does not follow links; remove the link")
    folder.mkdir(parents=True, exist_ok=True)
