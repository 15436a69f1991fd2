"""The store in a bucket, when uploads fail on the wire."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.cloud import storage as google_storage
from google.cloud.storage.retry import DEFAULT_RETRY

from serving.store import gcs, open_store
from serving.store.gcs import Bucket
from serving.store.state import VersionMissingError
from whisker_ml import storage
from whisker_ml.errors import (
    AddressError,
    BucketMissingError,
    ConflictError,
    PermissionMissingError,
    UnreachableError,
)
from whisker_ml.storage import list_names, read, write

# The claim; saved_model.pb, staged; three other files and the manifest; saved_model.pb, copied to
# its place.
WRITES = 7
STAGED = 2


def versions_in(names: list[str]) -> list[str]:
    assert not [name for name in names if name.startswith(".staging/")]
    return [name for name in names if not name.startswith(".claims/")]


@pytest.mark.parametrize("good", range(WRITES))
def test_an_upload_that_is_refused_between_any_two_writes_leaves_nothing_loadable(
    good: int, bucket: str, gateway: Any, saved_model: Path
) -> None:
    store = open_store(f"gs://{bucket}/models", "whisker")
    gateway.refuse_uploads(start=good + 1, status=403)
    with pytest.raises(
        PermissionMissingError,
        match=rf"^gs://{bucket}/models/whisker/\S+: the credentials in use may not do this",
    ):
        store.publish(saved_model)
    assert len(gateway.names) >= good + 1
    assert store.versions() == []
    assert versions_in(list_names(f"gs://{bucket}/models/whisker")) == []
    gateway.accept_uploads()
    assert store.publish(saved_model).number == (2 if good else 1)


def test_saved_model_pb_is_the_last_object_to_be_uploaded(
    bucket: str, gateway: Any, saved_model: Path
) -> None:
    open_store(f"gs://{bucket}/models", "whisker").publish(saved_model)
    assert gateway.names[0].endswith(".claims/1")
    assert gateway.names[-1].endswith("whisker/1/saved_model.pb")
    assert len(gateway.names) == WRITES


def test_an_upload_whose_answer_is_lost_is_made_again_and_meets_its_own_object(
    bucket: str, gateway: Any, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        storage.CALL, "retry", DEFAULT_RETRY.with_delay(initial=0.01).with_timeout(20)
    )
    store = open_store(f"gs://{bucket}/models", "whisker")
    gateway.refuse_uploads(start=WRITES, status=503, after_storing=True, count=1)
    assert store.publish(saved_model).number == 1
    assert gateway.names.count("models/whisker/1/saved_model.pb") == 2
    assert store.versions() == [1]


def test_a_service_that_stays_down_at_the_last_write_leaves_nothing_loadable(
    bucket: str, gateway: Any, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        storage.CALL, "retry", DEFAULT_RETRY.with_delay(initial=0.01).with_timeout(0.1)
    )
    store = open_store(f"gs://{bucket}/models", "whisker")
    # Stored at every attempt, yet never confirmed: what stays in the end must still be removed.
    gateway.refuse_uploads(start=WRITES, status=503, after_storing=True)
    with pytest.raises(
        UnreachableError,
        match=rf"^gs://{bucket}/models/whisker/\.staging/1: Cloud Storage does not answer",
    ):
        store.publish(saved_model)
    assert versions_in(list_names(f"gs://{bucket}/models/whisker")) == []


def test_remains_that_cannot_be_removed_are_named(
    bucket: str, gateway: Any, saved_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(f"gs://{bucket}/models", "whisker")
    gateway.refuse_uploads(start=WRITES, status=403, deletions_too=True)
    with pytest.raises(PermissionMissingError):
        store.publish(saved_model)
    assert f"gs://{bucket}/models/whisker/1 is incomplete and could not be removed: " in caplog.text
    assert store.versions() == []


def test_a_bucket_that_does_not_exist_is_named(bucket: str, saved_model: Path) -> None:
    missing = f"gs://no-{bucket}/models"
    store = open_store(missing, "whisker")
    for use in (lambda: store.publish(saved_model), store.versions, store.live_version):
        with pytest.raises(
            BucketMissingError,
            match=rf"^{missing}/\S+: there is no such bucket; check the address$",
        ):
            use()


def test_a_folder_marker_with_a_number_is_a_number_taken_and_no_version(
    bucket: str, saved_model: Path
) -> None:
    # What TensorFlow writes first when it exports straight into a bucket.
    with google_storage.Client(project="test") as client:
        client.bucket(bucket).blob("models/whisker/30/").upload_from_string(b"")
    store = open_store(f"gs://{bucket}/models", "whisker")
    assert store.versions() == []
    assert store.publish(saved_model).number == 31


def test_a_model_dir_with_an_impossible_bucket_name_is_refused() -> None:
    with pytest.raises(AddressError, match=r"^gs://NO/models is not an address in a bucket"):
        open_store("gs://NO/models", "whisker")


def test_a_stranger_who_takes_the_number_meanwhile_keeps_every_object(
    bucket: str, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"gs://{bucket}/models", "whisker")
    address = f"gs://{bucket}/models/whisker/1"
    real = Bucket._claim

    def claimed_and_then_overtaken(self: Bucket, number: int, publisher: str) -> bool:
        write(f"{address}/saved_model.pb", b"a stranger's", 0)
        return real(self, number, publisher)

    monkeypatch.setattr(Bucket, "_claim", claimed_and_then_overtaken)
    with pytest.raises(
        ConflictError, match=rf"^{address}/saved_model\.pb is there already: another tool took"
    ):
        store.publish(saved_model)
    assert list_names(address) == ["saved_model.pb"]
    assert read(f"{address}/saved_model.pb")[0] == b"a stranger's"


@pytest.fixture
def stop_at_the_last_step(bucket: str, saved_model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Publishes version 1, and calls something when all but saved_model.pb is at its place."""
    real = storage.copy_new

    def publish(meanwhile: Any) -> Any:
        def paused(source: str, target: str, generation: int) -> bool:
            monkeypatch.setattr(storage, "copy_new", real)
            meanwhile()
            return real(source, target, generation)

        monkeypatch.setattr(storage, "copy_new", paused)
        return open_store(f"gs://{bucket}/models", "whisker").publish(saved_model)

    return publish


def test_what_a_slow_publisher_is_writing_is_left_alone_for_an_hour(
    bucket: str, saved_model: Path, stop_at_the_last_step: Any
) -> None:
    store = open_store(f"gs://{bucket}/models", "whisker")
    assert stop_at_the_last_step(lambda: store.publish(saved_model)).number == 1
    assert store.versions() == [1, 2]
    for version in (1, 2):
        store.verify(version)


def test_a_publisher_that_was_taken_for_killed_makes_nothing_visible(
    bucket: str, saved_model: Path, stop_at_the_last_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs, "_KILLED_AFTER", timedelta(0))
    store = open_store(f"gs://{bucket}/models", "whisker")
    with pytest.raises(
        ConflictError,
        match=r"whisker/1 took so long that another publisher removed it as abandoned",
    ):
        stop_at_the_last_step(lambda: store.publish(saved_model))
    assert {name.split("/")[0] for name in versions_in(list_names(store.base_path))} == {"2"}
    store.verify(2)


def test_what_a_killed_publisher_has_sent_is_not_sent_again(
    bucket: str, gateway: Any, saved_model: Path
) -> None:
    address = f"gs://{bucket}/models/whisker"
    # As a killed publisher leaves it: a claim, the staged graph, one of the files whole, one of
    # other content.
    write(f"{address}/.claims/1", b"", 0)
    write(f"{address}/.staging/1", b"graph", 0)
    write(f"{address}/1/variables/variables.data-00000-of-00001", bytes(range(256)) * 64, 0)
    write(f"{address}/1/fingerprint.pb", b"FINGERPRINT", 0)
    gateway.names.clear()
    store = open_store(f"gs://{bucket}/models", "whisker")
    assert store.publish(saved_model).number == 2
    store.verify(2)
    copied = [name for name in gateway.copied if "variables" in name]
    assert copied == ["models/whisker/2/variables/variables.data-00000-of-00001"]
    assert gateway.names.count(copied[0]) == 1
    assert not gateway.copied & {"models/whisker/2/fingerprint.pb"}


def test_remains_of_others_that_may_not_be_deleted_do_not_keep_a_version_from_being_published(
    bucket: str, gateway: Any, saved_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.refuse_uploads(start=1000, status=403, deletions_too=True)
    store = open_store(f"gs://{bucket}/models", "whisker")
    assert store.publish(saved_model).number == 1
    assert (
        f"what other publishers left in gs://{bucket}/models/whisker could not be removed: "
        in caplog.text
    )
    store.verify(1)


def test_a_prune_that_was_killed_is_finished_by_a_later_publish(
    bucket: str, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs, "_KILLED_AFTER", timedelta(0))
    store = open_store(f"gs://{bucket}/models", "whisker")
    store.publish(saved_model)
    storage.delete(["saved_model.pb"], f"{store.base_path}/1")
    store.publish(saved_model)
    assert {name.split("/")[0] for name in versions_in(list_names(store.base_path))} == {"2"}


def test_a_last_step_whose_answer_was_lost_meets_its_own_object_and_replaces_no_other(
    bucket: str, gateway: Any, saved_model: Path, stop_at_the_last_step: Any
) -> None:
    # The emulator ignores preconditions of copies; the gateway answers as Cloud Storage does.
    gateway.refuse_uploads(start=WRITES, count=1, status=412, after_storing=True)
    assert open_store(f"gs://{bucket}/models", "whisker").publish(saved_model).number == 1
    stranger = f"gs://{bucket}/models/whisker/2/saved_model.pb"

    def overtake() -> None:
        write(stranger, b"a stranger's", 0)
        gateway.refuse_uploads(start=len(gateway.names) + 1, status=412)

    with pytest.raises(
        ConflictError,
        match=rf"^{stranger} is there already, with other content: nothing was replaced",
    ):
        stop_at_the_last_step(overtake)
    assert versions_in(list_names(f"gs://{bucket}/models/whisker/2")) == ["saved_model.pb"]
    assert read(stranger)[0] == b"a stranger's"


def test_a_prune_that_was_killed_before_it_deleted_is_finished_by_the_next(
    bucket: str, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"gs://{bucket}/models", "whisker")
    for _ in range(3):
        store.publish(saved_model)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Bucket, "_delete", killed)
        store.prune(1)
    assert store.versions() == [1, 2, 3]
    with pytest.raises(
        VersionMissingError, match=r"whisker/1 is being deleted: choose another of 3$"
    ):
        store.promote(1)
    assert store.prune(3) == [1, 2]
    assert store.versions() == [3]


def test_a_version_that_goes_live_while_it_is_to_be_deleted_stays_and_can_be_promoted_again(
    bucket: str, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"gs://{bucket}/models", "whisker")
    for _ in range(3):
        store.publish(saved_model)
    real = Bucket._retire

    def overtaken(self: Bucket, versions: Any) -> Any:
        store.promote(1)
        return real(self, versions)

    with monkeypatch.context() as patched:
        patched.setattr(Bucket, "_retire", overtaken)
        assert store.prune(1) == [2]
    store.promote(3)
    assert store.rollback() == 1


def test_a_rollback_whose_answer_is_lost_goes_back_once(
    bucket: str, gateway: Any, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        storage.CALL, "retry", DEFAULT_RETRY.with_delay(initial=0.01).with_timeout(20)
    )
    store = open_store(f"gs://{bucket}/models", "whisker")
    for _ in range(3):
        store.promote(store.publish(saved_model).number)
    gateway.refuse_uploads(start=len(gateway.names) + 1, status=503, after_storing=True, count=1)
    assert store.rollback() == 2
    assert store.live_version() == 2
