"""Asks a server about pictures: python examples/ask.py localhost:8500 a.jpg b.jpg."""

import sys

from serving.client.predict_client import PredictClient
from serving.client.protocol import Prediction

server, *pictures = sys.argv[1:]
with PredictClient(server, label="stable") as client:
    for picture, answer in zip(pictures, client.predict_many(pictures), strict=True):
        # A picture that failed has its error as its answer, and costs the others nothing.
        print(
            picture,
            (
                f"{answer.label} {answer.probability:.2f}"
                if isinstance(answer, Prediction)
                else answer
            ),
        )
