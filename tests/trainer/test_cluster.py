import json
import socket
import threading
import time

import pytest

from trainer.cluster import Cluster, meet, parse
from trainer.errors import ConfigError, WorkersError

TWO = {"worker": ["a:1", "b:2"]}


def tf_config(cluster, kind, index, **more):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index, **more}, **more})


@pytest.mark.parametrize(
    "text", [None, "", "{}", tf_config({"worker": ["a:1"]}, "worker", 0), '{"cluster": {}}']
)
def test_one_task_or_none_is_a_process_alone(text):
    assert parse(text) == Cluster()
    assert (parse(text).count, parse(text).is_chief) == (1, True)


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "expected"),
    [
        (TWO, "worker", 0, 0),
        (TWO, "worker", 1, 1),
        ({"worker": ["b:2"], "chief": ["a:1"]}, "chief", 0, 0),
        ({"worker": ["b:2"], "chief": ["a:1"], "ps": ["c:3"]}, "worker", 0, 1),
    ],
)
def test_chief_comes_first_and_parameter_servers_do_not_count(cluster, kind, index, expected):
    # As Vertex AI sets it, with keys of its own.
    read = parse(tf_config(cluster, kind, index, cloud="", trial="1"))
    assert (read.workers, read.index, read.is_chief) == (("a:1", "b:2"), expected, expected == 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "TF_CONFIG: cannot be read .*; expected .*cluster"),
        ("[]", "TF_CONFIG: cannot be read"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}}', "TF_CONFIG: task is missing; expected"),
        (
            '{"cluster": {"worker": ["a:1", "b"]}, "task": {"type": "worker", "index": 0}}',
            "'b' is no host:port",
        ),
        (
            tf_config(TWO, "worker", 2),
            r"this process is worker 2, which is not among its 2 workers \(worker 0, worker 1",
        ),
        (
            tf_config({**TWO, "ps": ["c:3"]}, "ps", 0),
            "this process is ps 0, which is not among its 2 workers",
        ),
    ],
)
def test_bad_tf_config_is_told_in_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse(text)
    assert "\n" not in str(error.value)


def addresses(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    found = tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    for each in sockets:
        each.close()
    return found


def meet_all(workers, settings, start_s=20.0, disturb=None):
    """What each worker's `meet` ends with: None or the error's text."""
    ends = {}

    def one(index, own):
        try:
            meet(Cluster(workers, index, start_s=start_s), own)
            ends[index] = None
        except WorkersError as error:
            ends[index] = str(error)

    threads = [threading.Thread(target=one, args=item, daemon=True) for item in settings.items()]
    for thread in threads:
        thread.start()
    if disturb:
        disturb(int(workers[0].rpartition(":")[2]))
    for thread in threads:
        thread.join(30)
    return ends


def test_workers_meet_in_any_order():
    assert meet_all(addresses(3), {index: {"seed": 0} for index in (2, 1, 0)}) == {
        0: None,
        1: None,
        2: None,
    }


def test_worker_with_other_settings_ends_all_with_the_setting_named():
    ends = meet_all(addresses(3), {0: {"seed": 0}, 1: {"seed": 0}, 2: {"seed": 1}})
    assert set(ends.values()) == {
        "worker 2 has other settings (seed is 0 at the chief and 1 there); give every worker the"
        " same"
    }


def test_worker_that_never_comes_is_named_within_the_time():
    workers = addresses(3)
    start = time.monotonic()
    ends = meet_all(workers, {0: {}, 1: {}}, start_s=0.5)
    assert time.monotonic() - start < 5
    assert set(ends.values()) == {
        f"worker 2 ({workers[2]}) did not connect within 0.5 s; start the same command on every"
        " machine that TF_CONFIG names"
    }


def test_chief_that_never_comes_is_named_within_the_time():
    workers = addresses(2)
    (text,) = meet_all(workers, {1: {}}, start_s=0.5).values()
    assert text.startswith(f"the chief, worker 0 ({workers[0]}), did not answer within 0.5 s")


@pytest.mark.parametrize(
    "line",
    [
        b'GET / HTTP/1.1\r\n\r\n{"worker": 7}',
        b'{"worker": -1, "settings": {}}',
        b'{"worker": 0, "settings": {}}',
        b'{"worker": "1", "settings": {}}',
        b'{"worker": 1, "settings": 7}',
        b"[" * 60_000,
        b"\xff\xfe",
    ],
)
def test_whoever_else_connects_is_no_worker(line):
    def health_check(port):
        for _ in range(100):
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                    connection.sendall(line + b"\n")
                    return
            except OSError:  # not yet there, or closed in this moment
                time.sleep(0.01)

    assert meet_all(addresses(2), {0: {}, 1: {}}, disturb=health_check) == {0: None, 1: None}


def test_chief_whose_port_is_taken_says_so():
    with socket.create_server(("", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(WorkersError, match=f"{address}: the chief cannot listen there"):
            meet(Cluster((address, "127.0.0.1:1")), {})
