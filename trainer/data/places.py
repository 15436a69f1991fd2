"""Where shards go, a folder or a bucket: a file appears under its name only when it is whole."""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.data.shards import INDEX
from trainer.errors import DataError
from whisker_ml import storage
from whisker_ml.files import is_address

# Beside each shard until all are there: what it holds.
_NOTE = ".note.json"
_STAGING = ".unfinished"


class Place:
    """A folder, or ``gs://…``.

    Args:
        address: of it; made where it is missing.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._remote = is_address(address)
        self._folder = Path(self.address).expanduser()

    def notes(self) -> dict[str, bytes]:
        """What has been said of shards that are whole, by their name, and the index where all
        are.
        """
        if self._remote:
            names = storage.list_names(self.address)
        else:
            names = [each.name for each in self._folder.iterdir()] if self._folder.is_dir() else []
        return {
            name.removesuffix(_NOTE): self.read(name)
            for name in names
            if name.endswith(_NOTE) or name == INDEX
        }

    def read(self, name: str) -> bytes:
        """Reads a file."""
        return (
            storage.read(f"{self.address}/{name}")[0]
            if self._remote
            else (self._folder / name).read_bytes()
        )

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Gives a folder on this machine for what is not whole yet, and is alone in it.

        Raises:
            DataError: the folder cannot be written, or another conversion is at work in it.
        """
        if self._remote:
            with tempfile.TemporaryDirectory(prefix="whisker-shards-") as folder:
                yield Path(folder)
            return
        staging = self._folder / _STAGING
        try:
            staging.mkdir(parents=True, exist_ok=True)
            with (staging / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield staging
        except BlockingIOError as error:
            raise DataError(
                f"{self.address}: another conversion is at work here; wait for it"
            ) from error
        except OSError as error:
            raise DataError(
                f"{error.filename or self.address}: cannot be written ({error.strerror}); free"
                " space or give permission; what is done is kept"
            ) from error

    def put(self, name: str, file: Path, note: Mapping[str, Any]) -> None:
        """Gives a shard its name, and then says what it holds; what is staged of it is gone
        then.
        """
        noted = file.with_name(name + _NOTE)
        noted.write_text(json.dumps(note), encoding="utf-8")
        for each in (file, noted):
            self._publish(each)

    def finish(self, staging: Path, contents: Mapping[str, Any]) -> None:
        """Writes JSON files in their order; then the notes are not needed any more."""
        for name, content in contents.items():
            file = staging / name
            file.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
            self._publish(file)
        notes = [f"{name}{_NOTE}" for name in self.notes() if name != INDEX]
        if self._remote:
            storage.delete(notes, self.address)
            return
        for name in notes:
            (self._folder / name).unlink()
        (staging / ".lock").unlink()
        staging.rmdir()

    def _publish(self, file: Path) -> None:
        if self._remote:
            storage.upload_new({file.name: file}, self.address)
            file.unlink()
            return
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        file.replace(self._folder / file.name)
