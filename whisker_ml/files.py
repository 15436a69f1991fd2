"""Local files: one way to make a file appear whole, one lock, one reader of our own JSON; and what
tells a local path from an address in a bucket.
"""

import fcntl
import io
import json
import os
import re
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from whisker_ml.errors import AddressError, WhiskerError

# Of a scratch folder: what is held as long as somebody uses it, and how long it takes at most until
# somebody does.
_LOCK = ".lock"
_NEW_S = 60.0

# Of addresses in Cloud Storage.
BUCKET_SCHEME = "gs://"
# https://cloud.google.com/storage/docs/buckets#naming
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


class DamagedFileError(WhiskerError):
    """A JSON file of ours does not hold what it should."""


def is_address(path: str) -> bool:
    """Tells an address in a bucket from the path of a local file or folder."""
    return path.startswith(BUCKET_SCHEME)


def parse_address(address: str) -> tuple[str, str]:
    """Splits an address.

    Args:
        address: ``gs://bucket`` or ``gs://bucket/prefix``.

    Returns:
        The bucket's name, and the prefix without slashes at its ends ("" for the whole bucket).

    Raises:
        AddressError: it is no such address.
    """
    bucket, _, prefix = address.removeprefix(BUCKET_SCHEME).partition("/")
    if not is_address(address) or not _BUCKET_NAME.fullmatch(bucket):
        raise AddressError(
            f"{address} is not an address in a bucket: expected gs://bucket or gs://bucket/prefix"
        )
    return bucket, prefix.strip("/")


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[io.BufferedRandom]:
    """Opens a new file that takes the place of `path` when the block ends without an error.

    A reader finds the old file or the new one, each whole, and the new one has reached the disk
    before it has the name. After an error the old file is still there, and nothing is left beside
    it. The folder must exist.

    Args:
        path: replaced where it exists.
        mode: permissions of the file, less those that the process's umask takes away.

    Yields:
        The new file, open for writing and reading bytes.

    Raises:
        OSError: the file cannot be written.
    """
    # A name of this thread's own: two writers at once each leave a whole file, and the later one
    # wins.
    new = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    new.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode), "w+b") as stream:
            yield stream
        synchronise(new)
        new.replace(path)
        synchronise(path.parent)
    finally:
        new.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what killed writers of `replacing` left in a folder, at any depth; nobody may be
    writing there now.
    """
    for new in folder.rglob(".*.[0-9]*-[0-9]*"):
        new.unlink(missing_ok=True)


def replace(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Makes a file with this content appear whole, or raises OSError and leaves the old one."""
    with replacing(path, mode) as stream:
        stream.write(content)


def write_json(path: Path, content: Any) -> None:
    """Makes a JSON file appear whole, or raises OSError and leaves the old one."""
    replace(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(
    path: Path, remedy: str, kind: type[WhiskerError] = DamagedFileError
) -> dict[str, Any]:
    """Reads a JSON object that Whisker wrote.

    Args:
        path: of the file.
        remedy: what to do where the file is damaged, as the end of a sentence.
        kind: of the error.

    Raises:
        WhiskerError: of that kind: the file cannot be read, or holds no JSON object.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise kind(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    return parse_json(content, str(path), remedy, kind)


def parse_json(
    content: bytes, place: str, remedy: str, kind: type[WhiskerError] = DamagedFileError
) -> dict[str, Any]:
    """Reads a JSON object that Whisker wrote, as `read_json` does.

    Args:
        content: of the file.
        place: where it comes from.
        remedy: as for `read_json`.
        kind: as for `read_json`.

    Raises:
        WhiskerError: of that kind: it is no JSON object.
    """
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise kind(f"{place}: cannot be read (nested too deeply); {remedy}") from error
    except ValueError as error:
        raise kind(f"{place}: cannot be read (not JSON: {error}); {remedy}") from error
    if not isinstance(value, dict):
        raise kind(f"{place}: cannot be read (not a JSON object); {remedy}")
    return value


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[IO[bytes]]:
    """Holds the lock on a file, which is made where it is missing.

    The lock ends with the block, or with the process, however that ends; a child process that
    inherits the descriptor keeps it.

    Args:
        path: of the file; its content stays.
        wait: until another process has let go.

    Yields:
        The open file.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
        OSError: the file cannot be opened, or is a link.
    """
    # Nothing is made or opened behind a link, and a pipe is not waited for.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(path, flags, 0o666), "ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield stream


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Gives a temporary folder, and removes those that killed processes of this user have left.

    Args:
        prefix: of the name of its parent, for people.

    Raises:
        OSError: there is no place for it.
    """
    root = Path(tempfile.gettempdir(), f"whisker-scratch-{os.getuid()}")
    root.mkdir(mode=0o700, exist_ok=True)
    found = root.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    for other in root.iterdir() if ours else ():
        # What is locked is in use, and what is new may be about to be locked.
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > _NEW_S:
                with locked(other / _LOCK):
                    shutil.rmtree(other)
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=root if ours else None) as name,
        locked(Path(name, _LOCK)),
    ):
        folder = Path(name, "files")
        folder.mkdir()
        yield folder


def synchronise(path: Path) -> None:
    """Waits until a file, or a folder's list of names, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Not every file system can do this for a folder.
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
