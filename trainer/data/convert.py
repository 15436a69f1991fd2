"""Record shards, written: pictures of one split each, in the order of their hashes."""

import hashlib
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import tensorflow as tf
from PIL import Image, ImageOps

from trainer.data import splits
from trainer.data.ledger import SPLITS, Ledger, Picture
from trainer.data.pictures import INDEX
from trainer.errors import DataError
from whisker_ml import files, storage
from whisker_ml.files import is_address
from whisker_ml.processors import available_processors
from whisker_ml.terminal import progress

logger = logging.getLogger(__name__)


# Where shards go, a folder or a bucket: a file appears under its name only when it is whole.

# Beside each shard until all are there: what it holds.
_NOTE = ".note.json"
_STAGING = ".unfinished"


class ShardWriter:
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
            names = [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []
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
            with files.scratch_folder("shards-") as folder:
                yield folder
            return
        staging = self._folder / _STAGING
        try:
            staging.mkdir(parents=True, exist_ok=True)
            with files.locked(staging / ".lock"):
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
        self._publish(file)
        self._publish(noted)

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
        files.synchronise(file)
        file.replace(self._folder / file.name)


# TFRecord shards: the pictures of a frozen split in a few large files, which a bucket and many
# workers read well.
#
# A shard holds pictures of one split in the order of their hashes, so that classes are mixed in
# each, as `tf.train.Example` with `image_bytes`, `label`, `path` and `sha256`. `shards.json`, the
# last file to appear, says where in which shard the bytes of each picture stand; `ledger.json`
# beside it is their frozen split.

_FORMAT = 1
# Before the bytes of a record: their number (8 bytes) and a checksum of it (4); after them, a
# checksum (4).
_BEFORE, _AFTER = 12, 4
_JPEG_QUALITY = 95
_SAMPLED = 32


@dataclass(frozen=True)
class _Shard:
    name: str
    pictures: tuple[Picture, ...]


def convert(folder: Path, place: ShardWriter, *, shard_bytes: int, shrink: int) -> Ledger:
    """Writes the pictures of a frozen split as shards; goes on where it was stopped.

    Args:
        folder: the data folder, or a CSV file; its split is frozen.
        place: where to.
        shard_bytes: about how large a shard becomes.
        shrink: length in pixels of the shorter side of larger pictures, which are encoded again; 0:
            all stay as they are. Shrunk pictures are another data set, with a digest of its own.

    Returns:
        The ledger of what was written.

    Raises:
        DataError: there is no frozen split, a picture is not what was frozen, the disk is full, or
            another conversion is there.
    """
    ledger = splits.read_frozen(folder)
    if ledger is None:
        raise DataError(
            f"{folder}: has no ledger.json; freeze the split first: whisker-data split {folder}"
        )
    if folder.is_file():  # CSV, whose paths are relative to it
        folder = folder.parent
    shards = _plan(ledger, folder, shard_bytes, shrink)
    settled = [[shard.name, [picture.path for picture in shard.pictures]] for shard in shards]
    key = hashlib.sha256(json.dumps([_FORMAT, ledger.digest, shrink, settled]).encode()).hexdigest()
    written = {name: json.loads(content) for name, content in place.notes().items()}
    if {note["key"] for note in written.values()} - {key}:
        raise DataError(
            f"{place.address}: holds another conversion; give another --out, or remove what is"
            " there"
        )
    if INDEX in written:
        logger.info(f"{place.address}: holds all {len(shards)} shards already")
        return Ledger.from_json(json.loads(place.read(splits.LEDGER_NAME)))
    missing = [shard for shard in shards if shard.name not in written]
    logger.info(f"{len(shards)} shards, {len(shards) - len(missing)} of them written already")
    with place.staging() as staging:

        def write(shard: _Shard) -> tuple[str, dict[str, Any]]:
            note = {"key": key, **_write(shard, folder, staging, shrink)}
            # In the same thread: no more is staged than is being written.
            place.put(shard.name, staging / shard.name, note)
            return shard.name, note

        with ThreadPoolExecutor(available_processors()) as pool:
            notes = pool.map(write, missing)
            written |= dict(progress(notes, desc="writing shards", total=len(missing)))
        ledger = _as_written(ledger, written)
        index = {
            "format": _FORMAT,
            "key": key,
            "shrink": shrink,
            "shards": [[shard.name, written[shard.name]["bytes"]] for shard in shards],
            "pictures": {
                path: [number, *where]
                for number, shard in enumerate(shards)
                for path, (*where, _) in written[shard.name]["pictures"].items()
            },
        }
        place.finish(staging, {splits.LEDGER_NAME: ledger.to_json(), INDEX: index})
    return ledger


def _plan(ledger: Ledger, folder: Path, shard_bytes: int, shrink: int) -> list[_Shard]:
    """The same shards for the same ledger, whenever it is asked."""
    shards = []
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
        shards += [
            _Shard(f"{split}-{number:05d}-of-{count:05d}.tfrecord", tuple(pictures[start:end]))
            for number, (start, end) in enumerate(pairwise(bounds))
        ]
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
        size = (max(round(upright.width * scale), 1), max(round(upright.height * scale), 1))
        smaller = upright.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    smaller.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _write(shard: _Shard, folder: Path, staging: Path, shrink: int) -> dict[str, Any]:
    """Writes a shard; gives its size, and where each picture stands in it: {path: [start, length,
    sha256]}.
    """
    file = staging / shard.name
    where: dict[str, tuple[int, int, str]] = {}
    position = 0
    try:
        with tf.io.TFRecordWriter(str(file)) as writer:
            for picture in shard.pictures:
                encoded = _encoded(picture, folder, shrink)
                digest = hashlib.sha256(encoded).hexdigest()
                record = _example(encoded, picture, digest)
                writer.write(record)
                where[picture.path] = (
                    position + _BEFORE + record.index(encoded),
                    len(encoded),
                    digest,
                )
                position += _BEFORE + len(record) + _AFTER
    except tf.errors.OpError as error:
        reason = error.message.rpartition("; ")[2]
        raise DataError(
            f"{file}: cannot be written ({reason}); free space; what is done is kept"
        ) from error
    return {"bytes": position, "pictures": where}


def _example(encoded: bytes, picture: Picture, digest: str) -> bytes:
    values = {
        "image_bytes": encoded,
        "label": picture.label,
        "path": picture.path,
        "sha256": digest,
    }
    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[tf.compat.as_bytes(value)]))
        for name, value in values.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(
        deterministic=True
    )


def _as_written(ledger: Ledger, written: Mapping[str, Any]) -> Ledger:
    digests = {
        path: digest
        for note in written.values()
        for path, (_, _, digest) in note["pictures"].items()
    }
    pictures: Sequence[Picture] = [
        replace(picture, sha256=digests[picture.path]) for picture in ledger.pictures
    ]
    return replace(ledger, pictures=tuple(pictures))
