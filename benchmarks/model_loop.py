"""Calls a SavedModel in a loop, without a server: what any server of it pays for the model alone.

  python -m benchmarks.model_loop --model=folder --requests=folder

Writes label and probability of the first picture as a line of JSON. Then reads lines, {"threads",
"rows", "count", "seconds"}, and answers each with what `load.closed_loop` gives, with `per_second`
in pictures.
"""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.load import closed_loop
from whisker_ml import cli, contract

_OUTPUTS = (contract.OUTPUT_LABEL, contract.OUTPUT_PROBABILITY)


def main() -> None:
    """Entry point."""
    here = sys.argv[0]
    flags.DEFINE_string("model", None, "folder of the SavedModel", required=True, module_name=here)
    flags.DEFINE_string("requests", None, "folder of pictures", required=True, module_name=here)
    flags.DEFINE_bool("xnnpack", False, "as the server's --xnnpack runs it", module_name=here)
    cli.run(_run)


def _run(_: Sequence[str]) -> None:
    cli.import_tensorflow()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # The loader's deprecation notices.
    values = flags.FLAGS
    pictures = [path.read_bytes() for path in sorted(Path(values.requests).iterdir())]
    call = (_xnnpack if values.xnnpack else _signature)(values.model)
    label, probability = call(pictures[:1])
    print(json.dumps([label[0].decode(), float(probability[0])]), flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        rows = wanted["rows"]
        batches = [(pictures * rows)[number : number + rows] for number in range(len(pictures))]
        found = closed_loop([call] * wanted["threads"], batches, wanted["count"], wanted["seconds"])
        print(json.dumps(found | {"per_second": found["per_second"] * rows}), flush=True)


def _signature(model: str) -> Callable[[Sequence[bytes]], Any]:
    import tensorflow as tf

    signature = tf.saved_model.load(model).signatures[contract.SIGNATURE_BYTES]

    def call(pictures: Sequence[bytes]) -> list[Any]:
        answer = signature(**{contract.INPUT_BYTES: tf.constant(pictures)})
        return [answer[name].numpy() for name in _OUTPUTS]

    return call


def _xnnpack(model: str) -> Callable[[Sequence[bytes]], Any]:
    import numpy as np

    from serving.server import loading

    loaded = loading.load(1, model, loading.LoadingOptions(xnnpack=True))
    signature = loaded.signatures[contract.SIGNATURE_BYTES]
    source = signature.inputs[contract.INPUT_BYTES].name
    targets = [signature.outputs[name].name for name in _OUTPUTS]
    return lambda pictures: loaded.run({source: np.array(pictures, object)}, targets, None)


if __name__ == "__main__":
    main()
