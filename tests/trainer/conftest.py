"""A job service that runs nothing, for whoever sends and watches jobs."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.trainer.cloud.job_service import JobService


@pytest.fixture
def service() -> Iterator[JobService]:
    """A local job service without jobs."""
    with closing(JobService()) as service:
        yield service
