"""Answering one picture a request: this server, an empty gRPC echo, the model in a loop, and what
people write instead.

  make .venv-bench/installed
  python -m benchmarks.bench_serving

Everything is started once and kept; what is not being measured is stopped (SIGSTOP). See
`benchmarks.load` for how time is taken, and `benchmarks.peers` for the other servers.
"""

import contextlib
import json
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

from benchmarks import machine
from benchmarks.serving_peers import MEASURED, OURS, PEERS, Loop, RunningServer, Server, servers_of
from trainer.run_folder import commit
from whisker_ml import cli
from whisker_ml.errors import WhiskerError

RESULTS = Path(__file__).parent / "results" / "serving.json"
PEERS_PYTHON = Path(__file__).parents[1] / ".venv-bench" / "bin" / "python"
# What the model alone costs as each of ours calls it: the fastest of these counts.
LOOPS = {
    "whisker": ("model_in_a_loop",),
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
    cli.define("output", str(RESULTS), "JSON file to write")
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
    with (
        tempfile.TemporaryDirectory(prefix="whisker-bench-") as name,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        pictures = folder / "pictures"
        pictures.mkdir()
        for number, picture in enumerate(_pictures(options.data)):
            (pictures / f"{number:03d}").write_bytes(picture)
        versions = folder / "models"
        versions.mkdir()
        if options.model:
            (versions / "1").symlink_to(Path(options.model).expanduser().resolve())
        else:
            _export(versions / "1")
        servers = servers_of(folder, versions, options.peers_python)
        measurements = _start(
            stack,
            [*OURS[:1], *(server for server in servers if server in options.contenders)],
            servers,
            folder,
        )
        rows = []
        for repeat in range(options.repeats):
            for concurrency in map(int, options.concurrency):
                # In turn, and each first as often as last: a machine that slows down hits all.
                for contender in measurements if repeat % 2 == 0 else reversed(measurements):
                    found = measurements[contender](concurrency, options.count, options.seconds)
                    rows.append(
                        {
                            "repeat": repeat,
                            "contender": contender,
                            "concurrency": concurrency,
                            **found,
                        }
                    )
                    print(rows[-1], flush=True)
        sizes = sorted(path.stat().st_size for path in pictures.iterdir())
    measured = machine.write(
        Path(options.output),
        "one picture a request, by clients that ask again as soon as they are answered, in a"
        " process of their own on the same machine: requests per second, milliseconds of the median"
        " and of the 99th in a hundred, and milliseconds of processor time per request in server"
        " and client. targets: see compare in bench_serving.py",
        f"python -m benchmarks.bench_serving --repeats={options.repeats} --count={options.count}",
        commit=commit(),
        pictures={
            "count": len(sizes),
            "median_bytes": median(sizes),
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
        contenders={name: _LOOPS_SAY.get(name) or servers[name].says for name in measurements},
        summary=summarize(rows),
        targets=compare(rows),
        runs=rows,
    )
    print(json.dumps({name: measured[name] for name in ("summary", "targets")}, indent=1))


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """Gives each measure of each contender over the repeats.

    Args:
        rows: `contender`, `concurrency`, and the measures, of each measurement.

    Returns:
        By contender and concurrency: `per_second` as {`median`, `min`, `max`}, and the medians of
            `p50_ms`, `p99_ms`,
        `server_cpu_ms` (where there is a server) and `client_cpu_ms`.
    """
    found: dict[str, Any] = {}
    for contender, concurrency in dict.fromkeys(
        (row["contender"], row["concurrency"]) for row in rows
    ):
        of_it = [
            row
            for row in rows
            if (row["contender"], row["concurrency"]) == (contender, concurrency)
        ]
        names = [
            name
            for name in ("p50_ms", "p99_ms", "server_cpu_ms", "client_cpu_ms")
            if name in of_it[0]
        ]
        found.setdefault(contender, {})[str(concurrency)] = {
            "per_second": _spread([row["per_second"] for row in of_it]),
            **{name: median(row[name] for row in of_it) for name in names},
        }
    return found


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
    repeats = sorted({row["repeat"] for row in rows})
    concurrencies = sorted({row["concurrency"] for row in rows})

    def speed(contender: str, concurrency: int, repeat: int) -> float:
        return at[contender, concurrency, repeat]["per_second"]

    def possible(ours: str, concurrency: int, repeat: int) -> float:
        model = max(
            speed(loop, concurrency, repeat)
            for loop in LOOPS[ours]
            if (loop, concurrency, repeat) in at
        )
        return 1 / (1 / speed("echo", concurrency, repeat) + 1 / model)

    def overhead(ours: str, repeat: int) -> float:
        request, model, echo = (
            at[one, 1, repeat]["p50_ms"] for one in (ours, LOOPS[ours][0], "echo")
        )
        return (request - model) / echo

    measured = {contender for contender, _, _ in at}
    found: dict[str, Any] = {}
    for ours in (name for name in OURS if name in measured):
        found[ours] = {
            "ahead_of": {
                peer: {
                    str(many): _spread(
                        [speed(ours, many, one) / speed(peer, many, one) for one in repeats]
                    )
                    for many in concurrencies
                }
                for peer in PEERS
                if peer in measured
            }
        }
        if "echo" in measured:
            found[ours]["share_of_possible"] = {
                str(many): _spread(
                    [speed(ours, many, one) / possible(ours, many, one) for one in repeats]
                )
                for many in concurrencies
            }
            if 1 in concurrencies:
                found[ours]["overhead_by_echo"] = _spread([overhead(ours, one) for one in repeats])
    return found


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


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


def _export(folder: Path) -> None:
    cli.import_tensorflow()
    import keras

    from trainer.export.saved_model import export
    from trainer.variants.models import build
    from trainer.variants.objective import Objective

    keras.utils.set_random_seed(0)
    head = Objective(2)
    export(build("transfer", _SIZE, head, seed=0), head, ["cats", "dogs"], _SIZE, folder)


def _start(
    stack: contextlib.ExitStack, names: Sequence[str], servers: Mapping[str, Server], folder: Path
) -> dict[str, Callable[[int, int, float], dict[str, float]]]:
    """Starts everything and checks its answers; gives what measures each at a concurrency, a count
    and seconds.
    """
    pictures = folder / "pictures"
    sent = [path.read_bytes() for path in sorted(pictures.iterdir())]
    processors = os.cpu_count() or 1

    def loop(*, xnnpack: bool) -> Loop:
        contender = Loop(folder / "models" / "1", pictures, xnnpack=xnnpack)
        stack.callback(contender.end)
        contender.sleep()
        return contender

    plain = loop(xnnpack=False)
    measurements = {
        "model_in_a_loop": lambda many, count, seconds: plain.measure(
            min(many, processors), 1, count, seconds
        ),
        "model_in_batches": lambda many, count, seconds: plain.measure(
            1, many, max(4, count // many), seconds
        ),
    }
    if "whisker_xnnpack" in names:
        fast = loop(xnnpack=True)
        measurements["xnnpack_in_a_loop"] = lambda many, count, seconds: fast.measure(
            min(many, processors), 1, count, seconds
        )
    for name in dict.fromkeys(names):
        contender = RunningServer(name, servers[name], folder, sent)
        stack.callback(contender.end)
        contender.sleep()
        if name == "whisker":
            (folder / "answer").write_bytes(contender.first)
        _check(name, servers[name].answer(contender.first), plain.first)
        print(f"{name} answers", flush=True)
        measurements[name] = contender.measure
    return measurements


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
