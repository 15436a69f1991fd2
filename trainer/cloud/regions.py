"""Whether buckets lie where the job runs: bytes that cross regions are slow, and billed.

Locations of buckets: cloud.google.com/storage/docs/locations, as of 2026-11-22.
"""

from collections.abc import Callable, Iterable

from trainer.errors import ConfigError
from whisker_ml import storage
from whisker_ml.errors import PermissionMissingError
from whisker_ml.files import parse_address
from whisker_ml.storage import mapped_errors

# Multi-regions, and how the names of the regions in them begin.
_AREAS = {"US": "us-", "EU": "europe-", "ASIA": "asia-"}


def require_near(addresses: Iterable[str], region: str, say: Callable[[str], None]) -> None:
    """Refuses buckets that are not there, or in another region.

    Args:
        addresses: ``gs://…``.
        region: where the job runs.
        say: prints one line; told of what could not be checked.

    Raises:
        ConfigError: a bucket lies elsewhere.
        StorageError: it is not there, or cannot be asked about.
    """
    for name in sorted({parse_address(address)[0] for address in addresses}):
        try:
            with mapped_errors(f"gs://{name}"), storage.client() as client:
                location = client.get_bucket(name, **storage.CALL).location
        except PermissionMissingError as error:
            say(f"not checked whether it is in {region}: {error}")
            continue
        near = is_near(location, region)
        if near is None:
            say(
                f"not checked whether it is in {region}: gs://{name} is in {location}, a pair of"
                " regions"
            )
        elif not near:
            raise ConfigError(
                f"gs://{name} is in {location} and the job in {region}: every byte between them is"
                f" billed and slow; give the bucket's --region, or a bucket in {region}"
            )


def is_near(location: str, region: str) -> bool | None:
    """Tells whether a bucket's location holds a region; None of a pair of regions, whose names are
    not known here.
    """
    if location in _AREAS:
        return region.startswith(_AREAS[location])
    return location.lower() == region if "-" in location else None
