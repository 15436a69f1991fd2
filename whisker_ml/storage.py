"""Cloud Storage: the only place that makes a storage client. Everything takes a gs:// address.

Credentials are Google's application default ones; where STORAGE_EMULATOR_HOST names an emulator,
google-cloud-storage talks to that one without any.
"""

import base64
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import google_crc32c
import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from whisker_ml import errors
from whisker_ml.files import BUCKET_SCHEME, parse_address

# Of every call. What is retried (429, 5xx, broken connections), and the growing pauses between, are
# google-cloud-storage's; that is safe for each call here, as it reads, deletes, carries a
# precondition, or writes the same content again.
CALL: dict[str, Any] = {
    # Of one attempt: to connect, and for each piece of an answer.
    "timeout": (10.0, 60.0),
    # Of all attempts together, 60 s.
    "retry": DEFAULT_RETRY.with_timeout(60.0),
}

THREADS = 8

SIGN_IN = (
    "there are no Google Cloud credentials that work; run gcloud auth application-default login, "
    "or set GOOGLE_APPLICATION_CREDENTIALS to a key file"
)

# What the libraries raise → what we raise, and why. The first row that fits counts.
_TABLE: tuple[tuple[tuple[type[Exception], ...], type[errors.StorageError], str], ...] = (
    (
        (auth.DefaultCredentialsError, auth.RefreshError, api.Unauthorized),
        errors.CredentialsError,
        SIGN_IN,
    ),
    (
        (api.Forbidden,),
        errors.PermissionMissingError,
        "the credentials in use may not do this; ask for roles/storage.objectUser on the bucket",
    ),
    (
        (
            api.RetryError,
            api.ServerError,
            api.TooManyRequests,
            auth.TransportError,
            auth.TimeoutError,
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            ConnectionError,
            TimeoutError,
        ),
        errors.UnreachableError,
        "Cloud Storage does not answer; check the network and try again",
    ),
)

_REFUSALS = (
    api.GoogleAPIError,
    auth.GoogleAuthError,
    requests.RequestException,
    DataCorruption,
    InvalidResponse,
)


@contextmanager
def mapped_errors(
    address: str, missing: type[errors.StorageError] = errors.BucketMissingError
) -> Iterator[None]:
    """Turns what the storage, authentication and HTTP libraries, and the disk, raise inside into a
    StorageError.

    Args:
        address: what was being worked on.
        missing: what "not found" means here.
    """
    try:
        yield
    except api.NotFound as error:
        what = "bucket" if missing is errors.BucketMissingError else "object, or no such bucket"
        raise missing(f"{address}: there is no such {what}; check the address") from error
    except Exception as error:
        for kinds, ours, reason in _TABLE:
            if isinstance(error, kinds):
                raise ours(f"{address}: {reason}") from error
        if isinstance(error, _REFUSALS):
            raise errors.StorageError(
                f"{address}: Cloud Storage refused: {' '.join(str(error).split())}"
            ) from error
        if isinstance(error, OSError):
            raise errors.disk_error(error, address) from error
        raise


def same(path: Path, blob: storage.Blob) -> bool:
    """Tells whether a file exists and has the content of an object whose size and CRC32C are
    known.
    """
    if not path.is_file() or path.stat().st_size != blob.size:
        return False
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        for _ in checksum.consume(file, 1 << 20):
            pass
    return base64.b64encode(checksum.digest()).decode() == blob.crc32c


def client() -> storage.Client:
    """Makes a storage client; use it in a `with`.

    Raises:
        CredentialsError: there are no credentials.
    """
    with mapped_errors("Cloud Storage"):
        # A project is only needed to make buckets, which nothing here does.
        connection = storage.Client(project=None)
        connection._http.hooks["response"].append(_read_refusal)
        return connection


def _read_refusal(answer: requests.Response, **_: Any) -> None:
    """Reads why a download is refused; the library does so when it tries no longer, and fails where
    that answer is cut.
    """
    if not answer.ok:
        bytes(answer.content)


def list_objects(address: str) -> dict[str, storage.Blob]:
    """Lists the objects below an address, at any depth.

    Returns:
        Name relative to the address, where a slash at the end marks a folder, to what is known of
            the object: its size,
        CRC32C, when it was written by the service's clock, and by whom.

    Raises:
        StorageError: as `mapped_errors` says.
    """
    with _bucket(address) as (bucket, prefix):
        return _blobs(bucket, prefix)


def list_names(address: str) -> list[str]:
    """Gives the sorted names of `list_objects`."""
    return sorted(list_objects(address))


def list_folders(address: str) -> list[str]:
    """Lists what an address has one step below it that has something below itself.

    Raises:
        StorageError: as `mapped_errors` says.
    """
    with _bucket(address) as (bucket, prefix):
        start = _join(prefix, "")
        listed = bucket.list_blobs(
            prefix=start, delimiter="/", fields="prefixes,nextPageToken", **CALL
        )
        # They are known when every page has been read.
        list(listed)
        return sorted(name.removeprefix(start).rstrip("/") for name in listed.prefixes)


def read(address: str) -> tuple[bytes, int]:
    """Reads one object.

    Returns:
        Its content and its generation; empty and 0 where it does not exist.
    """
    with _bucket(address) as (bucket, name):
        blob = bucket.blob(name)
        try:
            # The answer's headers carry the generation of just this content.
            return blob.download_as_bytes(checksum="crc32c", **CALL), blob.generation
        except api.NotFound:
            # So says a missing bucket too: listing raises then.
            list(bucket.list_blobs(prefix=name, max_results=1, **CALL))
            return b"", 0


def write(address: str, content: bytes, generation: int, writer: str = "") -> int:
    """Writes one object if it is still the one that was read.

    Args:
        address: of the object.
        content: its new content.
        generation: of the object that is to be replaced; 0 where there must be none.
        writer: names who writes, for `writer_of`; whoever gives the same name writes the same.

    Returns:
        Its new generation; 0 where it was not written, as its generation is another one by now.
    """
    with _bucket(address) as (bucket, name):
        blob = bucket.blob(name)
        writer = writer or uuid.uuid4().hex
        blob.metadata = {"writer": writer}
        try:
            blob.upload_from_string(
                content, if_generation_match=generation, checksum="crc32c", **CALL
            )
        except api.PreconditionFailed:
            # An attempt whose answer was lost, and that was made again, meets its own object.
            with suppress(api.NotFound):
                blob.reload(**CALL)
                if writer_of(blob) == writer:
                    return blob.generation
            return 0
        return blob.generation


def writer_of(blob: storage.Blob) -> str | None:
    """Says who has written an object with `write`."""
    return (blob.metadata or {}).get("writer")


def upload_folder(folder: Path, address: str, *, last: Sequence[str] = ()) -> int:
    """Makes every file of a folder an object below an address; what is there with the same content
    stays.

    Args:
        folder: where the files lie.
        address: where to.
        last: endings of names: those of the first are sent when all others are there, then those of
            the second, and so on.

    Returns:
        How many files were sent.

    Raises:
        StorageError: as `mapped_errors` says.
    """
    with _bucket(address) as (bucket, prefix):
        there = _blobs(bucket, prefix)
        turns: list[dict[Path, storage.Blob]] = [{} for _ in ("", *last)]
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not (name in there and same(path, there[name])):
                turn = next((n for n, end in enumerate(last, 1) if name.endswith(end)), 0)
                turns[turn][path] = bucket.blob(_join(prefix, name))
        for sent in turns:
            _in_threads(_send, sent, sent.values())
        return sum(map(len, turns))


def upload_new(files: Mapping[str, Path], address: str) -> None:
    """Makes files objects below an address that has none of these names yet.

    Args:
        files: names relative to the address, and where each file lies.
        address: where to.

    Raises:
        ConflictError: an object of that name and of other content is there.
        StorageError: as `mapped_errors` says.
    """
    with _bucket(address) as (bucket, prefix):
        blobs = [bucket.blob(_join(prefix, name)) for name in files]
        _in_threads(_send_new, files.values(), blobs)


def copy_new(source: str, target: str, generation: int | None = None) -> bool:
    """Copies an object inside a bucket, on the service's side and as one step, to where there is
    none yet.

    Args:
        source: its address.
        target: where to.
        generation: of the source; None: any.

    Returns:
        Whether it was copied; false where the source does not exist.

    Raises:
        ConflictError: an object with other content is there.
        StorageError: as `mapped_errors` says.
    """
    with _bucket(source) as (bucket, name):
        blob = bucket.blob(name)
        copy = bucket.blob(parse_address(target)[1])
        try:
            bucket.copy_blob(
                blob,
                bucket,
                copy.name,
                if_generation_match=0,
                source_generation=generation,
                **CALL,
            )
        except api.NotFound:
            return False
        except api.PreconditionFailed as error:
            # As in upload_new: the copy may be one whose answer was lost.
            for one in (blob, copy):
                one.reload(**CALL)
            if (copy.size, copy.crc32c) != (blob.size, blob.crc32c):
                raise _taken(copy) from error
        return True


def delete(names: Collection[str], address: str) -> None:
    """Deletes objects, one after the other; those that are gone already do not matter.

    Args:
        names: relative to the address, in the order of their deletion.
        address: where they are.

    Raises:
        StorageError: as `mapped_errors` says.
    """
    if names:
        with _bucket(address) as (bucket, prefix):
            blobs = [bucket.blob(_join(prefix, name)) for name in names]
            bucket.delete_blobs(blobs, on_error=lambda _: None, **CALL)


def download_folder(address: str, folder: Path, *, suffixes: Collection[str] | None = None) -> int:
    """Makes every object below an address a file in a folder; one that is there with the same
    content stays.

    A file appears under its name only when it is whole, so that an interrupted download goes on
    where it stopped.

    Args:
        address: where from.
        folder: where to; made if missing.
        suffixes: lower-case endings, such as ``.jpg``, of the names that are wanted; None for all.

    Returns:
        How many of the objects the folder now has.

    Raises:
        UnsafeNameError: an object's name leads out of the folder; nothing is downloaded.
        StorageError: as `mapped_errors` says.
    """
    with _bucket(address) as (bucket, prefix):
        wanted = {
            _target(folder, name): blob
            for name, blob in _blobs(bucket, prefix).items()
            # Names with a slash at the end mark empty folders.
            if not name.endswith("/")
            and (suffixes is None or name.lower().endswith(tuple(suffixes)))
        }
        folder.mkdir(parents=True, exist_ok=True)
        _in_threads(partial(_fetch, folder), wanted.values(), wanted)
        return len(wanted)


def download_file(address: str, path: Path) -> None:
    """Downloads one object, as `download_files` does."""
    download_files({address: path})


def download_files(files: Mapping[str, Path]) -> None:
    """Downloads objects; a file appears, or is replaced, only when it is whole, and one that is
    there with the same content stays.

    Args:
        files: where to, by address.

    Raises:
        ObjectMissingError: there is no such object, or no such bucket.
        StorageError: as `mapped_errors` says.
    """
    if files:
        with client() as connection:
            _in_threads(partial(_fetch_file, connection), files, files.values())


def _fetch_file(connection: storage.Client, address: str, path: Path) -> None:
    bucket, name = parse_address(address)
    with mapped_errors(address, errors.ObjectMissingError):
        blob = connection.bucket(bucket).blob(name)
        if path.exists():
            blob.reload(**CALL)
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(path.parent, blob, path)


@contextmanager
def _bucket(
    address: str, missing: type[errors.StorageError] = errors.BucketMissingError
) -> Iterator[tuple[storage.Bucket, str]]:
    """Opens the bucket of an address; gives it and the prefix, and maps what goes wrong
    meanwhile.
    """
    name, prefix = parse_address(address)
    with mapped_errors(address, missing), client() as connection:
        yield connection.bucket(name), prefix


def _blobs(bucket: storage.Bucket, prefix: str) -> dict[str, storage.Blob]:
    """Lists the objects below a prefix, by their relative names."""
    start = _join(prefix, "")
    listed = bucket.list_blobs(
        prefix=start, fields="items(name,size,crc32c,updated,metadata),nextPageToken", **CALL
    )
    return {blob.name.removeprefix(start): blob for blob in listed}


def _taken(blob: storage.Blob) -> errors.ConflictError:
    address = f"{BUCKET_SCHEME}{blob.bucket.name}/{blob.name}"
    return errors.ConflictError(
        f"{address} is there already, with other content: nothing was replaced"
    )


def _join(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


def _in_threads(work: Callable[..., None], *columns: Iterable[Any]) -> None:
    """Calls a function with each row of the columns; the first failure cancels what has not
    begun.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(work, *columns):
            pass


def _send(path: Path, blob: storage.Blob, **precondition: int) -> None:
    blob.upload_from_filename(str(path), checksum="crc32c", **precondition, **CALL)


def _send_new(path: Path, blob: storage.Blob) -> None:
    try:
        _send(path, blob, if_generation_match=0)
    except api.PreconditionFailed as error:
        # An attempt whose answer was lost, and that was made again, meets its own object.
        blob.reload(**CALL)
        if not same(path, blob):
            raise _taken(blob) from error


def _target(folder: Path, name: str) -> Path:
    target = folder / name
    if not target.resolve().is_relative_to(folder.resolve()):
        raise errors.UnsafeNameError(
            f"the object {name!r} would be written outside of {folder}: rename it in the bucket"
        )
    return target


def _fetch(folder: Path, blob: storage.Blob, target: Path) -> None:
    """Makes an object a file, which comes to be below `folder` until it is whole."""
    if blob.crc32c is not None and same(target, blob):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as staging:
        arriving = Path(staging, "file")
        blob.download_to_filename(str(arriving), checksum="crc32c", **CALL)
        arriving.replace(target)
