"""Folders and files to and from a real emulator, and the one line for each thing that can go
wrong.
"""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from google.cloud import storage as google_storage
from google.cloud.storage.retry import DEFAULT_RETRY

from whisker_ml import storage
from whisker_ml.errors import (
    AddressError,
    BucketMissingError,
    ConflictError,
    CredentialsError,
    DiskError,
    ObjectMissingError,
    PermissionMissingError,
    UnreachableError,
    UnsafeNameError,
)
from whisker_ml.files import is_address, parse_address
from whisker_ml.storage import (
    copy_new,
    delete,
    download_file,
    download_folder,
    list_names,
    read,
    upload_folder,
    upload_new,
    write,
)

FILES = {
    "cats/one.jpg": b"1",
    "cats/two.JPG": b"",
    "dogs/größe 3.png": b"\x00" * 70_000,
    "notes.txt": b"text",
}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def put_object(bucket: str, name: str, content: bytes) -> None:
    with google_storage.Client(project="test") as client:
        client.bucket(bucket).blob(name).upload_from_string(content)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("gs://my-bucket", ("my-bucket", "")),
        ("gs://my-bucket/", ("my-bucket", "")),
        ("gs://my.bucket_1/a b/c/", ("my.bucket_1", "a b/c")),
    ],
)
def test_parse_address_gives_bucket_and_prefix(address: str, parts: tuple[str, str]) -> None:
    assert is_address(address)
    assert parse_address(address) == parts


@pytest.mark.parametrize(
    "address", ["gs://", "gs:///a", "gs://UPPER/a", "gs://a/b", "bucket/a", "gs://-a-b/c"]
)
def test_parse_address_of_what_can_be_no_address_says_what_is_expected(address: str) -> None:
    with pytest.raises(
        AddressError,
        match=rf"^{address} is not an address in a bucket: expected gs://bucket or gs://bucket/",
    ):
        parse_address(address)


def test_a_folder_uploaded_and_downloaded_again_is_the_same(
    bucket: str, pictures: Path, tmp_path: Path
) -> None:
    assert upload_folder(pictures, f"gs://{bucket}/data") == 4
    assert list_names(f"gs://{bucket}/data/") == sorted(FILES)
    assert download_folder(f"gs://{bucket}/data", tmp_path / "back") == 4
    assert content(tmp_path / "back") == FILES


def test_a_whole_bucket_is_an_address_and_a_prefix_is_no_beginning_of_a_name(
    bucket: str, pictures: Path, tmp_path: Path
) -> None:
    upload_folder(pictures, f"gs://{bucket}")
    put_object(bucket, "cats2/three.jpg", b"3")
    assert download_folder(f"gs://{bucket}", tmp_path / "all") == 5
    assert list_names(f"gs://{bucket}/cats") == ["one.jpg", "two.JPG"]
    assert list_names(f"gs://{bucket}/cat") == []


def test_download_folder_takes_only_the_suffixes_asked_for_and_no_folder_markers(
    bucket: str, pictures: Path, tmp_path: Path
) -> None:
    upload_folder(pictures, f"gs://{bucket}/data")
    put_object(bucket, "data/cats/", b"")
    assert download_folder(f"gs://{bucket}/data", tmp_path / "back", suffixes=[".jpg"]) == 2
    assert sorted(content(tmp_path / "back")) == ["cats/one.jpg", "cats/two.JPG"]
    assert download_folder(f"gs://{bucket}/data", tmp_path / "all") == 4


def test_download_folder_fetches_only_what_is_missing_or_differs(
    bucket: str, pictures: Path, tmp_path: Path
) -> None:
    upload_folder(pictures, f"gs://{bucket}/data")
    back = tmp_path / "back"
    download_folder(f"gs://{bucket}/data", back)
    (back / "cats/one.jpg").write_bytes(b"X")  # the same size, another content
    (back / "cats/two.JPG").unlink()
    before = {name: (back / name).stat().st_ino for name in ("dogs/größe 3.png", "notes.txt")}
    assert download_folder(f"gs://{bucket}/data", back) == 4
    assert content(back) == FILES
    assert {name: (back / name).stat().st_ino for name in before} == before


def test_upload_folder_sends_only_what_is_missing_or_differs(bucket: str, pictures: Path) -> None:
    upload_folder(pictures, f"gs://{bucket}/run")
    assert upload_folder(pictures, f"gs://{bucket}/run") == 0
    (pictures / "notes.txt").write_bytes(b"TEXT")
    (pictures / "more.txt").write_bytes(b"more")
    assert upload_folder(pictures, f"gs://{bucket}/run") == 2
    assert read(f"gs://{bucket}/run/notes.txt")[0] == b"TEXT"


def test_upload_folder_sends_what_makes_others_count_after_them(
    bucket: str, tmp_path: Path
) -> None:
    names = [f"checkpoints/step-{n}.{end}" for n in range(9) for end in ("data", "index")]
    for name in ("checkpoints/a", "state.json", "zebra", *names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert upload_folder(tmp_path, f"gs://{bucket}/run", last=(".index", "state.json")) == 21
    sent = storage.list_objects(f"gs://{bucket}/run")
    order = sorted(sent, key=lambda name: sent[name].updated)
    assert order[-1] == "state.json"
    assert {name for name in order if name.endswith(".index")} == {*order[-10:-1]}


def test_upload_new_refuses_to_replace_other_content(bucket: str, pictures: Path) -> None:
    put_object(bucket, "v/notes.txt", b"a stranger's")
    with pytest.raises(
        ConflictError, match=rf"^gs://{bucket}/v/notes\.txt is there already, with other content"
    ):
        upload_new({"notes.txt": pictures / "notes.txt"}, f"gs://{bucket}/v")
    assert read(f"gs://{bucket}/v/notes.txt")[0] == b"a stranger's"


def test_write_replaces_only_the_generation_that_was_read(bucket: str) -> None:
    address = f"gs://{bucket}/models.config"
    assert read(address) == (b"", 0)
    assert write(address, b"one", 0)
    assert not write(address, b"two", 0)
    content, generation = read(address)
    assert content == b"one"
    assert write(address, b"three", generation)
    assert not write(address, b"four", generation)
    assert read(address)[0] == b"three"


@pytest.mark.parametrize("name", ["data/../../outside", "data//etc/outside", "data/link/outside"])
def test_download_folder_refuses_names_that_lead_out_of_the_folder(
    name: str, bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "link").symlink_to(tmp_path / "elsewhere")
    put_object(bucket, "data/good", b"good")
    put_object(bucket, name, b"bad")
    with pytest.raises(
        UnsafeNameError, match=r"^the object '.*outside' would be written outside of "
    ):
        download_folder(f"gs://{bucket}/data", tmp_path / "back")
    assert content(tmp_path) == {}


def test_download_file_makes_its_folder_and_replaces_what_was_there(
    bucket: str, tmp_path: Path
) -> None:
    put_object(bucket, "weights/w.h5", b"new")
    target = tmp_path / "a" / "w.h5"
    for _ in range(2):
        download_file(f"gs://{bucket}/weights/w.h5", target)
        assert content(tmp_path) == {"a/w.h5": b"new"}
        target.write_bytes(b"old")


def test_download_file_of_a_missing_object_is_named_and_leaves_nothing(
    bucket: str, tmp_path: Path
) -> None:
    for address in (f"gs://{bucket}/none.h5", f"gs://no-{bucket}/none.h5"):
        with pytest.raises(
            ObjectMissingError, match=rf"^{address}: there is no such object, or no such bucket"
        ):
            download_file(address, tmp_path / "w.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_bucket_is_named(bucket: str, pictures: Path, tmp_path: Path) -> None:
    address = f"gs://no-{bucket}/data"
    for use in (
        lambda: list_names(address),
        lambda: read(address),
        lambda: write(address, b"", 0),
        lambda: upload_folder(pictures, address),
        lambda: upload_new({"a": pictures / "notes.txt"}, address),
        lambda: download_folder(address, tmp_path / "back"),
    ):
        with pytest.raises(
            BucketMissingError, match=rf"^{address}: there is no such bucket; check the address$"
        ):
            use()


def test_a_bucket_that_forbids_writing_is_named(bucket: str, gateway: Any, pictures: Path) -> None:
    gateway.refuse_uploads(start=1, status=403)
    with pytest.raises(
        PermissionMissingError, match=rf"^gs://{bucket}/run: the credentials in use may not do this"
    ):
        upload_folder(pictures, f"gs://{bucket}/run")


def test_credentials_that_are_refused_are_said_so(bucket: str, gateway: Any) -> None:
    gateway.refuse_uploads(start=1, status=401)
    with pytest.raises(
        CredentialsError, match=rf"^gs://{bucket}/a: there are no Google Cloud credentials that"
    ):
        write(f"gs://{bucket}/a", b"", 0)


def test_without_any_credentials_the_way_to_get_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "STORAGE_EMULATOR"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with pytest.raises(
        CredentialsError, match=r"there are no Google Cloud credentials that work; run gcloud auth"
    ):
        list_names("gs://some-bucket/data")


def test_a_service_that_cannot_be_reached_is_given_up_after_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        storage.CALL, "retry", DEFAULT_RETRY.with_delay(initial=0.01).with_timeout(0.1)
    )
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and not listening: connections are refused
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(
            UnreachableError, match=r"^gs://some-bucket/data: Cloud Storage does not answer"
        ):
            list_names("gs://some-bucket/data")


def test_a_service_that_never_answers_is_given_up_after_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        storage.CALL, "retry", DEFAULT_RETRY.with_delay(initial=0.01).with_timeout(0.1)
    )
    monkeypatch.setitem(storage.CALL, "timeout", (1.0, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(
            UnreachableError, match=r"^gs://some-bucket/data: Cloud Storage does not answer"
        ):
            list_names("gs://some-bucket/data")


def test_a_local_disk_that_cannot_be_written_is_named(bucket: str, tmp_path: Path) -> None:
    put_object(bucket, "data/a", b"1")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        DiskError, match=rf"^{tmp_path}/file/back: Not a directory: choose another folder$"
    ):
        download_folder(f"gs://{bucket}/data", tmp_path / "file" / "back")


def test_a_download_that_breaks_off_keeps_whole_files_only(
    bucket: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_folder(pictures, f"gs://{bucket}/data")
    real, calls = Path.replace, []

    def full(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) > 2:
            raise OSError(28, "No space left on device", str(target))
        return real(self, target)

    back = tmp_path / "back"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(
            DiskError, match="No space left on device: free some space there and try again"
        ):
            download_folder(f"gs://{bucket}/data", back)
    assert len(content(back)) == 2
    assert content(back).items() <= FILES.items()
    download_folder(f"gs://{bucket}/data", back)
    assert content(back) == FILES
    assert not any(path.name.startswith(".") for path in back.iterdir())


@pytest.mark.parametrize(
    ("use", "answer"),
    [
        (lambda address, _: read(f"{address}/notes.txt")[0], FILES["notes.txt"]),
        (lambda address, _: read(f"{address}/missing"), (b"", 0)),
        (lambda address, _: len(list_names(address)), 4),
        (lambda address, folder: download_folder(address, folder / "back"), 4),
        (lambda address, folder: download_file(f"{address}/notes.txt", folder / "notes"), None),
        (lambda address, _: bool(write(f"{address}/new", b"new", 0)), True),
        (lambda address, _: write(f"{address}/notes.txt", b"new", 0), 0),
        (lambda address, folder: upload_new({"a": folder / "notes.txt"}, address), None),
        (lambda address, _: copy_new(f"{address}/notes.txt", f"{address}/copy"), True),
        (lambda address, _: copy_new(f"{address}/missing", f"{address}/copy"), False),
        (lambda address, _: delete(["missing"], address), None),
    ],
)
def test_an_answer_that_is_cut_in_the_middle_is_asked_for_again(
    bucket: str,
    gateway: Any,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    use: Any,
    answer: Any,
) -> None:
    monkeypatch.setitem(
        storage.CALL, "retry", DEFAULT_RETRY.with_delay(initial=0.01).with_timeout(20)
    )
    address = f"gs://{bucket}/data"
    upload_folder(pictures, address)
    gateway.cut_answers()
    assert use(address, pictures) == answer
    assert gateway.cuts_left == 0


def test_a_missing_object_whose_answer_is_cut_is_still_a_missing_object(
    bucket: str, gateway: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        storage.CALL, "retry", DEFAULT_RETRY.with_delay(initial=0.01).with_timeout(20)
    )
    gateway.cut_answers()
    with pytest.raises(ObjectMissingError, match="there is no such object"):
        download_file(f"gs://{bucket}/missing", tmp_path / "file")
    assert gateway.cuts_left == 0


def test_a_service_whose_answers_are_always_cut_does_not_answer(
    bucket: str, gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        storage.CALL, "retry", DEFAULT_RETRY.with_delay(initial=0.01).with_timeout(0.2)
    )
    gateway.cut_answers(10**6)
    with pytest.raises(UnreachableError, match="Cloud Storage does not answer"):
        read(f"gs://{bucket}/missing")


def test_a_file_too_large_for_one_request_goes_up_in_pieces_and_comes_back(
    bucket: str, tmp_path: Path
) -> None:
    large = os.urandom(1 << 20) * 9  # google-cloud-storage sends up to 8 MiB in one request
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "large").write_bytes(large)
    upload_new({"large": tmp_path / "up" / "large"}, f"gs://{bucket}/v")
    download_folder(f"gs://{bucket}/v", tmp_path / "back")
    assert content(tmp_path / "back") == {"large": large}
