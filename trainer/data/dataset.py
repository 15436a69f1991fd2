"""The pictures of a run: found, read once, and assigned to splits before anything is trained."""

import hashlib
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer.config import Config
from trainer.data import layout, sources, splits
from trainer.data.batches import CALLS, Examples, as_it_is, make_ready, reader
from trainer.data.checks import unreadable
from trainer.data.ledger import (
    EXCLUDED,
    Found,
    Ledger,
    LeftOut,
    Pictures,
    exclude,
    hashed,
    not_used,
)
from trainer.data.shards import Shards
from trainer.errors import DataError
from trainer.session import Session
from trainer.variants.preprocessing import PIXELS_VERSION, decode_and_resize, why_undecodable
from whisker_ml import files
from whisker_ml.formats import MAX_PIXELS
from whisker_ml.terminal import progress

# Decoded pixels, kept in memory or on disk where they fit: measured, before anything is
# decoded.

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


def pixel_rows(shape: tuple[int, ...], folder: Path | None) -> np.ndarray:
    """Makes room for decoded pictures: uint8 [n, image_size, image_size, 3], zeros.

    Args:
        shape: of all rows.
        folder: keeps them in a file there that is gone when the process is, however that ends;
            None: in memory.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    if folder is None:
        return np.zeros(shape, np.uint8)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix="pixels-") as file:
            size = int(np.prod(shape, dtype=np.int64))
            # All of it now, where the system can: a disk that is full under a mapped file kills the
            # process instead of raising an error.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise DataError(
            f"{folder}: decoded pictures cannot be kept here ({error.strerror}); free space, or use"
            " --cache=none"
        ) from error


def make_cache(
    kind: str, count: int, image_size: int, folder: Path, *, free_bytes: int
) -> np.ndarray | None:
    """Makes a place for decoded pictures.

    Args:
        kind: ``memory``, ``disk``, ``none``, or ``auto``: the first of them that they fit into.
        count: of pictures.
        image_size: side in pixels.
        folder: for pixels on disk.
        free_bytes: memory that is free now.

    Returns:
        The rows, as `pixel_rows` makes them; None where there are to be none.

    Raises:
        DataError: the pixels do not fit into what was asked for.
    """
    shape = (count, image_size, image_size, 3)
    needed = int(np.prod(shape, dtype=np.int64))
    for place in {"auto": ("memory", "disk"), "none": ()}.get(kind, (kind,)):
        free = free_bytes if place == "memory" else _free_disk_bytes(folder)
        if needed <= free * _SHARE:
            return pixel_rows(shape, folder if place == "disk" else None)
        if place == kind:
            raise DataError(
                f"--cache={kind}: {count:,} pictures of {image_size} pixels take {needed / 1e9:.1f}"
                f" GB, expected at most {_SHARE:.0%} of the {free / 1e9:.1f} GB that are free; use"
                " --cache=auto"
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
            limit, usage, reclaimable = _MEMORY_FILES[controllers]
            own = control_groups / controllers / path.lstrip("/")
            # A limit holds for all groups below it; where there is none, version 2 says "max".
            for group in (own, *own.parents):
                with suppress(OSError, ValueError, KeyError):
                    lines = dict(
                        line.split() for line in (group / "memory.stat").read_text().splitlines()
                    )
                    # Pages of files are given up when memory is needed.
                    used = int((group / usage).read_text()) - int(lines[reclaimable])
                    free = min(free, int((group / limit).read_text()) - used)
    return max(free, 0)


def _free_disk_bytes(folder: Path) -> int:
    there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    return shutil.disk_usage(there).free


# The first pass over the pictures: every one is read, hashed and decoded once.

_SCANNED_AT_ONCE = 32


def scan(
    pictures: Pictures,
    image_size: int,
    *,
    on_bad_image: str,
    cache: np.ndarray | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Pictures:
    """Reads, hashes and decodes every picture once, in parallel.

    Args:
        pictures: where they come from.
        image_size: side in pixels that pictures are resized to.
        on_bad_image: ``skip`` or ``fail``.
        cache: keeps what is decoded, uint8 [n, image_size, image_size, 3], a row per picture;
            zeros of one that does not decode; None: nothing is kept.
        max_pixels: width times height of a picture at most.

    Returns:
        The pictures, with hashes of those that decode; others are left out too, with the reason.

    Raises:
        DataError: a picture does not decode and on_bad_image is ``fail``, or none does, or the disk
            is full.
    """
    paths = [file.path for file in pictures.found]
    sha256: dict[str, str] = {}
    with tf.device("CPU:0"):
        read = reader(pictures, paths)

        @as_it_is
        def decode(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            encoded = read(index)
            return index, encoded, decode_and_resize(encoded, image_size, max_pixels)

        dataset = tf.data.Dataset.range(len(paths)).map(decode, num_parallel_calls=CALLS)
        dataset = make_ready(dataset.ignore_errors().batch(_SCANNED_AT_ONCE))
    with progress(desc="reading pictures", total=len(paths), unit=" pictures") as bar:
        for indices, encoded, rows in dataset.as_numpy_iterator():
            for index, content in zip(indices, encoded, strict=True):
                sha256[paths[index]] = hashlib.sha256(content).hexdigest()
            if cache is not None:
                cache[indices] = rows
            bar.update(len(indices))
    problems = (_problem(pictures, path, max_pixels) for path in paths if path not in sha256)
    left_out = (*problems, *pictures.left_out)
    if left_out and on_bad_image == "fail":
        raise DataError(
            f"{pictures.folder / left_out[0].path}: {left_out[0].reason} ({len(left_out)} such"
            " files); fix or remove it, or use --on_bad_image=skip"
        )
    if not sha256:
        raise DataError(
            f"--data={pictures.data}: none of the {len(paths)} files is a picture that can be"
            " decoded"
        )
    return replace(pictures, found=hashed(pictures.found, sha256), left_out=left_out)


def _problem(pictures: Pictures, path: str, max_pixels: int) -> LeftOut:
    try:
        return LeftOut(path, why_undecodable(pictures.read(path), max_pixels))
    except OSError as error:
        return unreadable(path, error)


logger = logging.getLogger(__name__)

_LEFT_OUT_SHOWN = 10


@dataclass(frozen=True)
class Dataset:
    """The pictures of a run.

    Attributes:
        data: folder or CSV file on this machine.
        pictures: all that were found, and what reads them.
        ledger: those that are used, and their splits.
        examples: the same, ready to be batched.
    """

    data: Path
    pictures: Pictures
    ledger: Ledger
    examples: Examples

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal over the ledger and the way in which pixels are made."""
        return run_digest(self.ledger)


def run_digest(ledger: Ledger) -> str:
    """Names what a run trains on: runs with the same one saw the same pixels."""
    return hashlib.sha256(f"{ledger.digest} {PIXELS_VERSION}".encode()).hexdigest()


def open_pictures(data: Path, classes: str = "folders") -> Pictures:
    """Lists the pictures of a data folder or a CSV file without reading them.

    Args:
        data: the folder, or the file, whose folder paths are relative to.
        classes: as `trainer.data.layout.find` takes it.

    Raises:
        DataError: there is none, or what is there cannot be trained on.
    """
    frozen = splits.read_frozen(data)
    if frozen is None or not (data / splits.INDEX).exists():
        return replace(layout.find(data, classes), frozen=frozen)
    found = [Found(picture.path, picture.label, picture.split) for picture in frozen.pictures]
    found.sort(key=lambda file: file.path)
    return Pictures(data, tuple(found), frozen=frozen, shards=Shards(data))


def load(config: Config, session: Session) -> Dataset:
    """Finds, reads, hashes and decodes all pictures, and assigns them to splits.

    Args:
        config: of the run.
        session: of the run; its folder gets ``ledger.json``.

    Raises:
        DataError: the pictures cannot be used.
        RunError: the run resumes, and the pictures have changed since it began.
        WorkersError: another worker has other pictures.
    """
    root = sources.pictures_folder(config.data, session.downloads)
    pictures = open_pictures(root, config.classes)
    workers = session.workers
    cache = make_cache(
        config.cache,
        len(pictures.found),
        config.image_size,
        session.downloads / "pixels",
        free_bytes=free_memory_bytes(),
    )
    pictures = scan(
        pictures,
        config.image_size,
        on_bad_image=config.on_bad_image,
        cache=cache,
        max_pixels=config.max_pixels,
    )
    ledger = splits.assign(pictures, config.split)
    # After the splits are made: what is left out moves nothing else.
    excluded = exclude(config.exclude, ledger.pictures)
    ledger = replace(
        ledger,
        pictures=tuple(each for each in ledger.pictures if each.path not in excluded),
        left_out=(*ledger.left_out, *excluded.values()),
    )
    splits.require_every_split(ledger)
    digest = run_digest(ledger)
    workers.require_same("the pictures or their split", digest)
    workers.require_same("the number types (--mixed_precision)", session.devices.precision)
    session.folder.freeze_ledger(
        digest, lambda path: files.write_json(path, {**ledger.to_json(), "run_digest": digest})
    )
    examples = Examples(
        pictures,
        ledger,
        cache,
        config.image_size,
        class_weights=config.class_weights,
        max_pixels=config.max_pixels,
    )
    _log(ledger, pictures)
    return Dataset(root, pictures, ledger, examples)


def _log(ledger: Ledger, pictures: Pictures) -> None:
    sizes = ", ".join(
        f"{split} {sum(counts.values())}" for split, counts in ledger.counts().items()
    )
    logger.info("%d pictures of %d classes: %s", len(ledger.pictures), len(ledger.classes), sizes)
    if pictures.frozen is None:
        logger.info(splits.describe(ledger, pictures.found))
    if pictures.unused:
        logger.info(not_used(pictures.unused))
    if ledger.left_out:
        logger.info("%d files left out:", len(ledger.left_out))
        # What nobody has chosen comes first.
        listed = sorted(ledger.left_out, key=lambda file: file.reason.startswith(EXCLUDED))
        for file in listed[:_LEFT_OUT_SHOWN]:
            logger.info("  %s: %s", file.path, file.reason)
        if len(ledger.left_out) > _LEFT_OUT_SHOWN:
            logger.info("  and %d more, all in ledger.json", len(ledger.left_out) - _LEFT_OUT_SHOWN)
