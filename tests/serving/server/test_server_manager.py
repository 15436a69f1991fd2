"""The lifecycle, driven tick by tick with a clock of the test's own and loads that succeed, fail or
are counted.
"""

import os
from pathlib import Path

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.server import discovery, manager
from serving.server.discovery import State
from serving.server.flags import Flags
from serving.server.manager import Manager
from serving.server.status import StatusError


class Loaded:
    def __init__(self, version):
        self.version = version
        self.closed = False

    def close(self):
        self.closed = True


class World:
    """A manager over a folder of versions; `broken` versions fail to load."""

    def __init__(self, folder, **options):
        self.folder = folder
        self.now = 0.0
        self.broken = set()
        self.unforeseen = set()
        self.loads = []
        self.servables = {}
        self.config = None
        self.manager = Manager(
            self.load, lambda: self.config, Flags(**options), clock=lambda: self.now
        )

    def load(self, number, path):
        self.loads.append(number)
        if number in self.broken:
            raise StatusError(grpc.StatusCode.NOT_FOUND, f"nothing in {path}")
        if number in self.unforeseen:
            raise RecursionError("maximum recursion depth exceeded\nwhile decoding")
        self.servables[number] = Loaded(number)
        return self.servables[number]

    def add(self, *numbers):
        for number in numbers:
            (self.folder / str(number)).mkdir()

    def remove(self, number):
        (self.folder / str(number)).rmdir()

    def configure(self, policy="", labels=None, model="m"):
        pairs = "".join(
            f'version_labels {{ key: "{key}" value: {value} }}'
            for key, value in (labels or {}).items()
        )
        self.config = text_format.Parse(
            f'model_config_list {{ config {{ name: "{model}" base_path: "{self.folder}"'
            f' model_platform: "tensorflow" model_version_policy {{ {policy} }} {pairs} }} }}',
            ModelServerConfig(),
        )
        self.manager.apply(self.config)

    def tick(self, seconds=1.0):
        self.now += seconds
        self.manager.tick()

    def states(self):
        return {number: state.name for number, state, _ in self.manager.states("m")}

    def used(self, *request):
        with self.manager.use("m", *request) as servable:
            return servable.version


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_new_version_is_available_before_the_old_one_goes(world):
    world.add(1)
    world.configure()
    world.tick()
    assert world.states() == {1: "AVAILABLE"}
    world.add(2)
    before = []
    world.servables[1].close = lambda: before.append(world.states()[2])
    world.tick()
    assert before == ["AVAILABLE"]
    assert world.states() == {2: "AVAILABLE", 1: "END"}
    assert list(world.states()) == [2, 1]


def test_new_version_that_fails_leaves_the_old_one(tmp_path):
    world = World(tmp_path, max_num_load_retries=0)
    world.add(1)
    world.configure()
    world.tick()
    world.broken = {2}
    world.add(2)
    world.tick()
    assert world.states() == {2: "END", 1: "AVAILABLE"}
    assert world.used() == 1
    _, state, error = world.manager.states("m", 2)[0]
    assert (state, str(error)) == (State.END, f"NOT_FOUND: nothing in {tmp_path}/2")


def test_failed_load_is_tried_again_after_the_interval_so_often_and_never_after(tmp_path):
    world = World(tmp_path, max_num_load_retries=2, load_retry_interval_micros=60_000_000)
    world.broken = {1}
    world.add(1)
    world.configure()
    world.tick()
    world.tick(59)
    assert world.loads == [1]
    assert world.states() == {1: "LOADING"}
    assert not world.manager.ready()
    world.tick(60)
    world.tick(60)
    world.tick(600)
    assert world.loads == [1, 1, 1]
    assert world.states() == {1: "END"}
    with pytest.raises(StatusError) as error:
        world.manager.ready()
    assert (
        str(error.value) == "UNKNOWN: 1 servable(s) did not become available: "
        f"{{{{{{name: m version: 1}} due to error: NOT_FOUND: nothing in {tmp_path}/1}}, }}"
    )


def test_failed_version_that_went_and_came_back_is_loaded_afresh(tmp_path):
    world = World(tmp_path, max_num_load_retries=0)
    world.broken = {1}
    world.add(1)
    world.configure()
    world.tick()
    world.broken = set()
    world.tick()
    assert world.states() == {1: "END"}
    world.remove(1)
    world.tick()
    world.add(1)
    world.tick()
    assert world.states() == {1: "AVAILABLE"}
    assert world.manager.ready()


def test_failed_version_begins_anew_after_the_interval_where_that_is_asked_for(tmp_path):
    world = World(
        tmp_path,
        max_num_load_retries=1,
        load_retry_interval_micros=60_000_000,
        enable_reload_servables_with_error=True,
    )
    world.broken = {1}
    world.add(1)
    world.configure()
    world.tick()
    world.tick(60)
    assert world.states() == {1: "END"}
    world.tick(59)
    assert world.loads == [1, 1]
    world.tick(2)
    assert world.loads == [1, 1, 1]
    world.broken = set()
    world.tick(61)
    assert world.states() == {1: "AVAILABLE"}


def test_start_with_what_loads_waits_for_each_model_to_be_tried_once_and_no_longer(
    tmp_path, caplog
):
    folder = tmp_path / "m"
    folder.mkdir()
    world = World(folder, start_with_what_loads=True)
    world.broken = {1}
    world.add(1)
    world.configure()
    config = text_format.Parse(str(world.config), ModelServerConfig())
    config.model_config_list.config.add(
        name="none", base_path=f"{tmp_path}/none", model_platform="tensorflow"
    )
    world.manager.apply(config)
    assert not world.manager.ready()
    world.tick()
    assert world.states() == {1: "LOADING"}
    assert world.manager.ready()
    assert "starting without m, none" in caplog.text
    assert not world.manager.ready(["none"])


def test_version_given_up_while_it_waits_for_its_next_attempt_ends(world):
    world.broken = {1}
    world.add(1)
    world.configure()
    world.tick()
    world.remove(1)
    world.tick()
    assert world.states() == {1: "END"}
    world.tick(600)
    assert world.loads == [1]


def test_folder_without_versions_unloads_all_but_a_folder_that_is_gone_nothing(world, caplog):
    world.add(1)
    world.configure()
    world.tick()
    world.remove(1)
    world.folder.rmdir()
    world.tick()
    world.tick()
    assert world.used() == 1
    assert caplog.text.count("what is loaded stays") == 1
    world.folder.mkdir()
    world.tick()
    with pytest.raises(
        StatusError, match=r"^NOT_FOUND: Servable not found for request: Latest\(m\)$"
    ):
        world.used()


def test_version_in_use_is_closed_when_it_is_given_back(world):
    world.add(1)
    world.configure()
    world.tick()
    with world.manager.use("m") as servable:
        world.add(2)
        world.tick()
        assert world.states() == {2: "AVAILABLE", 1: "UNLOADING"}
        assert not servable.closed
        with pytest.raises(StatusError, match=r"Servable not found for request: Specific\(m, 1\)"):
            world.used(1)
    assert servable.closed
    assert world.states() == {2: "AVAILABLE", 1: "END"}


def test_policies_and_a_model_left_out_of_the_next_config(world):
    world.add(1, 2, 3)
    world.configure("all {}")
    world.tick()
    assert world.loads == [3, 2, 1]
    world.configure("specific { versions: 2 }")
    world.tick()
    assert world.states() == {3: "END", 2: "AVAILABLE", 1: "END"}
    world.configure(model="other")
    world.tick()
    assert world.states() == {3: "END", 2: "END", 1: "END"}


@pytest.mark.parametrize(
    ("file_system_poll_wait_seconds", "expected"), [(1, [1, 2]), (0, [1]), (-1, [])]
)
def test_polling_again_once_or_never(tmp_path, file_system_poll_wait_seconds, expected):
    world = World(tmp_path, file_system_poll_wait_seconds=file_system_poll_wait_seconds)
    world.add(1)
    world.configure()
    world.tick()
    world.add(2)
    world.tick()
    assert world.loads == expected


def test_label_of_a_version_that_is_not_loaded_is_refused(world):
    world.add(1, 2)
    message = (
        "FAILED_PRECONDITION: Request to assign label to version 1 of model m, "
        "which is not currently available for inference"
    )
    with pytest.raises(StatusError) as error:
        world.configure("all {}", {"stable": 1})
    assert str(error.value) == message
    world.configure("all {}")
    world.tick()
    world.configure("all {}", {"stable": 1})
    assert world.used(None, "stable") == 1
    assert world.used() == 2


def test_new_label_may_come_before_its_version_if_allowed_but_an_old_one_does_not_move_to_one(
    tmp_path,
):
    world = World(tmp_path, allow_version_labels_for_unavailable_models=True)
    world.add(1, 2)
    world.configure("specific { versions: 1 }", {"stable": 1})
    with pytest.raises(StatusError, match="Servable not found for request: Specific"):
        world.used(None, "stable")
    world.tick()
    assert world.used(None, "stable") == 1
    with pytest.raises(
        StatusError, match="^FAILED_PRECONDITION: Request to assign label to version 2"
    ):
        world.configure("specific { versions: 2 }", {"stable": 2})
    world.tick()
    assert world.states() == {1: "AVAILABLE"}
    world.configure("all {}", {"stable": 1})
    world.tick()
    world.configure("specific { versions: 2 }", {"stable": 2})
    assert world.used(None, "stable") == 2


def test_labels_are_replaced_whole_and_unknown_ones_refused(world):
    world.add(1)
    world.configure()
    world.tick()
    world.configure("", {"old": 1})
    world.configure("", {"new": 1})
    assert world.used(None, "new") == 1
    with pytest.raises(
        StatusError, match="^INVALID_ARGUMENT: Unrecognized servable version label: old$"
    ):
        world.used(None, "old")


def test_polled_config_is_taken_over_and_a_bad_one_logged_once(tmp_path, caplog):
    world = World(tmp_path, model_config_file_poll_wait_seconds=10)
    world.add(1, 2)
    world.configure("specific { versions: 1 }")
    world.tick()
    world.config = text_format.Parse(
        str(world.config).replace("versions: 1", "versions: 2"), ModelServerConfig()
    )
    world.tick(5)
    assert world.used() == 1
    world.tick(5)
    assert world.used() == 2
    world.config.model_config_list.config[0].model_platform = ""
    world.tick(10)
    world.tick(10)
    assert world.used() == 2
    assert (
        caplog.text.count(
            "the new configuration is not taken over: INVALID_ARGUMENT: Illegal setting neither"
        )
        == 1
    )


def test_states_of_what_was_never_there_are_not_found(world):
    with pytest.raises(StatusError, match="^NOT_FOUND: Could not find any versions of model m$"):
        world.manager.states("m")
    world.add(1)
    world.configure()
    world.tick()
    with pytest.raises(StatusError, match="^NOT_FOUND: Could not find version 2 of model m$"):
        world.manager.states("m", 2)


def test_empty_config_serves_nothing_and_is_ready(world, caplog):
    caplog.set_level("INFO")
    world.manager.apply(ModelServerConfig())
    assert world.manager.ready()
    assert "Taking no action for empty config." in caplog.text


def test_version_that_fails_in_an_unforeseen_way_ends_with_its_error_and_blocks_no_other(tmp_path):
    world = World(tmp_path, max_num_load_retries=1, load_retry_interval_micros=60_000_000)
    world.add(1, 2)
    world.unforeseen.add(2)
    world.configure("all {}")
    world.manager.apply(world.config)
    for _ in range(4):
        world.manager.tick()
    assert world.loads.count(2) == 1, "not before the interval"
    assert [state for _, state, _ in world.manager.states("m", 1)] == [State.AVAILABLE]
    world.now += 61
    world.manager.tick()
    ((_, state, error),) = world.manager.states("m", 2)
    assert (state, world.loads.count(2)) == (State.END, 2)
    assert str(error) == (
        "INTERNAL: RecursionError: maximum recursion depth exceeded while decoding"
    )


def test_name_that_is_no_utf_8_is_passed_over(tmp_path):
    world = World(tmp_path)
    world.add(1)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")).mkdir()
    world.configure()
    world.manager.apply(world.config)
    world.manager.tick()
    assert world.loads == [1]


def test_model_that_cannot_be_looked_at_blocks_no_other(tmp_path, monkeypatch, caplog):
    world = World(tmp_path)
    world.add(1)
    world.configure()
    second = world.config.model_config_list.config.add()
    second.CopyFrom(world.config.model_config_list.config[0])
    world.config.model_config_list.config[0].name = "strange"
    world.config.model_config_list.config[0].base_path = "/strange"

    def scan(path):
        if path == "/strange":
            raise ZeroDivisionError
        return discovery.scan(path)

    monkeypatch.setattr(manager, "scan", scan)
    world.manager.apply(world.config)
    for _ in range(3):
        world.manager.tick()
        world.now += 2
    assert [state for _, state, _ in world.manager.states("m")] == [State.AVAILABLE]
    said = [line for line in caplog.messages if line.startswith("model strange: ")]
    assert said == ["model strange: ZeroDivisionError: ; what is loaded stays"], "once"
