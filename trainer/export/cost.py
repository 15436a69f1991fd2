"""What an exported model costs whoever serves it: bytes on disk, and milliseconds a picture."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import tensorflow as tf

from whisker_ml.contract import EXTRA_FOLDER


def size_bytes(folder: Path) -> int:
    """Size of a SavedModel's files; what travels along in `assets.extra/` is left out."""
    own = (file for file in folder.rglob("*") if file.relative_to(folder).parts[0] != EXTRA_FOLDER)
    return sum(file.stat().st_size for file in own if file.is_file())


def measure(
    folder: Path, answer: Callable[[tf.Tensor], Any], pictures: Sequence[bytes]
) -> dict[str, Any]:
    """Measures one picture a call, in this process: without a server, a network, or others that ask
    meanwhile.

    Args:
        folder: the SavedModel.
        answer: its signature for bytes, string [N].
        pictures: encoded, at least one; the first is asked for once more, to warm up.

    Returns:
        `size_bytes`, the median `latency_ms` of decoding and answering, and over how many `calls`.
    """
    took_ms = []
    for picture in (pictures[0], *pictures):
        start = time.perf_counter()
        answer(tf.constant([picture]))
        took_ms.append(1000 * (time.perf_counter() - start))
    return {
        "size_bytes": size_bytes(folder),
        "latency_ms": median(took_ms[1:]),
        "calls": len(pictures),
    }
