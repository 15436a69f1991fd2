"""Reads pictures out of shards, wherever they stand."""

import json
import os
import threading
from pathlib import Path
from typing import Any

from trainer.errors import DataError

INDEX = "shards.json"


class Shards:
    """The shards of a folder.

    Args:
        folder: holds ``shards.json``.

    Raises:
        DataError: a shard is missing or cut short, or the index cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        index = _index(folder / INDEX)
        self._files = [folder / name for name, _ in index["shards"]]
        for file, (_, size) in zip(self._files, index["shards"], strict=True):
            found = file.stat().st_size if file.is_file() else 0
            if found != size:
                raise DataError(
                    f"{file}: holds {found:,} bytes where {size:,} were written; fetch it again, or"
                    " remove the folder and convert anew"
                )
        self._where: dict[str, tuple[int, int, int]] = index["pictures"]
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def order(self) -> tuple[str, ...]:
        """Paths of the pictures as they stand one after the other."""
        return tuple(sorted(self._where, key=self._where.__getitem__))

    def read(self, path: str) -> bytes:
        """Gives the content of a picture.

        Raises:
            OSError: its shard cannot be read.
        """
        shard, start, length = self._where[path]
        with self._lock:
            if shard not in self._open:
                self._open[shard] = os.open(self._files[shard], os.O_RDONLY)
        return os.pread(self._open[shard], length, start)

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)


def _index(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); convert anew") from error
