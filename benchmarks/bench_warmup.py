"""How long the first request to a freshly loaded version takes, with and without its warm-up
records.

python -m benchmarks.bench_warmup --export=runs/…/export --picture=cat.jpg
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from absl import flags

from benchmarks.measurement import define_output, environment, in_turn, record, spread
from serving.client.local_server import local_server
from serving.client.predict_client import PredictClient
from whisker_ml import cli, contract

_LATER = 20
_TIMEOUT_S = 60.0


def main() -> None:
    """Entry point of `python -m benchmarks.bench_warmup`."""
    cli.define("export", None, "SavedModel with warm-up records: export/ of a run", required=True)
    cli.define("picture", None, "encoded picture to ask about", required=True)
    cli.define("repeats", 5, "servers to start, with and without", minimum=1)
    define_output("warmup")
    cli.run(_measure)


def _measure(_: Sequence[str]) -> None:
    picture = Path(flags.FLAGS.picture).read_bytes()
    export = Path(flags.FLAGS.export)
    runs: dict[str, list[dict[str, float]]] = {"with": [], "without": []}
    for _repeat, name in in_turn(runs, flags.FLAGS.repeats):
        runs[name].append(_ask(export, picture, warm=name == "with"))
    config = json.loads((export.parent / "config.json").read_text())
    record(
        "milliseconds of the first request with one picture to a freshly loaded version, of the"
        f" later ones (median of {_LATER}), and seconds from the start of the server's process"
        " until it is ready; with and without warm-up records, in turn",
        ["repeats"],
        [*runs],
        environment=environment(export.parent),
        config={name: config[name] for name in ("variant", "image_size")},
        **{
            name: {measure: spread([run[measure] for run in found]) for measure in found[0]}
            for name, found in runs.items()
        },
    )


def _ask(export: Path, picture: bytes, *, warm: bool) -> dict[str, float]:
    with TemporaryDirectory() as scratch:
        Path(scratch, "1").symlink_to(export.resolve())
        start = time.perf_counter()
        with local_server(
            model_name=contract.DEFAULT_MODEL_NAME,
            model_base_path=scratch,
            extra_flags=[f"--enable_model_warmup={str(warm).lower()}"],
        ) as server:
            ready_s = time.perf_counter() - start
            with PredictClient(f"localhost:{server.port}", timeout_s=_TIMEOUT_S) as client:
                # The connection is made before the clock runs.
                client.wait_until_ready(_TIMEOUT_S)
                took_ms = []
                for _ in range(1 + _LATER):
                    start = time.perf_counter()
                    client.predict(picture)
                    took_ms.append(1000 * (time.perf_counter() - start))
    return {"first_ms": took_ms[0], "later_ms": median(took_ms[1:]), "ready_seconds": ready_s}


if __name__ == "__main__":
    main()
