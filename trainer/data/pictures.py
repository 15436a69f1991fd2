"""Where encoded pictures come from: a folder of class folders, or record shards made from one."""

import errno
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.data import layout, splits
from trainer.data.layout import Unused
from trainer.data.ledger import Found, Ledger, LeftOut
from trainer.data.splits import freeze
from trainer.errors import DataError
from whisker_ml import files

logger = logging.getLogger(__name__)


# Reads pictures out of shards, wherever they stand.

INDEX = "shards.json"


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
            sizes = {folder / str(name): int(size) for name, size in content["shards"]}
            self._files = list(sizes)
            self._where: dict[str, tuple[int, int, int]] = {
                path: (range(len(sizes)).index(shard), int(start), int(length))
                for path, (shard, start, length) in content["pictures"].items()
            }
            if any(min(where) < 0 for where in self._where.values()):
                raise ValueError("a number below 0")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{index}: cannot be read as a list of shards ({type(error).__name__}: {error});"
                f" {remedy}"
            ) from error
        for file, size in sizes.items():
            found = file.stat().st_size if file.is_file() else 0
            if found != size:
                raise DataError(
                    f"{file}: holds {found:,} bytes where {size:,} were written; fetch it again, or"
                    " remove the folder and convert again"
                )
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def order(self) -> tuple[str, ...]:
        """Paths of the pictures as they stand one after the other."""
        return tuple(sorted(self._where, key=self._where.__getitem__))

    def read(self, path: str) -> bytes:
        """Gives the content of a picture.

        Raises:
            OSError: its shard cannot be read, or has no such picture.
        """
        if path not in self._where:
            raise FileNotFoundError(errno.ENOENT, f"not in {INDEX}", path)
        shard, start, length = self._where[path]
        with self._lock:
            if shard not in self._open:
                self._open[shard] = os.open(self._files[shard], os.O_RDONLY)
        return os.pread(self._open[shard], length, start)

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)


@dataclass(frozen=True)
class Pictures:
    """The pictures of a data folder.

    Attributes:
        data: the data folder, or the CSV file.
        found: all of them, sorted by path.
        read: gives the content of one, by its path.
        frozen: the split that was frozen, if any.
        stored: paths in the order in which shards hold them; None where each picture is a file.
        left_out: files that are named like pictures and cannot be opened.
        unused: what else is in the folder.
    """

    data: Path
    found: tuple[Found, ...]
    read: Callable[[str], bytes]
    frozen: Ledger | None = None
    stored: tuple[str, ...] | None = None
    left_out: tuple[LeftOut, ...] = ()
    unused: tuple[Unused, ...] = ()

    @property
    def folder(self) -> Path:
        """What paths are relative to."""
        return self.data.parent if self.data.is_file() else self.data


def open_pictures(data: Path, classes: str = "folders") -> Pictures:
    """Lists the pictures of a data folder or a CSV file without reading them.

    Args:
        data: the folder, or the file, whose folder paths are relative to.
        classes: as `trainer.data.layout.find` takes it.

    Raises:
        DataError: there is none, or what is there cannot be trained on.
    """
    folder = data.parent if data.is_file() else data
    before = splits.read_frozen(data)
    if (folder / INDEX).exists() and before is not None:
        shards = Shards(folder)
        found = [Found(picture.path, picture.label, picture.split) for picture in before.pictures]
        found.sort(key=lambda file: file.path)
        return Pictures(data, tuple(found), shards.read, before, shards.order())
    return listed(data, layout.find(data, classes), before)


def listed(data: Path, listing: layout.Listing, before: Ledger | None) -> Pictures:
    """The pictures of a folder or a CSV file that was looked through, and its frozen split."""
    folder = data.parent if data.is_file() else data
    return Pictures(
        data,
        listing.found,
        lambda path: (folder / path).read_bytes(),
        before,
        left_out=listing.left_out,
        unused=listing.unused,
    )


def assign(
    pictures: Pictures,
    sha256: Mapping[str, str],
    left_out: Sequence[LeftOut],
    *,
    protocol: str,
) -> Ledger:
    """Says which pictures train and which test: as was frozen, or anew where nothing was.

    Args:
        pictures: what is there.
        sha256: hash in hexadecimal by path, of pictures that decode.
        left_out: those that do not, with the reason.
        protocol: ``given`` or ``hold_out``.

    Returns:
        The ledger; a frozen one without pictures that are unchanged and yet do not decode.

    Raises:
        DataError: frozen pictures were altered or removed, another protocol is asked for than was
            frozen, or a class has no picture in one of the splits.
    """
    before = pictures.frozen
    if before is None:
        return freeze(pictures.found, sha256, left_out, protocol=protocol)
    file = splits.ledger_file(pictures.data)
    if protocol not in ("given", before.protocol):
        raise DataError(
            f"--split={protocol}: {file} was frozen with {before.protocol}; leave out --split, or"
            " remove the file and freeze the split again"
        )
    undecodable = {each.path: each for each in left_out}
    unused = [
        undecodable[picture.path] for picture in before.pictures if picture.path in undecodable
    ]
    hashes = {**sha256, **{each.path: _hash(pictures, each.path) for each in unused}}
    changed = splits.changes_since(before, pictures.found, hashes)
    if changed.removed or changed.altered:
        remedy = (
            "convert again" if pictures.stored else f"or run whisker-data extend {pictures.data}"
        )
        raise DataError(
            f"{file}: since the split was frozen, pictures have changed:"
            f" {replace(changed, added=())}; put them back, {remedy}"
        )
    logger.info(f"split frozen in {file} ({before.protocol})")
    if changed.added:
        logger.info(
            f"{changed} since then: not used; whisker-data extend {pictures.data}"
            " assigns what was added"
        )
    return replace(
        before,
        pictures=tuple(picture for picture in before.pictures if picture.path not in undecodable),
        left_out=(*before.left_out, *unused),
    )


def _hash(pictures: Pictures, path: str) -> str:
    try:
        return hashlib.sha256(pictures.read(path)).hexdigest()
    except OSError:
        return ""
