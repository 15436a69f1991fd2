import pytest

from tests.trained_model import logged
from trainer.cloud.send import is_near, require_near
from trainer.errors import ConfigError
from whisker_ml.errors import BucketMissingError


@pytest.mark.parametrize(
    ("location", "region", "near"),
    [
        ("US-CENTRAL1", "us-central1", True),
        ("US-CENTRAL1", "us-east1", False),
        ("US", "us-west4", True),
        ("EU", "europe-west4", True),
        ("EU", "us-central1", False),
        ("ASIA", "asia-east1", True),
        ("NAM4", "us-central1", None),
    ],
)
def test_location_holds_a_region_or_not_or_nobody_knows(location, region, near):
    assert is_near(location, region) is near


def test_bucket_of_the_region_passes_and_one_elsewhere_is_refused(bucket):
    # The emulator's buckets are all in one place.
    with logged() as lines:
        require_near([f"gs://{bucket}/a", f"gs://{bucket}/b"], "us-central1")
    assert lines == []
    with pytest.raises(
        ConfigError, match=f"gs://{bucket} is in US-CENTRAL1 and the job in us-east1: every byte"
    ):
        require_near([f"gs://{bucket}/pictures"], "us-east1")


def test_bucket_that_is_not_there_is_refused(bucket):
    with pytest.raises(BucketMissingError, match="there is no such bucket"):
        require_near([f"gs://{bucket}-gone/pictures"], "us-central1")
