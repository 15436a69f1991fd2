"""Record shards: the pictures of a frozen split in a few large files, which a bucket and many
workers read well.

A shard is a TFRecord file of pictures of one split in the order of their hashes, so that classes
are mixed in each, as `tf.train.Example` with `image_bytes`, `label`, `path` and `sha256`.
`shards.json`, the last file to appear, says where in which shard the bytes of each picture stand;
`ledger.json` beside it is their frozen split.
"""

import errno
import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import tensorflow as tf
from PIL import Image, ImageOps

from trainer.data.ledger import SPLITS, Ledger, Picture
from trainer.data.splits import INDEX, LEDGER_NAME, read_frozen
from trainer.errors import DataError
from whisker_ml import files, storage
from whisker_ml.errors import disk_errors
from whisker_ml.files import is_address
from whisker_ml.machine import available_processors
from whisker_ml.terminal import progress

logger = logging.getLogger(__name__)


class Shards:
    """The shards of a folder.

    Args:
        folder: holds ``shards.json``.

    Raises:
        DataError: a shard is missing or cut short, or the index cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        index = folder / INDEX
        remedy = "convert again"
        content = files.read_json(index, remedy, DataError)
        try:
            sizes = [(folder / str(name), int(size)) for name, size in content["shards"]]
            self._where: dict[str, tuple[Path, int, int]] = {}
            for path, (shard, start, length) in content["pictures"].items():
                if min(shard, start, length) < 0:
                    raise ValueError("a number below 0")
                self._where[path] = (sizes[shard][0], int(start), int(length))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(
                f"{index}: cannot be read as a list of shards ({type(error).__name__}: {error});"
                f" {remedy}"
            ) from error
        for file, size in sizes:
            found = file.stat().st_size if file.is_file() else 0
            if found != size:
                raise DataError(
                    f"{file}: holds {found:,} bytes where {size:,} were written; fetch it again, or"
                    " remove the folder and convert again"
                )

    def read(self, path: str) -> bytes:
        """Gives the content of a picture.

        Raises:
            OSError: its shard cannot be read, or has no such picture.
        """
        if path not in self._where:
            raise FileNotFoundError(errno.ENOENT, f"not in {INDEX}", path)
        shard, start, length = self._where[path]
        with shard.open("rb", buffering=0) as stream:
            stream.seek(start)
            return stream.read(length)


# Which conversion a folder holds a part of, and where what is not whole yet stands.
_BEGUN = ".unfinished.json"
_STAGING = ".unfinished"


class _Place:
    """Where shards go, a folder or ``gs://…``: a file appears under its name only when it is
    whole.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._folder = None if is_address(address) else Path(self.address).expanduser()

    def names(self) -> set[str]:
        """Names of the files that are there."""
        if self._folder is None:
            return set(storage.list_names(self.address))
        return {path.name for path in self._folder.glob("*")}

    def read(self, name: str) -> Any:
        """Reads a JSON file that is there."""
        if self._folder is None:
            return json.loads(storage.read(f"{self.address}/{name}")[0])
        return json.loads((self._folder / name).read_bytes())

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Gives a folder on this machine for what is not whole yet, and is alone in it. After an
        error, what says that the conversion is not finished stays.

        Raises:
            DiskError: the folder cannot be written.
            DataError: another conversion is at work in it.
        """
        if self._folder is None:
            with files.scratch_folder("shards-") as folder:
                yield folder
            storage.delete([_BEGUN], self.address)
            return
        staging = self._folder / _STAGING
        with disk_errors(self.address):
            staging.mkdir(parents=True, exist_ok=True)
            try:
                with files.locked(staging / ".lock"):
                    yield staging
                    (self._folder / _BEGUN).unlink()
                    shutil.rmtree(staging)
            except BlockingIOError as error:
                raise DataError(
                    f"{self.address}: another conversion is at work here; wait for it"
                ) from error

    def put(self, file: Path, content: Any = None) -> None:
        """Gives a staged file, or one of JSON values, its place under its name."""
        if content is not None:
            file.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
        if self._folder is None:
            storage.upload_new({file.name: file}, self.address)
            file.unlink()
        else:
            files.synchronise(file)
            file.replace(self._folder / file.name)


_FORMAT = 1
# Before the bytes of a record: their number (8 bytes) and a checksum of it (4); after them, a
# checksum (4).
_BEFORE, _AFTER = 12, 4
_JPEG_QUALITY = 95
_SAMPLED = 32


def convert(folder: Path, out: str, *, shard_bytes: int, shrink: int) -> Ledger:
    """Writes the pictures of a frozen split as shards; goes on where it was stopped.

    Args:
        folder: the data folder, or a CSV file; its split is frozen.
        out: where to, a folder or ``gs://…``.
        shard_bytes: about how large a shard becomes.
        shrink: length in pixels of the shorter side of larger pictures, which are encoded again; 0:
            all stay as they are. Shrunk pictures are another data set, with a digest of its own.

    Returns:
        The ledger of what was written.

    Raises:
        DataError: there is no frozen split, a picture is not what was frozen, the disk is full, or
            another conversion is there.
    """
    ledger = read_frozen(folder)
    if ledger is None:
        raise DataError(
            f"{folder}: has no ledger.json; freeze the split first: whisker-data split {folder}"
        )
    if folder.is_file():  # CSV, whose paths are relative to it
        folder = folder.parent
    shards = _plan(ledger, folder, shard_bytes, shrink)
    settled = [[name, [picture.path for picture in pictures]] for name, pictures in shards.items()]
    key = hashlib.sha256(json.dumps([_FORMAT, ledger.digest, shrink, settled]).encode()).hexdigest()
    place = _Place(out)
    there = place.names()
    if any(place.read(name)["key"] != key for name in there & {INDEX, _BEGUN}):
        raise DataError(
            f"{place.address}: holds another conversion; give another --out, or remove what is"
            " there"
        )
    if INDEX in there:
        logger.info(f"{place.address}: holds all {len(shards)} shards already")
        return Ledger.from_json(place.read(LEDGER_NAME))
    logger.info(f"{len(shards)} shards, {len(there & shards.keys())} of them written already")
    with place.staging() as staging, ThreadPoolExecutor(available_processors()) as pool:
        place.put(staging / _BEGUN, {"key": key})

        def write(name: str) -> tuple[int, dict[str, _Where]]:
            if name in there:  # where its pictures stand is not written down yet
                return _write(shards[name], folder, Path(os.devnull), shrink)
            written = _write(shards[name], folder, staging / name, shrink)
            # In the same thread: no more is staged than is being written.
            place.put(staging / name)
            return written

        writing = pool.map(write, shards)
        written = list(progress(writing, desc="writing shards", total=len(shards)))
        where = {
            path: (number, *found)
            for number, (_, pictures) in enumerate(written)
            for path, found in pictures.items()
        }
        ledger = replace(
            ledger,
            pictures=tuple(replace(each, sha256=where[each.path][3]) for each in ledger.pictures),
        )
        index = {
            "format": _FORMAT,
            "key": key,
            "shrink": shrink,
            "shards": [[name, size] for name, (size, _) in zip(shards, written, strict=True)],
            "pictures": {path: found[:3] for path, found in where.items()},
        }
        place.put(staging / LEDGER_NAME, ledger.to_json())
        place.put(staging / INDEX, index)
    return ledger


def _plan(ledger: Ledger, folder: Path, shard_bytes: int, shrink: int) -> dict[str, list[Picture]]:
    """The same shards for the same ledger, whenever it is asked: pictures by the name of a file."""
    shards = {}
    for split in SPLITS:
        pictures = sorted(
            (picture for picture in ledger.pictures if picture.split == split),
            key=lambda picture: (picture.sha256, picture.path),
        )
        if shrink:
            sampled = [len(_encoded(picture, folder, shrink)) for picture in pictures[:_SAMPLED]]
            total = sum(sampled) * len(pictures) // len(sampled)
        else:
            total = sum((folder / picture.path).stat().st_size for picture in pictures)
        count = max(round(total / shard_bytes), 1)
        bounds = [len(pictures) * number // count for number in range(count + 1)]
        for number, (start, end) in enumerate(pairwise(bounds)):
            shards[f"{split}-{number:05d}-of-{count:05d}.tfrecord"] = pictures[start:end]
    return shards


def _encoded(picture: Picture, folder: Path, shrink: int) -> bytes:
    file = folder / picture.path
    try:
        encoded = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror}); put it back, or use extend"
        ) from error
    if hashlib.sha256(encoded).hexdigest() != picture.sha256:
        raise DataError(
            f"{file}: was altered after the split was frozen; put it back, or use extend"
        )
    if not shrink:
        return encoded
    with Image.open(io.BytesIO(encoded)) as opened:
        scale = shrink / min(opened.size)
        if scale >= 1:
            return encoded
        upright = ImageOps.exif_transpose(opened)
        width, height = (max(round(side * scale), 1) for side in upright.size)
        smaller = upright.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    smaller.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


# Start, length and SHA-256 of a picture's bytes in a shard.
_Where = tuple[int, int, str]


def _write(
    pictures: Sequence[Picture], folder: Path, file: Path, shrink: int
) -> tuple[int, dict[str, _Where]]:
    """Writes a shard; gives its size in bytes, and where each picture stands in it, by path."""
    where: dict[str, _Where] = {}
    position = 0
    try:
        with tf.io.TFRecordWriter(str(file)) as writer:
            for picture in pictures:
                encoded = _encoded(picture, folder, shrink)
                digest = hashlib.sha256(encoded).hexdigest()
                record = _example(
                    image_bytes=encoded, label=picture.label, path=picture.path, sha256=digest
                )
                writer.write(record)
                start = position + _BEFORE + record.index(encoded)
                where[picture.path] = (start, len(encoded), digest)
                position += _BEFORE + len(record) + _AFTER
    except tf.errors.OpError as error:
        reason = error.message.rpartition("; ")[2]
        raise DataError(
            f"{file}: cannot be written ({reason}); free space; what is done is kept"
        ) from error
    return position, where


def _example(**values: str | bytes) -> bytes:
    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[tf.compat.as_bytes(value)]))
        for name, value in values.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(
        deterministic=True
    )
