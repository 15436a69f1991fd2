"""Every error that both halves share, the exit codes that go with them, and what a disk refuses."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_DONE = 0
EXIT_DEFECT = 1
EXIT_USAGE = 2
EXIT_GATE_REFUSED = 3
EXIT_SOME_PICTURES_FAILED = 4
# sysexits.h's EX_TEMPFAIL: the same command may succeed when it is given again.
EXIT_AGAIN = 75
EXIT_INTERRUPTED = 130
EXIT_STOPPED = 143


class WhiskerError(Exception):
    """Something the user can fix; its text is one line that says what, where and how.

    Attributes:
        exit_code: what a command exits with when this error ends it.
    """

    exit_code = EXIT_USAGE


class WrongUse(WhiskerError):
    """The command line asks for something that cannot be done."""


class MissingExtra(WhiskerError):
    """A command needs packages that the installed extras do not bring."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package} is not installed: this command needs the extra '{extra}'; "
            f'run pip install ".[{extra}]" in the checkout'
        )


class StorageError(WhiskerError):
    """A folder, a bucket or a store cannot do what was asked."""


class AddressError(StorageError):
    """A gs:// address that cannot be one."""


class ConflictError(StorageError):
    """Somebody else wrote to the same place."""


class BucketMissingError(StorageError):
    """The bucket does not exist."""


class ObjectMissingError(StorageError):
    """The bucket has no such object."""


class PermissionMissingError(StorageError):
    """The bucket forbids this to the credentials in use."""


class CredentialsError(StorageError):
    """There are no credentials, or none that work."""


class UnreachableError(StorageError):
    """The storage service does not answer in time."""


class UnsafeNameError(StorageError):
    """An object's name leads out of the folder that it should go to."""


class DiskError(StorageError):
    """The local disk is full, read-only, or not ours to write."""


_REMEDIES = {
    errno.ENOSPC: "free some space there and try again",
    errno.EDQUOT: "free some space there and try again",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ELOOP: "remove the link",
}


def disk_error(error: OSError, path: str | Path) -> DiskError:
    """Says in one line what the disk refused; `path` is what was worked on, where the error names
    no file.
    """
    # Where two files are named, the second is the one that was to be written.
    place = error.filename2 or error.filename or path
    remedy = _REMEDIES.get(error.errno or 0, "choose another folder")
    return DiskError(f"{place}: {error.strerror or error}: {remedy}")


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turns what the operating system raises inside into a DiskError."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error
