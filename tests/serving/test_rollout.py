"""Rollouts on our server, in this process: all of it but for what loads a model."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from serving.client.errors import ServerError
from serving.config import models_config
from serving.rollout import RolloutError, RunningServer, _Rollout, promote, rollback
from serving.server import grpc_service
from serving.server.discovery import read_config, single_model
from serving.server.flags import Flags
from serving.server.handlers import Handlers
from serving.server.manager import Manager
from serving.server.status import StatusError
from serving.store import ModelStore, open_store
from serving.store.state import VersionMissingError

OPTIONS = Flags(
    file_system_poll_wait_seconds=0.1,
    load_retry_interval_micros=60_000_000,
    allow_version_labels_for_unavailable_models=True,
)
TIMEOUT_S = 20.0


class Harness:
    """A server on a store with versions 1 to 4, of which 1 is live.

    Attributes:
        broken: versions that cannot be loaded.
        held: versions that do not finish loading before `released`.
        states: models.config's versions and labels at every configuration that the server took
            over, but for one that is the same again.
        undone: what an error says in the end.
        polls: whether the server reads models.config by itself, and takes it from nobody.
    """

    def __init__(self, store: ModelStore, options: Flags = OPTIONS, *, polls: bool = False) -> None:
        self.store = store
        self.polls = polls
        self.undone = f"models.config {'is unchanged' if polls else 'and the server are as before'}"
        self.broken: set[int] = set()
        self.held: set[int] = set()
        self.loading = threading.Event()
        self.released = threading.Event()
        self.states: list[tuple[list[int], dict[str, int]]] = []
        self._state: tuple[list[int], dict[str, int]] | None = None
        self.options = options
        self.read = read_config
        self._stops: list[Callable[[], object]] = []

    def start(self, config: Any = None, **options: Any) -> RunningServer:
        read = lambda: config or self.read(self.store.config_path)  # noqa: E731
        polling = {"model_config_file_poll_wait_seconds": 0.05} if self.polls else {}
        manager = Manager(self._load, read, replace(self.options, **polling | options))
        manager.apply(read())
        self._state = state(read())
        manager.start()
        while not manager.ready():
            assert not manager.stopping.wait(0.02)
        apply = manager.apply

        def noted(config: Any) -> list[str]:
            applied = apply(config)
            if state(config) != self._state:
                self._state = state(config)
                self.states.append(self._state)
            return applied

        manager.apply = noted  # type: ignore[method-assign]
        handlers = Handlers(manager, None, flags=Flags(allow_reload=not self.polls))
        server, port = grpc_service.bind(handlers, "127.0.0.1", 0)
        server.start()
        running = RunningServer(f"127.0.0.1:{port}")
        self._stops += [
            running._channel.close,
            lambda: server.stop(None).wait(),
            lambda: manager.stop(5),
        ]
        return running

    def stop(self) -> None:
        self.released.set()
        for stop in self._stops:
            stop()

    def _load(self, number: int, path: str) -> Any:
        self.loading.set()
        if number in self.held:
            self.released.wait(TIMEOUT_S)
        if number in self.broken:
            raise StatusError(grpc.StatusCode.FAILED_PRECONDITION, f"{path} is\nbroken")
        return SimpleNamespace(version=number, signatures={}, close=lambda: None)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        threading.Event().wait(0.01)


def state(config: Any) -> tuple[list[int], dict[str, int]]:
    model = next((each for each in config.model_config_list.config if each.name == "whisker"), None)
    if model is None:
        return [], {}
    return list(model.model_version_policy.specific.versions), dict(model.version_labels)


def in_the_file(store: ModelStore) -> tuple[list[int], dict[str, int]]:
    return state(store.config())


def available(server: RunningServer) -> set[int]:
    return {
        number
        for number, status in server.versions("whisker").items()
        if status.state == "AVAILABLE"
    }


@pytest.fixture
def store(tmp_path: Path, saved_model: Path) -> ModelStore:
    store = open_store(str(tmp_path / "models"), "whisker")
    for _ in range(4):
        store.publish(saved_model)
    store.promote(1)
    return store


@pytest.fixture
def polls() -> bool:
    return False


# Tests of both ways of a server to a configuration.
either_way = pytest.mark.parametrize("polls", [False, True], ids=["sent", "polled"])
polled = pytest.mark.parametrize("polls", [True], ids=["polled"])


@pytest.fixture
def harness(store: ModelStore, monkeypatch: pytest.MonkeyPatch, polls: bool) -> Iterator[Harness]:
    # Nothing here takes time by itself.
    monkeypatch.setattr("serving.server.manager._TICK_S", 0.01)
    monkeypatch.setattr("serving.rollout._POLL_S", 0.01)
    monkeypatch.setattr("serving.rollout._SETTLED_S", 0.3)
    harness = Harness(store, polls=polls)
    yield harness
    harness.stop()


@pytest.fixture
def looks_when_waited_for(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Lets the server see what is new in models.config once for each time that it is waited for."""
    seen = None

    def look(path: str) -> Any:
        nonlocal seen
        if seen is None or caplog.text.count("waiting until") > len(harness.states):
            seen = read_config(path)
        return seen

    monkeypatch.setattr(harness, "read", look)


@either_way
def test_promote_loads_then_labels_then_unloads(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    server = harness.start()
    assert promote(harness.store, 2, "stable", server, TIMEOUT_S) < TIMEOUT_S
    assert in_the_file(harness.store) == ([2], {"stable": 2})
    assert server.labelled("whisker", "stable", None) == 2
    assert any("waiting" in line.getMessage() for line in caplog.records) is harness.polls
    wait_until(lambda: available(server) == {2})
    assert harness.states == [
        ([1, 2], {"stable": 1}),
        ([1, 2], {"stable": 2}),
        ([2], {"stable": 2}),
    ]


@either_way
def test_rollback_goes_back_and_a_second_one_further(harness: Harness) -> None:
    server = harness.start()
    for version in (2, 3):
        promote(harness.store, version, "stable", server, TIMEOUT_S)
    assert rollback(harness.store, server, TIMEOUT_S)[0] == 2
    assert rollback(harness.store, server, TIMEOUT_S)[0] == 1
    assert in_the_file(harness.store) == ([1], {"stable": 1})
    with pytest.raises(
        VersionMissingError,
        match="has no version that was live before 1: promote one of these: 1, 2, 3, 4$",
    ):
        rollback(harness.store, server, TIMEOUT_S)


@either_way
def test_another_label_is_loaded_beside_what_is_live_and_moves_alone(harness: Harness) -> None:
    server = harness.start()
    for version in (3, 4):
        promote(harness.store, version, "canary", server, TIMEOUT_S)
    assert in_the_file(harness.store) == ([1, 4], {"stable": 1, "canary": 4})
    promote(harness.store, 4, "stable", server, TIMEOUT_S)
    assert in_the_file(harness.store) == ([4], {"stable": 4, "canary": 4})


@either_way
def test_version_that_does_not_load_leaves_file_history_and_server_as_they_were(
    harness: Harness,
) -> None:
    server = harness.start()
    promote(harness.store, 2, "stable", server, TIMEOUT_S)
    before = Path(harness.store.config_path).read_bytes()
    harness.broken = {3}
    for _ in range(2):
        with pytest.raises(RolloutError) as error:
            promote(harness.store, 3, "stable", server, TIMEOUT_S)
        assert (
            str(error.value)
            == f"{server.address} cannot load version 3 of whisker: {harness.store.base_path}/3 is"
            f" broken; {harness.undone}"
        )
    assert Path(harness.store.config_path).read_bytes() == before
    wait_until(lambda: harness.states[-1] == ([2], {"stable": 2}))
    assert available(server) == {2}
    harness.broken.clear()
    promote(harness.store, 3, "stable", server, TIMEOUT_S)
    assert harness.store.previous() == 2


@either_way
def test_version_that_loads_too_slowly_leaves_everything_as_it_was(harness: Harness) -> None:
    server = harness.start()
    harness.held = {2}
    with pytest.raises(
        RolloutError,
        match=r"has not loaded version 2 of whisker after 0\.3 s, it is LOADING: see its",
    ):
        promote(harness.store, 2, "stable", server, 0.3)
    assert in_the_file(harness.store) == ([1], {"stable": 1})
    harness.released.set()
    promote(harness.store, 2, "stable", server, TIMEOUT_S)


@either_way
def test_interrupt_leaves_everything_as_it_was(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = harness.start()

    interrupts = iter([KeyboardInterrupt])

    def interrupted(seconds: float) -> None:
        assert harness.loading.wait(TIMEOUT_S)
        for interrupt in interrupts:
            raise interrupt
        time.sleep(seconds)

    harness.held = {2}
    harness.loading.clear()
    # Of this module alone: threads of libraries sleep, too.
    monkeypatch.setattr(
        "serving.rollout.time", SimpleNamespace(monotonic=time.monotonic, sleep=interrupted)
    )
    with pytest.raises(KeyboardInterrupt):
        promote(harness.store, 2, "stable", server, TIMEOUT_S)
    assert in_the_file(harness.store) == ([1], {"stable": 1})
    assert harness.undone in caplog.text
    harness.released.set()
    wait_until(lambda: harness.states[-1] == ([1], {"stable": 1}))
    wait_until(lambda: available(server) == {1})


def test_refused_label_moves_nothing(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    server = harness.start()
    reload = server.reload

    def unlucky(config: Any, timeout_s: float) -> Any:
        # As where the version is lost between its load and its label.
        label = state(config)[1]["stable"]
        if label == 2:
            broken = type(config)()
            broken.CopyFrom(config)
            broken.model_config_list.config[0].version_labels["stable"] = 9
            return reload(broken, timeout_s)
        return reload(config, timeout_s)

    monkeypatch.setattr(server, "reload", unlucky)
    with pytest.raises(
        RolloutError,
        match="assign label to version 9 .*; models.config and the server are as before$",
    ):
        promote(harness.store, 2, "stable", server, TIMEOUT_S)
    assert in_the_file(harness.store) == ([1], {"stable": 1})
    assert harness.store.previous() is None


@pytest.mark.parametrize("model_name", ["whisker", "another"])
def test_server_on_a_bare_base_path_is_refused_before_anything_changes(
    harness: Harness, model_name: str
) -> None:
    server = harness.start(single_model(model_name, harness.store.base_path))
    what = (
        "serves whisker without the label stable"
        if model_name == "whisker"
        else "does not serve whisker"
    )
    with pytest.raises(RolloutError) as error:
        promote(harness.store, 2, "stable", server, TIMEOUT_S)
    path = harness.store.config_path
    assert (
        str(error.value)
        == f"{server.address} {what}, so it does not run on {path}: nothing was changed; start it"
        f" with --model_config_file={path} --allow_version_labels_for_unavailable_models=true"
    )
    assert harness.states == []
    assert in_the_file(harness.store) == ([1], {"stable": 1})


def test_other_models_in_the_file_stay_served(harness: Harness, saved_model: Path) -> None:
    other = open_store(str(Path(harness.store.base_path).parent), "digits")
    for _ in range(2):
        other.publish(saved_model)
    other.promote(1)
    server = harness.start()
    # Somebody changed the file without telling the server.
    other.promote(2)
    promote(harness.store, 2, "stable", server, TIMEOUT_S)
    assert server.labelled("digits", "stable", None) == 1
    assert in_the_file(harness.store) == ([2], {"stable": 2})
    promote(other, 2, "stable", server, TIMEOUT_S)
    assert server.labelled("digits", "stable", None) == 2


@either_way
def test_server_that_lags_behind_the_file_is_taken_along(harness: Harness) -> None:
    server = harness.start()
    harness.store.promote(3)
    promote(harness.store, 3, "stable", server, TIMEOUT_S)
    wait_until(lambda: available(server) == {3})
    assert harness.states == [
        ([1, 3], {"stable": 1}),
        ([1, 3], {"stable": 3}),
        ([3], {"stable": 3}),
    ]


@either_way
def test_first_version_of_a_model_reaches_a_server_that_does_not_know_it(
    harness: Harness, saved_model: Path
) -> None:
    server = harness.start()
    other = open_store(str(Path(harness.store.base_path).parent), "digits")
    other.publish(saved_model)
    harness.broken = {1}
    with pytest.raises(
        RolloutError,
        match="cannot load version 1 of digits: .* is broken; models.config (and the server|is un)",
    ):
        promote(other, 1, "stable", server, TIMEOUT_S)
    assert [model.name for model in other.config().model_config_list.config] == ["whisker"]
    harness.broken.clear()
    promote(other, 1, "stable", server, TIMEOUT_S)
    assert server.labelled("digits", "stable", None) == 1
    assert server.labelled("whisker", "stable", None) == 1


@either_way
@pytest.mark.parametrize("kill_at", [1, 2, 3])
@pytest.mark.parametrize("way", ["promote", "rollback"])
def test_killed_rollout_leaves_a_file_to_start_on_and_the_next_one_mends_the_rest(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, way: str, kill_at: int
) -> None:
    promote(harness.store, 2, "stable", harness.start(), TIMEOUT_S)
    server = harness.start()
    told = 0
    send = _Rollout._send

    class Killed(BaseException):
        pass

    def killed(self: Any, *arguments: Any) -> Any:
        nonlocal told
        told += 1
        if told >= kill_at:
            raise Killed
        return send(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(_Rollout, "_send", killed)
        patched.setattr("serving.rollout._Rollout._undo", lambda *_: "")
        with pytest.raises(Killed):
            if way == "promote":
                promote(harness.store, 3, "stable", server, TIMEOUT_S)
            else:
                rollback(harness.store, server, TIMEOUT_S)
    restarted = harness.start()
    assert restarted.labelled("whisker", "stable", None) == harness.store.live_version()
    promote(harness.store, 4, "stable", server, TIMEOUT_S)
    assert in_the_file(harness.store) == ([4], {"stable": 4})
    wait_until(lambda: available(server) == {4})


def test_server_that_polls_the_file_takes_every_state(harness: Harness) -> None:
    server = harness.start(model_config_file_poll_wait_seconds=0.15)
    promote(harness.store, 2, "stable", server, TIMEOUT_S)
    rollback(harness.store, server, TIMEOUT_S)
    seen = [
        each
        for each, after in zip(harness.states, [*harness.states[1:], None], strict=True)
        if each != after
    ]
    assert next(each for each in seen if each[1] == {"stable": 2}) == ([1, 2], {"stable": 2})
    assert models_config.live_version(harness.store.config(), "whisker") == 1
    assert server.labelled("whisker", "stable", None) == 1


def during_the_load(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Makes a change of the store, once, while a rollout waits for its version to be loaded."""
    real = _Rollout._load

    def load(self: Any, *arguments: Any) -> None:
        monkeypatch.setattr(_Rollout, "_load", real)
        change()
        real(self, *arguments)

    monkeypatch.setattr(_Rollout, "_load", load)


@either_way
def test_version_that_is_being_loaded_is_not_pruned(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = harness.start()
    during_the_load(monkeypatch, lambda: harness.store.prune(1))
    promote(harness.store, 2, "stable", server, TIMEOUT_S)
    assert harness.store.versions() == [1, 2, 4]


def test_version_that_was_pruned_after_the_look_changes_nothing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = harness.start()
    monkeypatch.setattr(harness.store, "require", lambda _: harness.store.prune(1))
    with pytest.raises(VersionMissingError, match="has no version 2: its versions are 1, 4$"):
        promote(harness.store, 2, "stable", server, TIMEOUT_S)
    assert (in_the_file(harness.store), harness.states) == (([1], {"stable": 1}), [])


def test_rollback_from_what_is_not_live_any_more_is_refused_and_what_went_live_stays(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.store.promote(2)
    server = harness.start()
    during_the_load(monkeypatch, lambda: harness.store.promote(4))
    with pytest.raises(
        RolloutError, match="^version 4 of whisker went live in the meantime: check what is live"
    ):
        rollback(harness.store, server, TIMEOUT_S)
    assert harness.store.live_version() == 4
    assert harness.store.previous() == 2


@polled
@pytest.mark.usefixtures("looks_when_waited_for")
def test_rollback_where_another_version_has_gone_live_before_the_server_looked(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.store.promote(2)
    server = harness.start()
    during_the_load(monkeypatch, lambda: harness.store.promote(4))
    # The server refuses the whole file, and so does not load the version to go back to.
    with pytest.raises(
        RolloutError,
        match=r"has not loaded version 1 of whisker after 0.3 s, .*; models.config has stable of"
        " whisker on version 4, which the server has not loaded, ",
    ):
        rollback(harness.store, server, 0.3)
    assert harness.store.live_version() == 4
    assert harness.store.previous() == 2


@either_way
def test_going_back_restores_no_version_that_is_gone(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = harness.start()
    store = harness.store

    # What a killed promotion has left there.
    def leftover(state: Any) -> Any:
        state.config.model_config_list.config[0].model_version_policy.specific.versions.append(3)
        return state.config

    store.edit_config(leftover)
    harness.broken = {2}
    during_the_load(monkeypatch, lambda: store.prune(1))
    with pytest.raises(RolloutError, match="cannot load version 2"):
        promote(store, 2, "stable", server, TIMEOUT_S)
    assert in_the_file(store) == ([1], {"stable": 1})
    assert 3 not in store.versions()


@polled
@pytest.mark.usefixtures("looks_when_waited_for")
def test_what_is_waited_for_and_whether_it_came_is_said(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    server = harness.start()
    promote(harness.store, 2, "stable", server, TIMEOUT_S)
    address = server.address
    assert [line.getMessage() for line in caplog.records if line.name == "serving.rollout"] == [
        f"{address} does not accept a configuration (PERMISSION_DENIED: HandleReloadConfigRequest"
        " is off: start the server with --allow_reload, or with"
        " --model_config_file_poll_wait_seconds=N, and change its --model_config_file): it must"
        " read models.config by itself",
        f"waiting until {address} has loaded version 2 of whisker",
        f"{address} has loaded version 2 of whisker",
        f"waiting until {address} has moved the label stable to version 2 of whisker",
        f"{address} has moved the label stable to version 2 of whisker",
    ]


@polled
@pytest.mark.parametrize(
    ("version", "text"),
    [
        (2, "has not loaded version 2 of whisker after 0.2 s, it is unknown: see its log"),
        # Loaded already, as canary.
        (3, "has not moved the label stable to version 3 of whisker after 0.2 s, it is AVAILABLE"),
    ],
)
def test_server_that_does_not_poll_is_waited_for_in_vain_and_the_file_is_put_back(
    harness: Harness, version: int, text: str
) -> None:
    harness.store.promote(3, "canary")
    server = harness.start(model_config_file_poll_wait_seconds=0)
    wait_until(lambda: available(server) == {1, 3})
    before = Path(harness.store.config_path).read_bytes()
    with pytest.raises(RolloutError) as error:
        promote(harness.store, version, "stable", server, 0.2)
    assert str(error.value).startswith(f"{server.address} {text}")
    assert str(error.value).endswith(
        "; if it does not poll models.config, start it with"
        " --model_config_file_poll_wait_seconds=N, or with --allow_reload; models.config is"
        " unchanged"
    )
    assert Path(harness.store.config_path).read_bytes() == before
    assert harness.store.previous() is None


@polled
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_command_that_is_stopped_while_it_waits_puts_the_file_back(
    harness: Harness, sent: signal.Signals, code: int
) -> None:
    server = harness.start(model_config_file_poll_wait_seconds=0)
    command = ["promote", "2", f"--server={server.address}"]
    folder = Path(harness.store.config_path).parent
    with subprocess.Popen(
        [sys.executable, "-m", "serving.store", f"--model_dir={folder}", *command],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            lines = iter(process.stderr.readline, "") if process.stderr else iter(())
            assert any("waiting until" in line for line in lines)
            assert in_the_file(harness.store) == ([1, 2], {"stable": 1})
            process.send_signal(sent)
            assert "models.config is unchanged\n" in list(lines)
            assert process.wait(TIMEOUT_S) == code
        finally:
            process.kill()
    assert in_the_file(harness.store) == ([1], {"stable": 1})


@polled
def test_command_that_waited_in_vain_ends_with_2(harness: Harness) -> None:
    server = harness.start(model_config_file_poll_wait_seconds=0)
    command = ["promote", "2", f"--server={server.address}", "--timeout_s=0.2", "--format=json"]
    folder = Path(harness.store.config_path).parent
    ended = subprocess.run(
        [sys.executable, "-m", "serving.store", f"--model_dir={folder}", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    *_, line = ended.stderr.splitlines()
    assert f"error: {server.address} has not loaded version 2 of whisker after 0.2 s, " in line
    assert line.endswith(", or with --allow_reload; models.config is unchanged")


def test_server_that_does_not_know_the_call_is_waited_for(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> None:
        raise StatusError(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    monkeypatch.setattr(Handlers, "reload_config", unknown)
    server = harness.start(model_config_file_poll_wait_seconds=0.05)
    promote(harness.store, 2, "stable", server, TIMEOUT_S)
    assert server.labelled("whisker", "stable", None) == 2


def test_server_that_fails_when_it_is_sent_a_configuration_is_not_waited_for(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise StatusError(grpc.StatusCode.INTERNAL, "no")

    monkeypatch.setattr(Handlers, "reload_config", failing)
    server = harness.start(model_config_file_poll_wait_seconds=0.05)
    with pytest.raises(ServerError, match="INTERNAL: no"):
        promote(harness.store, 2, "stable", server, TIMEOUT_S)
    assert in_the_file(harness.store) == ([1], {"stable": 1})


@polled
@pytest.mark.usefixtures("looks_when_waited_for")
def test_version_that_the_server_has_not_unloaded_yet_is_loaded_anew(harness: Harness) -> None:
    server = harness.start()
    promote(harness.store, 2, "stable", server, TIMEOUT_S)
    assert available(server) == {1, 2}
    assert rollback(harness.store, server, TIMEOUT_S)[0] == 1
    assert harness.states == [
        ([1, 2], {"stable": 1}),
        ([1, 2], {"stable": 2}),
        ([2], {"stable": 2}),
        ([1, 2], {"stable": 2}),
        ([1, 2], {"stable": 1}),
    ]


@polled
def test_rollback_to_what_a_server_that_lags_behind_the_file_still_has(harness: Harness) -> None:
    server = harness.start()
    harness.store.promote(3)
    assert rollback(harness.store, server, TIMEOUT_S)[0] == 1
    assert in_the_file(harness.store) == ([1], {"stable": 1})
    assert harness.store.previous() is None
    assert server.labelled("whisker", "stable", None) == 1


@polled
def test_failed_promotion_of_a_server_that_lags_restores_the_file(harness: Harness) -> None:
    server = harness.start()
    harness.store.promote(3)
    harness.broken = {3, 2}
    for version in (3, 2):
        with pytest.raises(RolloutError, match=f"cannot load version {version} of whisker: "):
            promote(harness.store, version, "stable", server, TIMEOUT_S)
        assert in_the_file(harness.store) == ([3], {"stable": 3})
        assert harness.store.previous() == 1
    assert server.labelled("whisker", "stable", None) == 1


@polled
def test_label_of_another_model_that_the_server_refuses_is_named(
    harness: Harness, saved_model: Path
) -> None:
    other = open_store(str(Path(harness.store.base_path).parent), "digits")
    for _ in range(2):
        other.publish(saved_model)
    other.promote(1)
    server = harness.start()
    other.promote(2)
    with pytest.raises(
        RolloutError, match="; models.config has stable of digits on version 2, which the server"
    ):
        promote(harness.store, 2, "stable", server, 0.3)
    assert in_the_file(harness.store) == ([1], {"stable": 1})
    promote(other, 2, "stable", server, TIMEOUT_S)
    promote(harness.store, 2, "stable", server, TIMEOUT_S)
    assert server.labelled("whisker", "stable", None) == 2
