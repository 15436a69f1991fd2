"""BentoML: ``MODEL=folder bentoml serve benchmarks.peers.bentoml_server:Classifier``, or
``:BatchClassifier``.
"""

import os
from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType

from benchmarks.peers.model import load


@bentoml.service
class Classifier:
    """Answers for the picture that is the body of a request."""

    def __init__(self) -> None:
        self.classify = load(os.environ["MODEL"])

    @bentoml.api
    def predict(
        self, picture: Annotated[Path, ContentType("image/jpeg")], /
    ) -> dict[str, str | float]:
        """Answers for one picture."""
        return self.classify([picture.read_bytes()])[0]


@bentoml.service
class BatchClassifier:
    """Answers for the pictures of a batch, each the file of a form."""

    def __init__(self) -> None:
        self.classify = load(os.environ["MODEL"])

    # The numbers of BentoML's page on adaptive batching.
    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)
    def predict(self, pictures: list[Path]) -> list[dict[str, str | float]]:
        """Answers for the pictures of a batch."""
        return self.classify([picture.read_bytes() for picture in pictures])
