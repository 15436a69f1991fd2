"""Whether buckets lie where the job runs: bytes that cross regions are slow, and billed.

Locations of buckets: cloud.google.com/storage/docs/locations, read on 2026-11-22.
"""

from collections.abc import Callable, Iterable

from serving.store import bucket
from serving.store.address import parse_address
from serving.store.bucket_errors import mapped_errors
from serving.store.errors import StoreError
from trainer.errors import ConfigError

# Multi-regions, and how the names of the regions in them begin.
_AREAS = {"US": "us-", "EU": "europe-", "ASIA": "asia-"}


def require_near(addresses: Iterable[str], region: str, say: Callable[[str], None]) -> None:
    """Refuses buckets that are known to be in another region.

    Args:
        addresses: ``gs://…``.
        region: where the job runs.
        say: prints one line; told of what could not be checked.

    Raises:
        ConfigError: a bucket lies elsewhere.
    """
    for name in sorted({parse_address(address)[0] for address in addresses}):
        try:
            location = _location(name)
        except StoreError as error:
            say(f"not checked whether it is near {region}: {error}")
            continue
        if location in _AREAS:
            near = region.startswith(_AREAS[location])
        elif "-" in location:
            near = location.lower() == region
        else:
            say(f"not checked whether it is near {region}: gs://{name} is in {location}, a pair of regions")
            continue
        if not near:
            raise ConfigError(
                f"gs://{name} is in {location} and the job in {region}: every byte between them is billed and slow; "
                f"give --region of the bucket, or a bucket in {region}"
            )


def _location(name: str) -> str:
    with mapped_errors(f"gs://{name}"), bucket.client() as client:
        return client.get_bucket(name, **bucket.CALL).location
