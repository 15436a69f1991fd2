"""One way to ask a model, in a process of its own: what it costs until it is ready, and for each
request.

  python -m benchmarks.client_peers --side=whisker --address=127.0.0.1:8500

Nothing is imported before the clock runs but what Python itself starts with, absl and this file:
nothing of Whisker, whose names (`whisker_ml.contract`) are spelled out.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

PICTURE_BYTES = 20_000  # of a JPEG of everyday size; the server decodes nothing
PIXELS = (1, 160, 160, 3)
_WARM_UP = 50  # requests that are not measured
_TIMEOUT_S = 30.0

# Asks once, and gives the label and the probabilities.
Ask = Callable[[Any], tuple[str, list[float]]]
# Of one side: about a picture's bytes, about pixels.
Asks = tuple[Ask, Ask]


def whisker(address: str) -> Asks:
    """The client of this project."""
    from serving.client.predict_client import PredictClient

    client = PredictClient(address, timeout_s=_TIMEOUT_S)

    def of_bytes(data: bytes) -> tuple[str, list[float]]:
        found = client.predict(data)
        return found.label, list(found.probabilities.values())

    def of_pixels(pixels: Any) -> tuple[str, list[float]]:
        found = client.predict_raw({"pixels": pixels}, signature="pixels")
        return found["label"][0].decode(), list(found["probabilities"][0])

    return of_bytes, of_pixels


def tensorflow_serving_api(address: str) -> Asks:
    """TensorFlow Serving's own package, as its examples use it: a stub, make_tensor_proto and
    make_ndarray.
    """
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address))

    def ask(signature: str, name: str, value: Any) -> tuple[str, list[float]]:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "whisker"
        request.model_spec.signature_name = signature
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        outputs = stub.Predict(request, _TIMEOUT_S).outputs
        # What an answer of `PredictClient` holds.
        names = (
            "label",
            "probability",
            "probabilities",
            "valid",
        )
        label, _, probabilities, _ = (tf.make_ndarray(outputs[name]) for name in names)
        return label[0].decode(), probabilities[0].tolist()

    return (
        lambda data: ask("serving_default", "image_bytes", [data]),
        lambda pixels: ask("pixels", "pixels", pixels),
    )


def rest(address: str) -> Asks:
    """The REST API with the standard library alone."""
    import base64
    import urllib.request

    url = f"http://{address}/v1/models/whisker:predict"

    def ask(body: dict[str, Any]) -> tuple[str, list[float]]:
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=_TIMEOUT_S) as response:
            (found,) = json.load(response)["predictions"]
        return found["label"], found["probabilities"]

    return (
        lambda data: ask(
            {"instances": [{"image_bytes": {"b64": base64.b64encode(data).decode()}}]}
        ),
        lambda pixels: ask({"signature_name": "pixels", "instances": pixels.tolist()}),
    )


PEERS: dict[str, Callable[[str], Asks]] = {
    "whisker": whisker,
    "tensorflow_serving_api": tensorflow_serving_api,
    "rest": rest,
}


def main() -> None:
    """Entry point."""
    flags.DEFINE_enum("side", None, list(PEERS), "who asks", required=True)
    flags.DEFINE_string("address", None, "host:port of the server", required=True)
    flags.DEFINE_integer("count", 500, "requests to measure of each kind", lower_bound=1)
    app.run(_run)


def _run(_: Sequence[str]) -> None:
    values = flags.FLAGS
    before = _resident_mb()
    start = time.perf_counter()
    of_bytes, of_pixels = PEERS[values.side](values.address)
    found = {
        "import_s": time.perf_counter() - start,
        "memory_mb": _resident_mb(),
        "python_memory_mb": before,
    }
    found["bytes_cpu_ms"] = _cpu_ms(of_bytes, os.urandom(PICTURE_BYTES), values.count)

    import numpy as np

    pixels = np.random.default_rng(0).uniform(0, 255, PIXELS).astype(np.float32)
    found["pixels_cpu_ms"] = _cpu_ms(of_pixels, pixels, values.count)
    print(json.dumps(found))


def _cpu_ms(ask: Ask, value: Any, count: int) -> float:
    for _ in range(_WARM_UP):
        ask(value)
    start = time.process_time()
    for _ in range(count):
        ask(value)
    return (time.process_time() - start) / count * 1e3


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kilobytes) / 1024


if __name__ == "__main__":
    main()
