"""Versions come, fail, go live and go back while clients ask: no request fails."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import tensorflow as tf

from serving.client.errors import ClientError
from serving.client.local_server import local_server
from serving.client.predict_client import PredictClient
from serving.client.tensors import encode
from serving.protos import message
from serving.rollout import RolloutError, RunningServer, promote, rollback
from serving.store import ModelStore, open_store
from serving.store_check import check
from tests.trained_model import Trained, draw
from whisker_ml import contract

LOAD_TIMEOUT_S = 120.0


class Traffic:
    """Clients that ask for the live version, each one request after the other.

    Attributes:
        answers: how many requests each version has answered.
        failures: of the others.
    """

    def __init__(self, address: str, clients: int) -> None:
        self.answers: dict[int, int] = {}
        self.failures: list[ClientError] = []
        self._address = address
        self._stop = threading.Event()
        self._counted = threading.Condition()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(clients)
        ]

    @contextmanager
    def under_way(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    @property
    def count(self) -> int:
        return sum(self.answers.values()) + len(self.failures)

    def wait_for(self, more: int) -> None:
        with self._counted:
            wanted = self.count + more
            assert self._counted.wait_for(lambda: self.count >= wanted, timeout=LOAD_TIMEOUT_S)

    def _ask(self, number: int) -> None:
        picture = draw("cats", number)
        with PredictClient(self._address, label=contract.STABLE_LABEL, timeout_s=60) as client:
            while not self._stop.is_set():
                try:
                    version = client.predict(picture).model_version
                except ClientError as error:
                    version = error
                with self._counted:
                    if isinstance(version, ClientError):
                        self.failures.append(version)
                    else:
                        self.answers[version] = self.answers.get(version, 0) + 1
                    self._counted.notify_all()


def write_warm_up(export: Path, records: int, pictures: int) -> None:
    """Makes a version slow to load: requests that it has to answer first."""
    log = message("tensorflow.serving.PredictionLog")()
    request = log.predict_log.request
    request.model_spec.name = contract.DEFAULT_MODEL_NAME
    request.inputs[contract.INPUT_BYTES].CopyFrom(
        encode([draw("dogs", number) for number in range(pictures)])
    )
    (export / "assets.extra").mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(
        str(export / "assets.extra" / "tf_serving_warmup_requests")
    ) as writer:
        for _ in range(records):
            writer.write(log.SerializeToString())


@pytest.fixture
def exports(trained: Trained, tmp_path: Path) -> dict[str, Path]:
    folders = {name: tmp_path / name for name in ("good", "slow", "broken")}
    for folder in folders.values():
        shutil.copytree(trained.run / "export", folder)
    (folders["broken"] / contract.SAVED_MODEL_FILE).write_bytes(b"no graph")
    return folders


def refuse_broken(store: ModelStore, exports: dict[str, Path], server: RunningServer) -> None:
    """Publishes a version that does not load, and tries to promote it; what is live stays."""
    live = store.live_version()
    with pytest.raises(
        RolloutError, match=r"cannot load version \d+ of whisker: .*; models\.config and the"
    ):
        broken = store.publish(exports["broken"]).number
        promote(store, broken, contract.STABLE_LABEL, server, LOAD_TIMEOUT_S)
    assert store.live_version() == live


def go_round(
    store: ModelStore, exports: dict[str, Path], server: RunningServer, traffic: Traffic, more: int
) -> float:
    """Publishes a good, a slow and a broken version, promotes each, and rolls back twice; gives the
    longer seconds.
    """
    before = store.live_version()
    for name in ("good", "slow"):
        version = store.publish(exports[name]).number
        promote(store, version, contract.STABLE_LABEL, server, LOAD_TIMEOUT_S)
        traffic.wait_for(more)
    refuse_broken(store, exports, server)
    traffic.wait_for(more)
    back_to_good, first = rollback(store, server, LOAD_TIMEOUT_S)
    traffic.wait_for(more)
    back_to_before, second = rollback(store, server, LOAD_TIMEOUT_S)
    traffic.wait_for(more)
    assert (back_to_good, back_to_before) == (version - 1, before)
    return max(first, second)


@contextmanager
def serving(
    store: ModelStore, export: Path, clients: int, flags: Sequence[str] = ()
) -> Iterator[tuple[RunningServer, Traffic]]:
    store.promote(store.publish(export).number)
    with local_server(model_config_file=store.config_path, extra_flags=flags) as local:
        address = f"127.0.0.1:{local.port}"
        traffic = Traffic(address, clients)
        with RunningServer(address) as server, traffic.under_way():
            traffic.wait_for(clients)
            yield server, traffic
    assert traffic.failures == []


def roll_back(tmp_path: Path, server: RunningServer) -> list[str]:
    """Goes back to version 1 by the command; gives what it says on the way."""
    command = ["rollback", f"--model_dir={tmp_path / 'models'}", f"--server={server.address}"]
    ended = subprocess.run(
        [sys.executable, "-m", "serving.store", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout.startswith("version 1 of whisker is live, after "), ended.stderr
    print(ended.stdout)
    return ended.stderr.splitlines()


def test_no_request_fails_while_versions_come_and_go(
    exports: dict[str, Path], tmp_path: Path
) -> None:
    write_warm_up(exports["slow"], records=8, pictures=8)
    store = open_store(str(tmp_path / "models"), contract.DEFAULT_MODEL_NAME)
    with serving(store, exports["good"], clients=4) as (server, traffic):
        version = store.publish(exports["slow"]).number
        promote(store, version, contract.STABLE_LABEL, server, LOAD_TIMEOUT_S)
        traffic.wait_for(20)
        refuse_broken(store, exports, server)
        traffic.wait_for(20)
        assert roll_back(tmp_path, server) == []
        traffic.wait_for(20)
    assert set(traffic.answers) == {1, 2}


@pytest.mark.long
def test_no_request_fails_where_the_server_reads_models_config_by_itself(
    exports: dict[str, Path], tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "models"), contract.DEFAULT_MODEL_NAME)
    flags = ["--allow_reload=false", "--model_config_file_poll_wait_seconds=1"]
    with serving(store, exports["good"], 4, flags) as (server, traffic):
        version = store.publish(exports["slow"]).number
        promote(store, version, contract.STABLE_LABEL, server, LOAD_TIMEOUT_S)
        traffic.wait_for(20)
        refusal, *lines = roll_back(tmp_path, server)
        traffic.wait_for(20)
    refuses = "does not accept a configuration (PERMISSION_DENIED: "
    assert refusal.startswith(f"{server.address} {refuses}")
    steps = ("unloaded", "loaded", "moved the label stable to")
    came = [f"{server.address} has {step} version 1 of whisker" for step in steps]
    assert lines
    assert set(lines) <= {*came, *(f"waiting until {line}" for line in came)}
    assert set(traffic.answers) == {1, 2}


@pytest.mark.long
def test_no_request_of_10000_fails_while_versions_come_and_go(
    exports: dict[str, Path], tmp_path: Path
) -> None:
    write_warm_up(exports["slow"], records=1000, pictures=8)
    store = open_store(str(tmp_path / "models"), contract.DEFAULT_MODEL_NAME)
    start = time.monotonic()
    with serving(store, exports["good"], clients=32) as (server, traffic):
        seconds = []
        while traffic.count < 10_000:
            seconds.append(go_round(store, exports, server, traffic, more=500))
            store.prune(keep=1)
    took = time.monotonic() - start
    print(
        f"{traffic.count:,} requests in {took:.0f} s, 0 failed; back in {max(seconds):.2f} s or"
        " less"
    )


@pytest.mark.long
def test_check_replays_warm_up_records_and_names_what_does_not_load(
    exports: dict[str, Path], tmp_path: Path
) -> None:
    write_warm_up(exports["slow"], records=1, pictures=1)
    store = open_store(str(tmp_path / "models"), contract.DEFAULT_MODEL_NAME)
    for label, name in (("stable", "slow"), ("canary", "broken")):
        store.promote(store.publish(exports[name]).number, label)
    findings, loaded = check(store.config_path, LOAD_TIMEOUT_S)
    assert loaded
    (finding,) = findings
    assert finding.startswith("whisker: version 2 does not load: ")
