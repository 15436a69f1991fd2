"""What goes wrong with Cloud Storage, in our words: the one table of foreign errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

from serving.store import errors

SIGN_IN = (
    "there are no Google Cloud credentials that work; run gcloud auth application-default login, "
    "or set GOOGLE_APPLICATION_CREDENTIALS to a key file"
)
_OFFLINE = "Cloud Storage does not answer; check the network and try again"

# What the libraries raise → what we raise, and why. The first row that fits counts.
_TABLE: tuple[tuple[tuple[type[Exception], ...], type[errors.StoreError], str], ...] = (
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
    ((api.RetryError, api.ServerError, api.TooManyRequests), errors.UnreachableError, _OFFLINE),
    ((auth.TransportError, auth.TimeoutError), errors.UnreachableError, _OFFLINE),
    (
        (requests.ConnectionError, requests.Timeout, ConnectionError, TimeoutError),
        errors.UnreachableError,
        _OFFLINE,
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
    address: str, missing: type[errors.StoreError] = errors.BucketMissingError
) -> Iterator[None]:
    """Turns what the storage, authentication and HTTP libraries, and the disk, raise inside into a
    StoreError.

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
            raise errors.StoreError(
                f"{address}: Cloud Storage refused: {' '.join(str(error).split())}"
            ) from error
        if isinstance(error, OSError):
            raise errors.disk_error(error, address) from error
        raise
