"""Does a server answer what was trained? The local server loads the model and is asked about the
whole test set.
"""

import base64
import json
import logging
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.client.errors import ClientError
from serving.client.local_server import LocalServer, LocalServerFailed, local_server
from serving.client.predict_client import PredictClient, Prediction
from trainer.data.ledger import Picture
from trainer.errors import VerificationError
from trainer.export.saved_model import size_bytes
from whisker_ml import contract, storage
from whisker_ml.files import is_address, scratch_folder
from whisker_ml.terminal import progress

logger = logging.getLogger(__name__)

# How far a served probability may be from the trained model's, by the device that computed the
# latter. The server computes on the CPU. Two CPU kernels add up in another order: 2e-7 was
# measured. GPUs from compute capability 8.0 on multiply with 10 bits of mantissa (TF32) unless told
# otherwise; nobody has measured it here yet.
BOUNDS = {"CPU": 1e-5, "GPU": 5e-3}

_NO_GPU = 'device_count { key: "GPU" value: 0 }'
# A record that fails, fails for good.
_AT_ONCE = ("--max_num_load_retries=0", "--file_system_poll_wait_seconds=1")

_OVER_REST = 20
_TIMED = 100
_TIMEOUT_S = 60.0
_LOAD_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Served:
    """A model that the local server has loaded.

    Attributes:
        client: asks it.
        rest_url: answers POST requests about it.
        load_seconds: from when the server could see the version, or was started, if that was
            later, until it was ready, warm-up records replayed.
        size_bytes: of its files.
    """

    client: PredictClient
    rest_url: str
    load_seconds: float
    size_bytes: int


@dataclass(frozen=True)
class Expected:
    """What the trained model says of the test pictures.

    Attributes:
        classes: names in the order of `probabilities`.
        pictures: rows of the ledger, [n].
        read: gives the encoded bytes of one, by its path.
        predicted: class names, [n].
        probabilities: float32 [n, K], 0…1.
        unsure: whether they are not sure, with some slack of the scores below or above the
            thresholds: bool [n].
    """

    classes: Sequence[str]
    pictures: Sequence[Picture]
    read: Callable[[str], bytes]
    predicted: Sequence[str]
    probabilities: np.ndarray
    unsure: Callable[[float], np.ndarray]


@dataclass(eq=False)
class Starting:
    """A server that is on its way, in a process of its own on the CPU, while its model is made.

    Attributes:
        what: it is to serve, for messages.
        fix: what to do where it cannot be served, likewise.
        folder: of the versions that it looks for.
        server: the process.
        path: what it was shown.
        shown: when, by `time.perf_counter`.
    """

    what: str
    fix: str
    folder: Path
    server: LocalServer
    path: str = ""
    shown: float = 0.0

    def show(self, path: str) -> None:
        """Lets the server load a version.

        Args:
            path: folder of the SavedModel, here or in a bucket.

        Raises:
            StorageError: it cannot be fetched from its bucket.
        """
        source = Path(path)
        if is_address(path):
            source = self.folder / "fetched"
            storage.download_folder(path, source)
        self.path, self.shown = path, time.perf_counter()
        (self.folder / "1").symlink_to(source.resolve())

    @contextmanager
    def ready(self) -> Iterator[Served]:
        """Waits until the version is served.

        Raises:
            VerificationError: it cannot be loaded, or a warm-up record fails.
        """
        logger.info("waiting for the local server to load %s", self.what)
        try:
            self.server.wait(_LOAD_TIMEOUT_S)
        except LocalServerFailed as error:
            raise VerificationError(
                f"{self.what}, {self.path}, cannot be served: {error}; nothing was published"
                f"{self.fix}"
            ) from error
        name, address = contract.DEFAULT_MODEL_NAME, f"localhost:{self.server.port}"
        url = f"http://localhost:{self.server.rest_api_port}/v1/models/{name}:predict"
        load_seconds = time.perf_counter() - self.shown
        with PredictClient(address, name, timeout_s=_TIMEOUT_S) as client:
            yield Served(client, url, load_seconds, size_bytes((self.folder / "1").resolve()))


@contextmanager
def starting(what: str, fix: str = "") -> Iterator[Starting]:
    """Starts a server for the while of a `with` block, and does not wait for it; arguments as
    `Starting` has them.
    """
    with scratch_folder("verify-") as scratch:
        folder, session = scratch / "model", scratch / "session.config"
        folder.mkdir()
        session.write_text(_NO_GPU, encoding="utf-8")
        with local_server(
            model_name=contract.DEFAULT_MODEL_NAME,
            model_base_path=folder,
            start_timeout_s=None,
            extra_flags=(*_AT_ONCE, f"--tensorflow_session_config_file={session}"),
        ) as server:
            yield Starting(what, fix, folder, server)


@contextmanager
def serve(path: str, what: str, fix: str = "") -> Iterator[Served]:
    """Serves one version for the while of a `with` block; arguments and errors as `Starting` has
    them.
    """
    with starting(what, fix) as server:
        server.show(path)
        with server.ready() as served:
            yield served


def ask(served: Served, expected: Expected) -> list[Prediction]:
    """Asks a model about every test picture, as raw bytes over gRPC.

    Raises:
        VerificationError: a picture gets no answer.
    """
    answers = []
    encoded = (expected.read(picture.path) for picture in expected.pictures)
    asked = progress(expected.pictures, desc="asking the server", unit=" pictures")
    for picture, answer in zip(asked, served.client.predict_many(encoded), strict=True):
        if isinstance(answer, ClientError):
            raise VerificationError(
                f"{picture.path}: the served model does not answer: {answer}; nothing was published"
            )
        answers.append(answer)
    return answers


def latencies(models: Sequence[Served], expected: Expected) -> list[np.ndarray]:
    """Times single requests, to several models in turn, so that whatever else the machine does hits
    them alike.

    Returns:
        For each model, milliseconds of each request, [n]: of the first 100 test pictures, if there
        are as many.
    """
    took_ms: list[list[float]] = [[] for _ in models]
    for picture in expected.pictures[:_TIMED]:
        encoded = expected.read(picture.path)
        for served, times in zip(models, took_ms, strict=True):
            start = time.perf_counter()
            served.client.predict(encoded)
            times.append(1000 * (time.perf_counter() - start))
    return [np.array(times) for times in took_ms]


def verify(
    served: Served, expected: Expected, device: str
) -> tuple[list[Prediction], dict[str, Any]]:
    """Compares the served model's answers with the trained one's.

    Args:
        served: the model that is to be published.
        expected: what it is to answer.
        device: kind of device that computed this: CPU or GPU.

    Returns:
        The answers, [n]; and `n`, `bound`, `largest_difference` of probabilities, `flips` (other
        labels, which only pictures may have whose two probabilities are nearer than the bound), the
        same `over_rest` of a sample, `latency_ms` (`p50`, `p99` and over how many `calls`),
        `size_bytes` and `load_seconds`.

    Raises:
        VerificationError: they differ; one line says where and by how much.
    """
    bound = BOUNDS[device]
    answers = ask(served, expected)
    over_grpc = _difference(
        [(answer.label, answer.probabilities) for answer in answers], expected, bound, "over gRPC"
    )
    unsure = np.array([answer.unsure for answer in answers])
    # Within the bound of a threshold, rounding may decide whether an answer is sure.
    other = (unsure & ~expected.unsure(-bound)) | (~unsure & expected.unsure(bound))
    if other.any():
        raise VerificationError(
            f"the served model is unsure of other pictures than the trained model: {other.sum():,}"
            f" of {len(unsure):,}, such as {expected.pictures[int(other.argmax())].path}; nothing"
            " was published"
        )
    sample = [expected.read(picture.path) for picture in expected.pictures[:_OVER_REST]]
    over_rest = _difference(_over_rest(served.rest_url, sample), expected, bound, "over REST")
    (took_ms,) = latencies([served], expected)
    return answers, {
        "bound": bound,
        **over_grpc,
        "over_rest": over_rest,
        "latency_ms": {
            "p50": float(np.quantile(took_ms, 0.5)),
            "p99": float(np.quantile(took_ms, 0.99)),
            "calls": len(took_ms),
        },
        "size_bytes": served.size_bytes,
        "load_seconds": served.load_seconds,
    }


# Label, and probabilities by class in the model's order.
_Answer = tuple[str, Mapping[str, float]]


def _difference(
    answers: Sequence[_Answer], expected: Expected, bound: float, way: str
) -> dict[str, Any]:
    """Holds the answers about the first pictures to the bound."""
    n = len(answers)
    if other := [found for _, found in answers if tuple(found) != tuple(expected.classes)]:
        raise VerificationError(
            "the served model has other classes than the trained one,"
            f" {', '.join(other[0])}; nothing was published"
        )
    probabilities = expected.probabilities[:n]
    differences = np.abs(np.array([list(found.values()) for _, found in answers]) - probabilities)
    # Numbers of the classes that are answered, and that were to be.
    answered, before = (
        np.array(list(map(list(expected.classes).index, labels)))
        for labels in ([label for label, _ in answers], expected.predicted[:n])
    )
    rows, flips = np.arange(n), int((answered != before).sum())
    apart = np.abs(probabilities[rows, answered] - probabilities[rows, before])
    wrong = ~(differences.max(axis=1) <= bound) | (apart > bound)
    if wrong.any():
        raise VerificationError(
            f"the served model answers differently from the trained model: {way}, {wrong.sum():,}"
            f" of {n:,} test pictures differ, such as"
            f" {expected.pictures[int(wrong.argmax())].path}; by up to {differences.max():.2g} in"
            f" probability (at most {bound:g} is rounding), {flips:,} in label; nothing was"
            " published"
        )
    return {"n": n, "largest_difference": float(differences.max()), "flips": flips}


def _over_rest(url: str, pictures: Sequence[bytes]) -> list[_Answer]:
    instances = [{"b64": base64.b64encode(picture).decode("ascii")} for picture in pictures]
    request = urllib.request.Request(url, json.dumps({"instances": instances}).encode())  # noqa: S310
    classes, probabilities = contract.OUTPUT_CLASSES, contract.OUTPUT_PROBABILITIES
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            return [
                (
                    row[contract.OUTPUT_LABEL],
                    dict(zip(row[classes], row[probabilities], strict=True)),
                )
                for row in json.load(answer)["predictions"]
            ]
    except (OSError, ValueError, KeyError) as error:
        raise VerificationError(
            f"the served model does not answer over REST: {error}; nothing was published"
        ) from error
