"""LitServe: ``MODEL=folder BATCH=8 python -m benchmarks.peers.litserve_server --port=8000``.

A picture is a file of a form, as LitServe takes no other bodies than those and JSON.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

import litserve

from benchmarks.peers.model import load

# Of LitServe's own benchmark.
_BATCH_TIMEOUT_S = 0.01


class Classifier(litserve.LitAPI):
    """Answers for the pictures of a batch."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Loads the model."""
        self.classify = load(os.environ["MODEL"])

    # Unannotated: LitServe takes an annotation for the schema of a JSON body.
    def decode_request(self, request) -> bytes:
        """Gives the picture of a form."""
        return request["picture"].file.read()

    def predict(self, pictures: Any) -> Any:
        """Gives an answer, or one for each of a batch."""
        return (
            self.classify([pictures])[0] if isinstance(pictures, bytes) else self.classify(pictures)
        )

    def batch(self, inputs: Sequence[bytes]) -> Sequence[bytes]:
        """Pictures are not stacked: their sizes differ."""
        return inputs

    def unbatch(self, output: Sequence[Any]) -> Sequence[Any]:
        """One answer for each."""
        return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    api = Classifier(max_batch_size=int(os.environ["BATCH"]), batch_timeout=_BATCH_TIMEOUT_S)
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(
        host="127.0.0.1",
        port=parser.parse_args().port,
        log_level="warning",
        generate_client_file=False,
    )
