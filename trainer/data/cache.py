"""Decoded pixels, kept in memory or on disk where they fit: measured, before anything is
decoded.
"""

import os
import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np

from trainer.errors import DataError

# Share of what is free when a run starts that pixels may take: the rest is for the model, for
# batches on their way, for checkpoints, and for other programs.
_SHARE = 0.5
_UNKNOWN_MEMORY_BYTES = 2**30

# Control groups by version (2 names no controllers): limit, usage, and the part of it that files
# take.
_MEMORY_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


class PixelCache:
    """Rows of decoded pictures: uint8 [n, image_size, image_size, 3]; zeros where nothing was put.

    Args:
        shape: of all rows.
        folder: keeps them in a file there that is gone when the process is, however that ends;
            None: in memory.
    """

    def __init__(self, shape: tuple[int, ...], folder: Path | None) -> None:
        self._folder = folder
        self.pixels: np.ndarray
        if folder is None:
            self.pixels = np.zeros(shape, np.uint8)
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, prefix="pixels-")  # noqa: SIM115
            weakref.finalize(self, self._file.close)
            self._file.truncate(int(np.prod(shape, dtype=np.int64)))
        except OSError as error:
            raise self._unwritable(error) from error
        self.pixels = np.memmap(self._file, np.uint8, "r", shape=shape)

    def put(self, first: int, rows: np.ndarray) -> None:
        """Keeps rows that stand one after the other, uint8 [m, image_size, image_size, 3], from
        number `first` on.

        Raises:
            DataError: the disk is full.
        """
        if self._folder is None:
            self.pixels[first : first + len(rows)] = rows
            return
        try:
            # Never through the mapped file, where a full disk kills the process instead of raising
            # an error.
            os.pwrite(self._file.fileno(), rows.tobytes(), first * self.pixels[0].nbytes)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> DataError:
        return DataError(
            f"{self._folder}: decoded pictures cannot be kept here ({error.strerror}); free space,"
            " or use --cache=none"
        )


def make_cache(
    kind: str, count: int, image_size: int, folder: Path, *, free_bytes: int
) -> PixelCache | None:
    """Makes a place for decoded pictures.

    Args:
        kind: ``memory``, ``disk``, ``none``, or ``auto``: the first of them that they fit into.
        count: of pictures.
        image_size: side in pixels.
        folder: for pixels on disk.
        free_bytes: memory that is free now.

    Returns:
        The cache; None where there is to be none.

    Raises:
        DataError: the pixels do not fit into what was asked for.
    """
    shape = (count, image_size, image_size, 3)
    needed = int(np.prod(shape, dtype=np.int64))
    places = {"memory": free_bytes}
    if kind != "memory":
        places["disk"] = _free_disk_bytes(folder)
    for place in places if kind == "auto" else [kind]:
        if place == "none":
            return None
        if needed <= places[place] * _SHARE:
            return PixelCache(shape, None if place == "memory" else folder)
        if place == kind:
            raise DataError(
                f"--cache={kind}: {count:,} pictures of {image_size} pixels take {needed / 1e9:.1f}"
                f" GB, expected at most {_SHARE:.0%} of the {places[place] / 1e9:.1f} GB that are"
                " free; use --cache=auto"
            )
    return None


def free_memory_bytes(
    proc: Path = Path("/proc"), control_groups: Path = Path("/sys/fs/cgroup")
) -> int:
    """Memory that this process can have now, in bytes; where the system does not tell, 1 GiB.

    Args:
        proc: where Linux tells of memory and processes.
        control_groups: where it tells of limits: those of containers are below what the machine
            has.
    """
    try:
        lines = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
        groups = [
            line.split(":", 2) for line in (proc / "self" / "cgroup").read_text().splitlines()
        ]
    except (OSError, ValueError, KeyError):
        return _UNKNOWN_MEMORY_BYTES
    for _, controllers, path in groups:
        if controllers in _MEMORY_FILES:
            root = control_groups / controllers
            own = root / path.lstrip("/")
            # A limit holds for all groups below it.
            for group in (own, *own.parents):
                if group.is_relative_to(root):
                    free = min(free, _left_in(group, *_MEMORY_FILES[controllers], otherwise=free))
    return max(free, 0)


def _left_in(group: Path, limit: str, usage: str, reclaimable: str, *, otherwise: int) -> int:
    try:
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # Pages of files are given up when memory is needed.
        used = int((group / usage).read_text()) - int(statistics[reclaimable])
        return int((group / limit).read_text()) - used
    except (OSError, ValueError, KeyError):  # there is no limit; version 2 says "max" then
        return otherwise


def _free_disk_bytes(folder: Path) -> int:
    there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    return shutil.disk_usage(there).free
