"""What can go wrong between Whisker and the place where models, pictures and runs lie."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.errors import WhiskerError


class StoreError(WhiskerError):
    """A store, bucket or folder cannot do what was asked."""


class AddressError(StoreError):
    """A gs:// address that cannot be one."""


class NotASavedModelError(StoreError):
    """What is to be published cannot be served."""


class VersionMissingError(StoreError):
    """A version that the store does not have."""


class ManifestError(StoreError):
    """A whisker.json that cannot be read."""


class DigestError(StoreError):
    """A version is not, byte for byte, what was published."""


class LabelsError(StoreError):
    """The class names that a version records are not those of its model."""


class NumberError(StoreError):
    """A version was published under another number than it has."""


class ConflictError(StoreError):
    """Somebody else wrote to the same place."""


class BucketMissingError(StoreError):
    """The bucket does not exist."""


class ObjectMissingError(StoreError):
    """The bucket has no such object."""


class PermissionMissingError(StoreError):
    """The bucket forbids this to the credentials in use."""


class CredentialsError(StoreError):
    """There are no credentials, or none that work."""


class UnreachableError(StoreError):
    """The storage service does not answer in time."""


class UnsafeNameError(StoreError):
    """An object's name leads out of the folder that it should go to."""


class DiskError(StoreError):
    """The local disk is full, read-only, or not ours to write."""


_CURES = {
    errno.ENOSPC: "free some space there and try again",
    errno.EDQUOT: "free some space there and try again",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
}


def disk_error(error: OSError, path: str | Path) -> DiskError:
    """Says in one line what the disk refused; `path` is what was worked on, where the error names
    no file.
    """
    # Where two files are named, the second is the one that was to be written.
    place = error.filename2 or error.filename or path
    cure = _CURES.get(error.errno or 0, "choose another folder")
    return DiskError(f"{place}: {error.strerror or error}: {cure}")


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turns what the operating system raises inside into a DiskError."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error
