"""The servers that people write instead of ours, each in a process of its own, as `bench_serving`
starts them with the Python of .venv-bench; all call the SavedModel in $MODEL.

  MODEL=folder uvicorn --factory benchmarks.serving_peers:fastapi_app
  MODEL=folder PEER=litserve BATCH=8 python -m benchmarks.serving_peers 8000
  MODEL=folder PEER=bentoml bentoml serve benchmarks.serving_peers:Classifier

BentoML also serves `BatchClassifier`. Nothing of Whisker is in it.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

Answer = dict[str, str | float]

# Of LitServe's own benchmark.
_LITSERVE_BATCH_TIMEOUT_S = 0.01


def load() -> Callable[[Sequence[bytes]], list[Answer]]:
    """Gives the function that every peer calls, from pictures to an answer for each."""
    import tensorflow as tf

    signature = tf.saved_model.load(os.environ["MODEL"]).signatures["serving_default"]

    def classify(pictures: Sequence[bytes]) -> list[Answer]:
        answer = signature(image_bytes=tf.constant(list(pictures)))
        rows = zip(answer["label"].numpy(), answer["probability"].numpy(), strict=True)
        return [
            {"label": label.decode(), "probability": float(probability)}
            for label, probability in rows
        ]

    return classify


def fastapi_app() -> Any:
    """A plain function, which FastAPI runs in its thread pool, on the body as it comes."""
    from fastapi import Body, FastAPI

    app = FastAPI()
    classify = load()

    @app.post("/predict")
    def predict(picture: Annotated[bytes, Body(media_type="image/jpeg")]) -> Answer:
        return classify([picture])[0]

    return app


# LitServe pickles its class for another process, and BentoML looks for its classes in the module
# itself; the others are not to pay for importing them.
PEER = os.environ.get("PEER")
if PEER == "litserve":
    import litserve

    class LitClassifier(litserve.LitAPI):
        """Answers for the pictures of a batch.

        A picture is a file of a form, as LitServe takes no other bodies than those and JSON.
        """

        def setup(self, device: str) -> None:  # noqa: ARG002
            """Loads the model."""
            self.classify = load()

        # Unannotated: LitServe takes an annotation for the schema of a JSON body.
        def decode_request(self, request) -> bytes:  # type: ignore[no-untyped-def]
            """Gives the picture of a form."""
            return request["picture"].file.read()

        def predict(self, pictures: Any) -> Any:
            """Gives an answer, or one for each of a batch."""
            if isinstance(pictures, bytes):
                return self.classify([pictures])[0]
            return self.classify(pictures)

        def batch(self, inputs: Sequence[bytes]) -> Sequence[bytes]:
            """Pictures are not stacked: their sizes differ."""
            return inputs

        def unbatch(self, output: Sequence[Any]) -> Sequence[Any]:
            """One answer for each."""
            return output

elif PEER == "bentoml":
    import bentoml
    from bentoml.validators import ContentType

    @bentoml.service
    class Classifier:
        """Answers for the picture that is the body of a request."""

        def __init__(self) -> None:
            self.classify = load()

        @bentoml.api
        def predict(self, picture: Annotated[Path, ContentType("image/jpeg")], /) -> Answer:
            """Answers for one picture."""
            return self.classify([picture.read_bytes()])[0]

    @bentoml.service
    class BatchClassifier:
        """Answers for the pictures of a batch, each the file of a form."""

        def __init__(self) -> None:
            self.classify = load()

        # The numbers of BentoML's page on adaptive batching.
        @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)
        def predict(self, pictures: list[Path]) -> list[Answer]:
            """Answers for the pictures of a batch."""
            return self.classify([picture.read_bytes() for picture in pictures])


if __name__ == "__main__":
    size = int(os.environ["BATCH"])
    api = LitClassifier(max_batch_size=size, batch_timeout=_LITSERVE_BATCH_TIMEOUT_S)
    litserve.LitServer(api, accelerator="cpu").run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        generate_client_file=False,
    )
