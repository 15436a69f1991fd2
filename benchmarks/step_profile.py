"""Where the time of a training step goes, by operation, beside what the machine's matrix
multiplication allows.

  python -m benchmarks.step_profile

Random pictures: what is in them makes no difference to how long they take.
"""

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measurement import define_output, record
from whisker_ml import cli

_VARIANTS = ("plain", "preprocessed")
_SIZE, _BATCH, _STEPS, _SHOWN = 160, 32, 12, 12
_MATRIX = 2048


def main() -> None:
    """Entry point."""
    define_output("step_profile")
    cli.run(_profile)


def _profile(_: Sequence[str]) -> None:
    cli.import_tensorflow()
    multiplications = {
        precision: _multiplications_per_s(precision) for precision in ("float32", "bfloat16")
    }
    steps = [
        _step(variant, precision, multiplications)
        for variant in _VARIANTS
        for precision in ("float32", "mixed_bfloat16")
    ]
    record(
        f"one training step on {_BATCH} pictures of {_SIZE} pixels: milliseconds, and those of the"
        " operations that take longest (they overlap: several run at a time); limit: the step's"
        f" convolutions and dense layers at the speed of a {_MATRIX} x {_MATRIX} matrix product",
        show=["matrix_product_gflops", "steps"],
        matrix_product_gflops={
            precision: rate / 1e9 for precision, rate in multiplications.items()
        },
        steps=steps,
    )


def _multiplications_per_s(precision: str) -> float:
    """Floating-point operations a second of a large matrix product; the best of several."""
    import tensorflow as tf

    matrix = tf.cast(tf.random.normal([_MATRIX, _MATRIX]), precision)
    multiply = tf.function(lambda one: one @ one)
    multiply(matrix)
    return 2 * _MATRIX**3 / min(_seconds(lambda: multiply(matrix).numpy()) for _ in range(8))


def _step(variant: str, precision: str, multiplications: dict[str, float]) -> dict[str, Any]:
    import keras
    import numpy as np
    import tensorflow as tf

    from trainer.training.loop import Loop
    from trainer.variants.models import build
    from trainer.variants.objective import Objective

    keras.utils.set_random_seed(0)
    model = build(variant, _SIZE, Objective(2), seed=0, precision=precision)
    loop = Loop(model, Objective(2), keras.optimizers.Adam(), tf.distribute.get_strategy())
    generator = np.random.default_rng(0)
    count = _BATCH * _STEPS
    pictures = (
        generator.integers(0, 256, (count, _SIZE, _SIZE, 3)).astype(np.uint8),
        (np.arange(count) % 2).astype(np.int32),
        np.ones(count, np.float32),
    )
    batches = tf.data.Dataset.from_tensor_slices(pictures).batch(_BATCH).cache().prefetch(2)
    passes = [_seconds(lambda: list(loop.train(batches))) for _ in range(6)]
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        list(loop.train(batches))
        tf.profiler.experimental.stop()
        operations: dict[str, float] = defaultdict(float)
        for name, milliseconds in _operations(Path(folder)):
            operations[name] += milliseconds / _STEPS
    slowest = sorted(operations.items(), key=lambda pair: -pair[1])[:_SHOWN]
    best = min(passes)
    limit = _operations_per_step(model) / multiplications[precision.removeprefix("mixed_")]
    return {
        "variant": variant,
        "precision": precision,
        "step_ms": best / _STEPS * 1e3,
        "images_per_second": count / best,
        "limit_ms": limit * 1e3,
        "operations_ms": {name: round(milliseconds, 2) for name, milliseconds in slowest},
    }


def _operations(folder: Path) -> Iterator[tuple[str, float]]:
    """Name (layer and kind) and milliseconds of every operation that a profile has seen."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (file,) = folder.rglob("*.xplane.pb")
    for plane in xplane_pb2.XSpace.FromString(file.read_bytes()).planes:
        for event in (event for line in plane.lines for event in line.events):
            name = plane.event_metadata[event.metadata_id].name
            if name.startswith("while/body/"):
                path, _, kind = name.rpartition(":")
                parts, prefix = path.split("/")[-2:], ""
                if "gradient_tape" in path:
                    parts, prefix = path.split("/")[-3:], "gradient, "
                yield f"{prefix}{'/'.join(parts)}: {kind}", event.duration_ps / 1e9


def _operations_per_step(model: Any) -> float:
    """Floating-point operations of a step's convolutions and dense layers, forwards and
    backwards.
    """
    import keras

    kinds = keras.layers.Conv2D | keras.layers.Dense
    layers = [layer for layer in model.layers if isinstance(layer, kinds)]
    # A multiplication and an addition for each weight at each position.
    forwards = [
        2 * _BATCH * math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
        for layer in layers
    ]
    # Backwards by the kernel, and by the input, which for the first layer nobody asks.
    return 3.0 * sum(forwards) - forwards[0]


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
