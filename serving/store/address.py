"""Addresses of buckets and of what lies in them: gs://bucket/prefix."""

import re

from serving.contract import BUCKET_SCHEME
from serving.store.errors import AddressError

# https://cloud.google.com/storage/docs/buckets#naming
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


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
            f"{address} is no address in a bucket: expected gs://bucket or gs://bucket/prefix"
        )
    return bucket, prefix.strip("/")
