"""What a store promises, on a folder and on a bucket alike."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from serving.config import ConfigError
from serving.config.models_config import named, parse, with_live
from serving.store import ModelStore, open_store
from serving.store.manifest import MANIFEST_FILE, DigestError
from serving.store.state import State, VersionMissingError
from serving.store.store import NotASavedModelError, OvertakenError
from whisker_ml.errors import StorageError
from whisker_ml.files import is_address
from whisker_ml.storage import download_folder, list_names, upload_folder


def names(address: str) -> list[str]:
    if is_address(address):
        return list_names(address)
    return sorted(
        path.relative_to(address).as_posix() for path in Path(address).rglob("*") if path.is_file()
    )


def put(address: str, files: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "put" if is_address(address) else Path(address)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if is_address(address):
        upload_folder(folder, address)


def content(address: str, tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / "got" if is_address(address) else Path(address)
    if is_address(address):
        download_folder(address, folder)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_publish_gives_the_next_number_and_a_copy_of_every_file(
    model_dir: str, saved_model: Path, tmp_path: Path
) -> None:
    store = open_store(model_dir, "whisker")
    assert store.versions() == []
    first, second = store.publish(saved_model), store.publish(saved_model)
    assert (first.number, second.number) == (1, 2)
    assert second.path == f"{model_dir}/whisker/2"
    assert store.versions() == [1, 2]
    published = content(second.path, tmp_path)
    assert json.loads(published.pop(MANIFEST_FILE))["version"] == 2
    assert published == content(str(saved_model), tmp_path)
    assert store.live_version() is None


def test_promote_makes_a_version_live_and_a_second_promote_replaces_it(
    model_dir: str, saved_model: Path, tmp_path: Path
) -> None:
    store = open_store(model_dir, "whisker")
    for _ in range(2):
        store.promote(store.publish(saved_model).number)
    assert store.live_version() == 2
    (model,) = parse(content(model_dir, tmp_path)["models.config"], "").model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == (
        "whisker",
        f"{model_dir}/whisker",
        "tensorflow",
    )
    assert list(model.model_version_policy.specific.versions) == [2]
    store.promote(1)
    assert store.live_version() == 1


def test_promote_keeps_what_others_wrote_into_models_config(
    model_dir: str, saved_model: Path, tmp_path: Path
) -> None:
    stranger = (
        'model_config_list { config { name: "digits" base_path: "/d" model_platform:'
        ' "tensorflow" } }'
    )
    put(model_dir, {"models.config": stranger.encode()}, tmp_path)
    store = open_store(model_dir, "whisker")
    store.promote(store.publish(saved_model).number)
    models = parse(content(model_dir, tmp_path)["models.config"], "").model_config_list.config
    assert [(model.name, model.base_path) for model in models] == [
        ("digits", "/d"),
        ("whisker", f"{model_dir}/whisker"),
    ]


def test_promote_of_a_version_that_is_not_there_names_those_that_are(
    model_dir: str, saved_model: Path
) -> None:
    store = open_store(model_dir, "whisker")
    with pytest.raises(
        VersionMissingError, match=r"/whisker has no version 1: its versions are none$"
    ):
        store.promote(1)
    store.publish(saved_model)
    with pytest.raises(
        VersionMissingError, match=r"/whisker has no version 7: its versions are 1$"
    ):
        store.promote(7)
    assert "models.config" not in names(model_dir)


def test_a_broken_models_config_is_named_and_left_alone(
    model_dir: str, saved_model: Path, tmp_path: Path
) -> None:
    put(model_dir, {"models.config": b"model_config_list {"}, tmp_path)
    store = open_store(model_dir, "whisker")
    store.publish(saved_model)
    for use in (store.live_version, lambda: store.promote(1)):
        with pytest.raises(
            ConfigError, match=re.escape(f"{model_dir}/models.config is not a ModelServerConfig")
        ):
            use()
    assert content(model_dir, tmp_path)["models.config"] == b"model_config_list {"


def test_publish_respects_what_other_tools_put_there(
    model_dir: str, saved_model: Path, tmp_path: Path
) -> None:
    strangers = {
        "0007/saved_model.pb": b"leading zeros",
        "12/variables/variables.index": b"no graph: nothing to load",
        "40": b"a file",
        "notes.txt": b"",
        "v50/saved_model.pb": b"no number",
        "99999999999999999999/saved_model.pb": b"no int64",
    }
    put(f"{model_dir}/whisker", strangers, tmp_path)
    store = open_store(model_dir, "whisker")
    assert store.versions() == [7]
    assert store.publish(saved_model).number == 41
    assert store.versions() == [7, 41]
    assert strangers.items() <= content(f"{model_dir}/whisker", tmp_path).items()


def test_a_number_claimed_once_is_never_given_again_nor_one_below_it(
    model_dir: str, saved_model: Path, tmp_path: Path
) -> None:
    put(f"{model_dir}/whisker", {"1/saved_model.pb": b"graph", ".claims/41": b""}, tmp_path)
    assert open_store(model_dir, "whisker").publish(saved_model).number == 42


def test_eight_publishers_at_once_get_eight_whole_versions(
    model_dir: str, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_have_looked = Barrier(8, timeout=30)
    real = ModelStore._taken

    def looked_together(self: ModelStore) -> set[int]:
        taken = real(self)
        all_have_looked.wait()
        return taken

    monkeypatch.setattr(ModelStore, "_taken", looked_together)
    with ThreadPoolExecutor(8) as pool:
        stores = [open_store(model_dir, "whisker") for _ in range(8)]
        published = list(pool.map(lambda store: store.publish(saved_model), stores))
    assert sorted(version.number for version in published) == list(range(1, 9))
    assert stores[0].versions() == list(range(1, 9))
    for version in published:
        assert names(version.path) == sorted([MANIFEST_FILE, *names(str(saved_model))])
        stores[0].verify(version.number)


def test_models_promoted_at_once_are_all_in_models_config(
    model_dir: str, saved_model: Path
) -> None:
    stores = [open_store(model_dir, f"model{number}") for number in range(8)]
    for store in stores:
        store.publish(saved_model)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda store: store.promote(1), stores))
    assert [store.live_version() for store in stores] == [1] * 8


def test_publish_of_a_folder_without_saved_model_pb_is_refused_and_claims_nothing(
    model_dir: str, saved_model: Path
) -> None:
    (saved_model / "saved_model.pb").unlink()
    with pytest.raises(
        NotASavedModelError, match=rf"^{saved_model} is not a SavedModel: it has no saved_model\.pb"
    ):
        open_store(model_dir, "whisker").publish(saved_model)
    if is_address(model_dir):
        assert names(model_dir) == []
    else:
        assert not Path(model_dir).exists()


@pytest.mark.parametrize("model_name", ["", "a/b", "..", ".hidden"])
def test_a_model_name_that_is_no_folder_name_is_refused(model_name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot name a folder"):
        open_store(str(tmp_path), model_name)


def store_of(count: int, model_dir: str, saved_model: Path) -> ModelStore:
    store = open_store(model_dir, "whisker")
    for _ in range(count):
        store.publish(saved_model)
    return store


def test_a_label_is_moved_beside_the_live_version_and_keeps_its_version_loaded(
    model_dir: str, saved_model: Path
) -> None:
    store = store_of(3, model_dir, saved_model)
    store.promote(1)
    store.promote(2, "canary")
    assert store.labels() == {"stable": 1, "canary": 2}
    store.promote(3, "canary")
    (model,) = store.config().model_config_list.config
    assert list(model.model_version_policy.specific.versions) == [1, 3]
    assert (store.live_version(), store.previous()) == (1, None)


def test_rollback_goes_back_step_by_step_and_never_forward_again(
    model_dir: str, saved_model: Path
) -> None:
    store = store_of(4, model_dir, saved_model)
    for version in (1, 2, 4, 3):
        store.promote(version)
    assert store.previous() == 4
    assert [store.rollback() for _ in range(3)] == [4, 2, 1]
    assert store.live_version() == 1
    with pytest.raises(
        VersionMissingError,
        match=r"/whisker has no version that was live before 1: promote one of these: 1, 2, 3, 4$",
    ):
        store.rollback()
    assert store.live_version() == 1
    store.promote(3)
    assert store.previous() == 1


def test_rollback_of_the_only_version_asks_for_another(model_dir: str, saved_model: Path) -> None:
    store = store_of(1, model_dir, saved_model)
    store.promote(1)
    with pytest.raises(
        VersionMissingError,
        match=r"was live before 1: it is the only version, so publish another one first$",
    ):
        store.rollback()


def test_a_models_config_that_somebody_else_wrote_is_where_rollback_starts(
    model_dir: str, saved_model: Path, tmp_path: Path
) -> None:
    store = store_of(4, model_dir, saved_model)
    for version in (1, 2, 3):
        store.promote(version)
    # As before a promotion of 3 that was killed between the history and models.config.
    store.edit_config(
        lambda state: with_live(state.config, "whisker", store.base_path, 2), back=True
    )
    put(f"{model_dir}/whisker", {".live.json": b"[1, 2, 3]"}, tmp_path)
    assert store.previous() == 1
    store.promote(4)
    assert store.previous() == 2


def test_a_change_that_would_make_a_models_config_no_server_takes_is_refused_and_nothing_is_written(
    model_dir: str, saved_model: Path, tmp_path: Path
) -> None:
    store = store_of(1, model_dir, saved_model)
    store.promote(1)
    before = content(model_dir, tmp_path)

    def forget_versions(state: State) -> Any:
        config = state.config
        del config.model_config_list.config[0].model_version_policy.specific.versions[:]
        return config

    with pytest.raises(ConfigError, match="the model whisker has no specific versions"):
        store.edit_config(forget_versions)
    assert content(model_dir, tmp_path) == before


def test_prune_keeps_the_newest_the_loaded_the_labelled_the_previous_and_what_is_not_ours(
    model_dir: str, saved_model: Path, tmp_path: Path
) -> None:
    put(f"{model_dir}/whisker", {"1/saved_model.pb": b"another tool's", "notes.txt": b""}, tmp_path)
    store = store_of(7, model_dir, saved_model)
    for version in (2, 3, 4):
        store.promote(version)
    store.promote(5, "canary")
    assert store.prune(1) == [2, 6, 7]
    assert store.versions() == [1, 3, 4, 5, 8]
    assert store.prune(1) == []
    left = {name.split("/")[0] for name in names(f"{model_dir}/whisker")}
    assert left == {".claims", ".live.json", "1", "3", "4", "5", "8", "notes.txt"}
    assert store.publish(saved_model).number == 9
    with pytest.raises(StorageError, match=r"^cannot keep 0 versions: expected 1 or more$"):
        store.prune(0)


def test_what_another_tool_published_has_no_manifest_and_is_refused_by_verify(
    model_dir: str, tmp_path: Path
) -> None:
    put(f"{model_dir}/whisker", {"20311122/saved_model.pb": b"graph"}, tmp_path)
    store = open_store(model_dir, "whisker")
    assert store.manifest(20311122) == {}
    assert store.read_file(20311122, "assets.extra/ledger.jsonl") == b""
    with pytest.raises(DigestError, match=r"/whisker/20311122 has no assets\.extra/whisker\.json"):
        store.verify(20311122)
    with pytest.raises(
        VersionMissingError, match=r"/whisker has no version 5: its versions are 20311122$"
    ):
        store.verify(5)


def test_verify_reads_every_file_where_it_lies(
    model_dir: str, saved_model: Path, tmp_path: Path
) -> None:
    store = store_of(2, model_dir, saved_model)
    store.verify(1)
    put(f"{model_dir}/whisker", {"2/variables/variables.index": b"iNdex"}, tmp_path)
    store.verify(1)
    with pytest.raises(
        DigestError,
        match=rf"^{model_dir}/whisker/2: variables/variables\.index has another SHA-256",
    ):
        store.verify(2)


def test_a_clock_that_jumps_back_changes_no_order(model_dir: str, saved_model: Path) -> None:
    store = open_store(model_dir, "whisker")
    for year in (2031, 1999, 2010):
        store.promote(
            store.publish(
                saved_model, clock=lambda year=year: datetime(year, 1, 1, tzinfo=UTC)
            ).number
        )
    assert [store.manifest(version)["published"][:4] for version in store.versions()] == [
        "2031",
        "1999",
        "2010",
    ]
    assert store.previous() == 2
    assert store.prune(1) == [1]


def test_a_saved_model_in_text_form_is_published_listed_promoted_and_pruned(
    model_dir: str, saved_model: Path
) -> None:
    (saved_model / "saved_model.pb").rename(saved_model / "saved_model.pbtxt")
    store = store_of(3, model_dir, saved_model)
    assert store.versions() == [1, 2, 3]
    store.verify(1)
    store.promote(3)
    assert store.prune(1) == [1, 2]
    assert {name.split("/")[0] for name in names(store.base_path)} >= {".claims", "3"}
    assert not [name for name in names(store.base_path) if name.startswith((".staging", "1", "2"))]


def test_of_two_forms_of_a_saved_model_one_has_to_go(model_dir: str, saved_model: Path) -> None:
    (saved_model / "saved_model.pbtxt").touch()
    with pytest.raises(
        NotASavedModelError,
        match=rf"^{saved_model} has saved_model\.pb and saved_model\.pbtxt: remove one of them$",
    ):
        open_store(model_dir, "whisker").publish(saved_model)


def test_a_promotion_over_what_is_no_longer_live_changes_nothing(
    model_dir: str, saved_model: Path
) -> None:
    store = store_of(3, model_dir, saved_model)
    with pytest.raises(OvertakenError, match=r"/whisker: version None is live by now, not 3$"):
        store.promote(1, over=3)
    store.promote(1, over=None)
    store.promote(2)
    with pytest.raises(OvertakenError, match=r"/whisker: version 2 is live by now, not 1$"):
        store.promote(3, over=1)
    assert (store.live_version(), store.previous()) == (2, 1)
    store.promote(3, over=2)
    assert store.live_version() == 3


def test_a_version_is_withdrawn_unless_something_uses_it(model_dir: str, saved_model: Path) -> None:
    store = store_of(5, model_dir, saved_model)
    store.promote(1)
    store.promote(2)
    store.promote(3, "canary")
    for version in (1, 2, 3, 5, 9):
        store.withdraw(version)
    assert store.versions() == [1, 2, 3, 4]
    assert store.publish(saved_model).number == 6


def test_what_somebody_deleted_by_hand_is_named_no_longer_after_the_next_change(
    model_dir: str, saved_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(3, model_dir, saved_model)
    store.promote(1)
    store.promote(2, "canary")
    store._delete(2)
    store.promote(3)
    assert store.labels() == {"stable": 3}
    assert named(store.config(), "whisker") == {3}
    assert "/whisker has no version 2 any more: models.config names it no longer" in caplog.text


def test_a_change_may_not_name_what_is_not_there(model_dir: str, saved_model: Path) -> None:
    store = store_of(1, model_dir, saved_model)
    with pytest.raises(VersionMissingError, match=r"/whisker has no version 9: its versions are 1"):
        store.edit_config(lambda state: with_live(state.config, "whisker", store.base_path, 9))
    assert store.live_version() is None


def before_the_next_write(store: ModelStore, patched: pytest.MonkeyPatch, change: Any) -> None:
    """Makes a change, once, at the last moment at which others may come before a write: before the
    lock of a folder, and before the first object of a bucket.
    """
    name = "_replace" if is_address(store.base_path) else "_exclusive"
    real = getattr(type(store), name)

    def overtaken(self: ModelStore, *arguments: Any) -> Any:
        patched.setattr(type(store), name, real)
        change()
        return real(self, *arguments)

    patched.setattr(type(store), name, overtaken)


@pytest.mark.parametrize("label", ["stable", "canary"])
def test_what_is_pruned_between_the_look_and_the_write_is_not_promoted(
    label: str, model_dir: str, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(3, model_dir, saved_model)
    store.promote(3)
    before_the_next_write(store, monkeypatch, lambda: store.prune(1))
    with pytest.raises(VersionMissingError, match=r"has no version 1: its versions are 3$"):
        store.promote(1, label)
    assert (store.labels(), store.versions()) == ({"stable": 3}, [3])


def test_a_rollback_goes_to_what_was_live_before_what_is_live_when_it_is_written(
    model_dir: str, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(4, model_dir, saved_model)
    for version in (1, 2):
        store.promote(version)

    def others() -> None:
        for version in (3, 4):
            store.promote(version)
        assert store.prune(1) == [1, 2]

    before_the_next_write(store, monkeypatch, others)
    assert store.rollback() == 3
    assert named(store.config(), "whisker") == {3}


def test_what_is_in_use_is_not_even_marked(
    model_dir: str, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(2, model_dir, saved_model)
    for version in (1, 2):
        store.promote(version)
    # A rollback that came meanwhile would pass over it.
    monkeypatch.delattr(type(store), "_retire")
    store.withdraw(1)
    assert store.rollback() == 1


def test_a_promotion_in_the_middle_of_a_look_does_not_hide_what_was_live_before(
    model_dir: str, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(3, model_dir, saved_model)
    for version in (1, 2, 3):
        store.promote(version)
    real = type(store)._read

    def overtaken(self: ModelStore, path: str) -> Any:
        found = real(self, path)
        monkeypatch.setattr(type(store), "_read", real)
        store.promote(1)
        return found

    # After the history, and before models.config.
    monkeypatch.setattr(type(store), "_read", overtaken)
    assert store.previous() == 3


def test_a_rollback_that_another_write_comes_before_still_finds_what_was_live(
    model_dir: str, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(2, model_dir, saved_model)
    for version in (2, 1, 2):
        store.promote(version)
    replaced = type(store)._replace

    def killed(self: ModelStore, path: str, *arguments: Any) -> Any:
        if path == store.config_path:
            raise KeyboardInterrupt
        return replaced(self, path, *arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(type(store), "_replace", killed)
        store.rollback()
    assert store.rollback() == 1
    assert store.rollback() == 2
