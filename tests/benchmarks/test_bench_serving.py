import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.bench_serving import compare, summarize
from benchmarks.load import closed_loop
from benchmarks.servers import Server

TIMEOUT_S = 300
ROOT = Path(__file__).parents[2]


def row(contender, per_second, p50_ms=1.0, concurrency=1, repeat=0, **more):
    measures = {
        "per_second": per_second,
        "p50_ms": p50_ms,
        "p99_ms": 2 * p50_ms,
        "client_cpu_ms": 0.1,
    }
    return {
        "contender": contender,
        "concurrency": concurrency,
        "repeat": repeat,
        **measures,
        **more,
    }


def test_loop_keeps_every_client_busy_and_measures_as_many_answers_as_asked():
    lock, busy, peak = threading.Lock(), set(), []

    def client(_):
        with lock:
            busy.add(threading.get_ident())
            peak.append(len(busy))
        time.sleep(0.002)
        with lock:
            busy.remove(threading.get_ident())

    found = closed_loop([client] * 4, [0, 1, 2], count=10, seconds=60)
    assert max(peak) == 4
    # Twelve are not measured; beyond the tenth measured one, each other client finishes what it is
    # at.
    assert found["requests"] == 10 and 22 <= found["sent"] <= 25
    assert found["per_second"] == pytest.approx(10 / found["seconds"])
    assert 2.0 <= found["p50_ms"] <= found["p99_ms"]


def test_loop_ends_when_its_time_is_over():
    found = closed_loop([lambda _: time.sleep(0.002)], [None], count=5_000, seconds=0.05)
    assert 2 <= found["requests"] <= 26


def test_loop_with_too_little_time_is_refused():
    with pytest.raises(
        RuntimeError, match=r"^1 answers in 0 s: expected 2 or more; give it more time$"
    ):
        closed_loop([lambda _: None], [None], count=100, seconds=0)


def test_client_that_fails_ends_the_loop_with_its_error():
    def refuse(_):
        raise RuntimeError("answered 503")

    with pytest.raises(RuntimeError, match="^answered 503$"):
        closed_loop([refuse] * 2, [None], count=10, seconds=1)


def test_summary_has_spread_of_speed_and_medians():
    rows = [
        row("whisker", speed, p50, server_cpu_ms=5.0)
        for speed, p50 in ((10.0, 3.0), (30.0, 1.0), (20.0, 2.0))
    ]
    assert summarize([*rows, row("whisker", 80.0, concurrency=8)]) == {
        "whisker": {
            "1": {
                "per_second": {"median": 20.0, "min": 10.0, "max": 30.0},
                "p50_ms": 2.0,
                "p99_ms": 4.0,
                "server_cpu_ms": 5.0,
                "client_cpu_ms": 0.1,
            },
            "8": {
                "per_second": {"median": 80.0, "min": 80.0, "max": 80.0},
                "p50_ms": 1.0,
                "p99_ms": 2.0,
                "client_cpu_ms": 0.1,
            },
        }
    }


def test_comparison_is_with_what_echo_and_the_fastest_loop_allow_and_with_each_peer():
    rows = []
    for repeat, slower in ((0, 1.0), (1, 2.0)):  # A machine that slows down changes no ratio.
        for many, batches in ((1, 10.0), (32, 100.0)):
            speeds = {
                "model_in_a_loop": 50.0,
                "model_in_batches": batches,
                "echo": 400.0,
                "whisker": 40.0,
            }
            speeds |= {
                "whisker_batching": 60.0,
                "fastapi": 10.0,
                "xnnpack_in_a_loop": 400.0,
                "whisker_xnnpack": 100.0,
            }
            times = {"model_in_a_loop": 20.0, "echo": 1.0, "whisker": 21.2}
            rows += [
                row(name, speed / slower, times.get(name, 9.0) * slower, many, repeat)
                for name, speed in speeds.items()
            ]
    found = compare(rows)
    assert found["whisker"]["share_of_possible"]["1"]["median"] == pytest.approx(
        40 * (1 / 400 + 1 / 50)
    )
    assert found["whisker"]["share_of_possible"]["32"]["median"] == pytest.approx(
        40 * (1 / 400 + 1 / 100)
    )
    assert found["whisker_batching"]["share_of_possible"]["1"]["median"] == pytest.approx(
        60 * (1 / 400 + 1 / 50)
    )
    assert found["whisker_batching"]["share_of_possible"]["32"]["median"] == pytest.approx(
        60 * (1 / 400 + 1 / 100)
    )
    assert found["whisker_xnnpack"]["share_of_possible"]["32"]["median"] == pytest.approx(
        100 * (1 / 400 + 1 / 400)
    )
    assert found["whisker"]["overhead_by_echo"] == pytest.approx(
        {"median": 1.2, "min": 1.2, "max": 1.2}
    )
    assert found["whisker"]["ahead_of"] == {
        "fastapi": {many: {"median": 4.0, "min": 4.0, "max": 4.0} for many in ("1", "32")}
    }


def test_answers_of_every_shape_are_read():
    assert Server([], "", "http").answer(b'{"label": "cats", "probability": 0.75}') == (
        "cats",
        0.75,
    )
    assert Server([], "", "http").answer(b'[{"label": "dogs", "probability": 0.5}]') == (
        "dogs",
        0.5,
    )


def test_picture_is_the_body_or_the_file_of_a_form():
    assert Server([], "", "http").request(b"\xff\xd8") == b"\xff\xd8"
    form = Server([], "", "http", "picture")
    boundary = form.content_type.partition("boundary=")[2].encode()
    head, _, rest = form.request(b"\xff\xd8").partition(b"\r\n\r\n")
    assert head.startswith(b"--" + boundary + b"\r\n") and b'name="picture"' in head
    assert rest == b"\xff\xd8\r\n--" + boundary + b"--\r\n"


def test_peers_have_the_tensorflow_of_the_server():
    locks = [(ROOT / "requirements" / name).read_text() for name in ("bench.txt", "run.txt")]
    ours, theirs = (re.findall(r"^tensorflow==\S+", lock, re.MULTILINE) for lock in locks)
    assert ours == theirs and len(ours) == 1


def bench(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_serving", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        (
            "--contenders=echo,nobody",
            r"--contenders=nobody: expected some of whisker, .*, bentoml_batching",
        ),
        (
            "--peers_python=/nowhere/python",
            r"--peers_python=/nowhere/python: there is no such file; run `make"
            r" \.venv-bench/installed` first, or leave "
            r"the peers out: --contenders=whisker,whisker_batching,whisker_xnnpack,echo",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(argument, says):
    ended = bench(argument)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(rf"bench_serving\.py: error: {says}\n", ended.stderr)


@pytest.mark.long
def test_server_and_echo_are_measured_and_written_down(trained, tmp_path):
    output = tmp_path / "serving.json"
    ended = bench(
        f"--model={trained.run / 'export'}",
        f"--data={trained.pictures}",
        "--contenders=echo",
        "--concurrency=1,2",
        "--repeats=1",
        "--count=4",
        f"--output={output}",
    )
    assert ended.returncode == 0, ended.stderr
    measured = json.loads(output.read_text())
    contenders = {"whisker", "echo", "model_in_a_loop", "model_in_batches"}
    assert contenders == set(measured["contenders"]) == set(measured["summary"])
    assert {row["concurrency"] for row in measured["runs"]} == {1, 2}
    assert set(measured["targets"]["whisker"]) == {
        "ahead_of",
        "share_of_possible",
        "overhead_by_echo",
    }
    assert all(
        row["server_cpu_ms"] > 0 for row in measured["runs"] if row["contender"] == "whisker"
    )
