"""Answering one picture a request: this server, an empty gRPC echo, the model in a loop, and what
people write instead.

  make .venv-bench/installed
  python -m benchmarks.bench_serving

Everything is started once and kept; what is not being measured is stopped (SIGSTOP). See
`benchmarks.load` for how time is taken, and `benchmarks.serving_peers` for the other servers.
"""

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from absl import flags

from benchmarks.load import closed_loop
from benchmarks.measurement import define_output, in_turn, record, spread
from benchmarks.servers import MEASURED, OURS, PEERS, Running, servers_of
from whisker_ml import cli, contract
from whisker_ml.errors import WhiskerError

PEERS_PYTHON = Path(__file__).parents[1] / ".venv-bench" / "bin" / "python"
# What the model alone costs as each of ours calls it: the fastest of these counts.
LOOPS = {
    "whisker": ("model_in_a_loop", "model_in_batches"),
    "whisker_batching": ("model_in_a_loop", "model_in_batches"),
    "whisker_xnnpack": ("xnnpack_in_a_loop",),
}
_LOOPS_SAY = {
    "model_in_a_loop": (
        "no server: a thread for each client, but no more than processors, calls the model's"
        " signature"
    ),
    "model_in_batches": (
        "no server: one thread calls the signature with as many pictures as there are clients"
    ),
    "xnnpack_in_a_loop": (
        "no server: threads as for model_in_a_loop call what --xnnpack makes of the model"
    ),
}
_SIZE, _PICTURES = 160, 16
# XNNPACK and batches compute in another order.
_TOLERANCE = 1e-3

Row = Mapping[str, Any]
# Measures at a concurrency, a count and seconds.
Measure = Callable[[int, int, float], dict[str, float]]


def main() -> None:
    """Entry point."""
    cli.define("data", None, "folder of pictures; without it, the sample's are drawn")
    cli.define("model", None, "folder of a SavedModel; without it, transfer with random weights")
    cli.define("contenders", list(MEASURED), "what to measure, beside whisker and the loops")
    cli.define("concurrency", ["1", "8", "32"], "clients at a time")
    cli.define("repeats", 5, "measurements of each", minimum=1)
    cli.define("count", 600, "requests of a measurement", minimum=2)
    cli.define("seconds", 10.0, "of a measurement, at most", minimum=0)
    cli.define("peers_python", str(PEERS_PYTHON), "Python that has the other servers")
    define_output("serving")
    cli.run(_run)


def _run(_: Sequence[str]) -> None:
    # Else what was started would outlive this process.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    options = flags.FLAGS
    if unknown := set(options.contenders) - set(MEASURED):
        raise WhiskerError(
            f"--contenders={','.join(sorted(unknown))}: expected some of {', '.join(MEASURED)}"
        )
    peers = [name for name in PEERS if name in options.contenders]
    if peers and not Path(options.peers_python).exists():
        raise WhiskerError(
            f"--peers_python={options.peers_python}: there is no such file; run `make"
            " .venv-bench/installed` first, or leave the peers out:"
            f" --contenders={','.join((*OURS, 'echo'))}"
        )
    pictures = _pictures(options.data)
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="whisker-bench-") as scratch,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(scratch)
        model = folder / "models" / "1"
        model.parent.mkdir()
        if options.model:
            model.symlink_to(Path(options.model).expanduser().resolve())
        else:
            export_model(model)
        servers = servers_of(folder, options.peers_python)
        # Ours is first: the echo gives its answer.
        names = dict.fromkeys(
            ["whisker", *(server for server in servers if server in options.contenders)]
        )
        running = {}
        for name in names:
            running[name] = Running(name, servers[name], folder, pictures)
            stack.callback(running[name].end)
            running[name].signal(signal.SIGSTOP)
            if name == "whisker":
                (folder / "answer").write_bytes(running[name].first)
        loops, expected = _loops(model, pictures, xnnpack="whisker_xnnpack" in names)
        for name, server in running.items():
            _check(name, servers[name].answer(server.first), expected)
            print(f"{name} answers", flush=True)
        measures = loops | {name: server.measure for name, server in running.items()}
        for repeat, contender in in_turn(measures, options.repeats):
            for concurrency in map(int, options.concurrency):
                found = measures[contender](concurrency, options.count, options.seconds)
                measured = {"repeat": repeat, "contender": contender, "concurrency": concurrency}
                rows.append(measured | found)
                print(rows[-1], flush=True)
    record(
        "one picture a request, by clients that ask again as soon as they are answered, in a"
        " process of their own on the same machine: requests per second, milliseconds of the median"
        " and of the 99th in a hundred, and milliseconds of processor time per request in server"
        " and client. targets: see compare in bench_serving.py",
        ["repeats", "count"],
        ["summary", "targets"],
        pictures={
            "count": len(pictures),
            "median_bytes": median(map(len, pictures)),
            "source": "--data" if options.data else "sample",
        },
        model="--model"
        if options.model
        else f"transfer, {_SIZE} pixels, 2 classes, random weights",
        versions={
            "tensorflow": version("tensorflow"),
            "grpcio": version("grpcio"),
            **_versions(peers),
        },
        contenders={name: _LOOPS_SAY.get(name) or servers[name].says for name in measures},
        summary=summarize(rows),
        targets=compare(rows),
        runs=rows,
    )


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """Gives each measure of each contender over the repeats.

    Args:
        rows: `contender`, `concurrency`, and the measures, of each measurement.

    Returns:
        By contender and concurrency: `per_second` as {`median`, `min`, `max`}, and the medians of
        `p50_ms`, `p99_ms`, `server_cpu_ms` (where there is a server) and `client_cpu_ms`.
    """
    grouped: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        of_contender = grouped.setdefault(row["contender"], {})
        of_contender.setdefault(str(row["concurrency"]), []).append(row)
    return {
        contender: {
            concurrency: {"per_second": spread([run["per_second"] for run in runs])}
            | {
                name: median(run[name] for run in runs)
                for name in ("p50_ms", "p99_ms", "server_cpu_ms", "client_cpu_ms")
                if name in runs[0]
            }
            for concurrency, runs in by_concurrency.items()
        }
        for contender, by_concurrency in grouped.items()
    }


def compare(rows: Sequence[Row]) -> dict[str, Any]:
    """Puts each of ours beside echo, model and peers, repeat by repeat.

    Args:
        rows: `repeat`, `contender`, `concurrency`, `per_second` and `p50_ms` of each measurement.

    Returns:
        By name of ours, as {`median`, `min`, `max`} over the repeats: `share_of_possible` by
        concurrency, requests per second over what one echo and one run of the model after the other
        would allow; `overhead_by_echo`, with one client, what the median request takes beyond the
        model's, over the echo's; `ahead_of`, by peer and concurrency, requests per second over the
        peer's. What was not measured is left out.
    """
    at = {(row["contender"], row["concurrency"], row["repeat"]): row for row in rows}
    measured, concurrencies, repeats = ({key[part] for key in at} for part in range(3))

    def by_concurrency(ratio: Callable[[int, int], float]) -> dict[str, dict[str, float]]:
        return {
            str(many): spread([ratio(many, repeat) for repeat in repeats])
            for many in sorted(concurrencies)
        }

    def compared(ours: str) -> dict[str, Any]:
        def ahead(peer: str) -> Callable[[int, int], float]:
            return lambda many, repeat: (
                at[ours, many, repeat]["per_second"] / at[peer, many, repeat]["per_second"]
            )

        def share_of_possible(many: int, repeat: int) -> float:
            loops = (
                at[loop, many, repeat]["per_second"] for loop in LOOPS[ours] if loop in measured
            )
            seconds = 1 / at["echo", many, repeat]["per_second"] + 1 / max(loops)
            return at[ours, many, repeat]["per_second"] * seconds

        def overhead(repeat: int) -> float:
            request, model, echo = (
                at[name, 1, repeat]["p50_ms"] for name in (ours, LOOPS[ours][0], "echo")
            )
            return (request - model) / echo

        peers = (peer for peer in PEERS if peer in measured)
        found: dict[str, Any] = {"ahead_of": {peer: by_concurrency(ahead(peer)) for peer in peers}}
        if "echo" in measured:
            found["share_of_possible"] = by_concurrency(share_of_possible)
            if 1 in concurrencies:
                found["overhead_by_echo"] = spread([overhead(repeat) for repeat in repeats])
        return found

    return {ours: compared(ours) for ours in OURS if ours in measured}


def _pictures(data: str | None) -> list[bytes]:
    if data is None:
        from trainer.data.sample import unseen_pictures

        return [picture for _, picture in unseen_pictures(0, _PICTURES // 2)]
    found = sorted(
        path
        for path in Path(data).expanduser().rglob("*")
        if path.suffix.lower() in (".jpg", ".jpeg")
    )
    if not found:
        raise WhiskerError(f"--data={data}: holds no .jpg files; expected a folder of pictures")
    return [path.read_bytes() for path in found[:: math.ceil(len(found) / _PICTURES)]]


def export_model(folder: Path) -> None:
    """Writes `transfer` with random weights and two classes as a SavedModel."""
    cli.import_tensorflow()
    import keras

    from trainer.export.saved_model import export
    from trainer.variants.models import build
    from trainer.variants.objective import Objective

    keras.utils.set_random_seed(0)
    head = Objective(2)
    export(build("transfer", _SIZE, head, seed=0), head, ["cats", "dogs"], _SIZE, folder)


def _loops(
    model: Path, pictures: Sequence[bytes], *, xnnpack: bool
) -> tuple[dict[str, Measure], tuple[str, float]]:
    """Loads the model; gives what calls it without a server, and its answer to the first picture.
    What any server pays for the model alone.
    """
    cli.import_tensorflow()
    import numpy as np
    import tensorflow as tf

    from serving.server import loading
    from serving.server.flags import Flags

    outputs = (contract.OUTPUT_LABEL, contract.OUTPUT_PROBABILITY)
    signature = tf.saved_model.load(str(model)).signatures[contract.SIGNATURE_BYTES]

    def call(batch: Sequence[bytes]) -> list[Any]:
        answer = signature(**{contract.INPUT_BYTES: tf.constant(batch)})
        return [answer[name].numpy() for name in outputs]

    def threads(function: Callable[[Sequence[bytes]], Any]) -> Measure:
        batches = [[picture] for picture in pictures]
        processors = os.cpu_count() or 1
        return lambda many, *limits: closed_loop(
            [function] * min(many, processors), batches, *limits
        )

    def batches(many: int, count: int, seconds: float) -> dict[str, float]:
        sent = [(list(pictures) * many)[first : first + many] for first in range(len(pictures))]
        found = closed_loop([call], sent, max(4, count // many), seconds)
        return found | {"per_second": found["per_second"] * many}

    found: dict[str, Measure] = {"model_in_a_loop": threads(call), "model_in_batches": batches}
    if xnnpack:
        fast = loading.load(1, str(model), Flags(xnnpack=True))
        described = fast.signatures[contract.SIGNATURE_BYTES]
        source = described.inputs[contract.INPUT_BYTES].name
        targets = [described.outputs[name].name for name in outputs]
        found["xnnpack_in_a_loop"] = threads(
            lambda batch: fast.run({source: np.array(batch, object)}, targets, None)
        )
    (label,), (probability,) = call(pictures[:1])
    return found, (label.decode(), float(probability))


def _check(name: str, found: tuple[str, float], expected: tuple[str, float]) -> None:
    if found[0] != expected[0] or abs(found[1] - expected[1]) > _TOLERANCE:
        raise WhiskerError(
            f"{name} answers {found} for the first picture, expected the model's {expected}"
        )


def _versions(peers: Sequence[str]) -> dict[str, str]:
    if not peers:
        return {}
    packages = sorted({name.partition("_")[0] for name in peers})
    code = f"from importlib.metadata import version\nfor name in {packages}: print(version(name))"
    ended = subprocess.run(
        [flags.FLAGS.peers_python, "-c", code], capture_output=True, text=True, check=True
    )
    return dict(zip(packages, ended.stdout.split(), strict=True))


if __name__ == "__main__":
    main()
