"""--verify_digests: a version is loaded only if it is what was published, and its model names the
classes recorded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np

from serving.server.servable import Servable
from serving.server.status import StatusError
from serving.store import manifest
from serving.store.errors import LabelsError
from whisker_ml.contract import INPUT_BYTES, OUTPUT_CLASSES, SIGNATURE_BYTES
from whisker_ml.errors import StorageError


def verify_files(version: int, path: str) -> None:
    """Compares the files of a version with its manifest.

    Args:
        version: its number.
        path: its local folder.

    Raises:
        StatusError: FAILED_PRECONDITION, with what differs.
    """
    with _refusal():
        manifest.verify(Path(path), version, path)


def verify_classes(loaded: Servable, path: str) -> None:
    """Compares the classes that the model answers with those in its manifest, where both are there.

    Args:
        loaded: the version.
        path: its local folder, which has a manifest.

    Raises:
        StatusError: FAILED_PRECONDITION, with both; or what the model fails with.
    """
    signature = loaded.signatures.get(SIGNATURE_BYTES)
    recorded = manifest.parse(Path(path, manifest.MANIFEST_FILE).read_bytes(), path).get("classes")
    if recorded is None or signature is None or OUTPUT_CLASSES not in signature.outputs:
        return
    # Bytes that are no picture are answered with the classes all the same.
    feeds = {signature.inputs[INPUT_BYTES].name: np.array([b""], object)}
    answered = loaded.run(feeds, [signature.outputs[OUTPUT_CLASSES].name], None)[0]
    names = [name.decode("utf-8", "replace") for name in answered.reshape(-1)]
    with _refusal():
        if names != recorded:
            raise LabelsError(
                f"{path}: the model's classes are {names}, those in {manifest.MANIFEST_FILE} are"
                f" {recorded}: export the model again and publish it"
            )


@contextmanager
def _refusal() -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise StatusError(grpc.StatusCode.FAILED_PRECONDITION, str(error)) from error
