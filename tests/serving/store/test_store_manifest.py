"""A version is what was published under its number, or a line says what is not."""

import errno
import hashlib
import json
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serving.store import ModelStore, open_store
from serving.store.manifest import (
    MANIFEST_FILE,
    DigestError,
    LabelsError,
    ManifestError,
    NumberError,
    parse,
    verify,
)
from serving.store.store import NotASavedModelError
from whisker_ml.errors import DiskError

DATA = "variables/variables.data-00000-of-00001"


@pytest.fixture
def store(tmp_path: Path, saved_model: Path) -> ModelStore:
    """A store with version 1, of cats and dogs."""
    (saved_model / "assets.extra").mkdir()
    (saved_model / MANIFEST_FILE).write_text(
        '{"classes": ["cats", "dogs"], "metrics": {"loss": 0.1}, "version": 9}'
    )
    store = open_store(str(tmp_path / "models"), "whisker")
    store.publish(saved_model, clock=lambda: datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC))
    return store


def edit(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def test_a_published_manifest_is_the_given_one_with_number_time_and_digests(
    store: ModelStore, saved_model: Path
) -> None:
    manifest = store.manifest(1)
    assert manifest["classes"] == ["cats", "dogs"]
    assert manifest["metrics"] == {"loss": 0.1}
    assert (manifest["model_name"], manifest["version"]) == ("whisker", 1)
    assert manifest["published"] == "2031-01-02T03:04:05+00:00"
    assert sorted(manifest["files"]) == [
        "fingerprint.pb",
        "saved_model.pb",
        DATA,
        "variables/variables.index",
    ]
    digest = hashlib.sha256(b"graph").hexdigest()
    assert manifest["files"]["saved_model.pb"] == {"size": 5, "sha256": digest}
    assert json.loads((saved_model / MANIFEST_FILE).read_bytes())["version"] == 9
    store.verify(1)


def flip(folder: Path) -> None:
    content = bytearray((folder / DATA).read_bytes())
    content[5000] ^= 1
    (folder / DATA).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "error", "line"),
    [
        (
            flip,
            DigestError,
            f"{DATA} has another SHA-256 than when it was published: publish the model again",
        ),
        (
            lambda folder: (folder / DATA).write_bytes(b""),
            DigestError,
            f"{DATA} has 0 bytes, not 16384: publish",
        ),
        (
            lambda folder: (folder / "fingerprint.pb").unlink(),
            DigestError,
            "fingerprint.pb is missing: publish",
        ),
        (
            lambda folder: (folder / "notes.txt").touch(),
            DigestError,
            "notes.txt was not published with it: publish",
        ),
        (
            lambda folder: edit(folder, metrics={"loss": 0}),
            DigestError,
            f"{MANIFEST_FILE} differs from what was published",
        ),
        (
            lambda folder: edit(folder, files=[]),
            DigestError,
            f"{MANIFEST_FILE} differs from what was published",
        ),
        (
            lambda folder: edit(folder, classes=["dogs", "cats"]),
            LabelsError,
            (
                f"the classes in {MANIFEST_FILE}, now ['dogs', 'cats'], are not those that were"
                " published: publish"
            ),
        ),
    ],
)
def test_a_version_that_is_not_what_was_published_is_refused_with_what_is_not(
    store: ModelStore, damage: Any, error: type[Exception], line: str
) -> None:
    folder = Path(store.base_path, "1")
    damage(folder)
    with pytest.raises(error, match=rf"^{re.escape(f'{folder}: {line}')}"):
        store.verify(1)


def linked(name: str) -> Any:
    """Moves something out of the version, and puts a link to it in its place."""

    def damage(folder: Path) -> None:
        shutil.move(folder / name, folder.parent / "moved")
        (folder / name).symlink_to(folder.parent / "moved")

    return damage


def piped(name: str) -> Any:
    """Puts a pipe in its place."""

    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return damage


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        *((linked(name), name) for name in ("saved_model.pb", "variables", MANIFEST_FILE, DATA)),
        *((piped(name), name) for name in ("saved_model.pb", "pipe", "variables/pipe")),
        (lambda folder: (folder / "linked").symlink_to(folder.parent), "linked"),
        (lambda folder: (folder / "nowhere").symlink_to("nowhere"), "nowhere"),
    ],
)
def test_links_and_special_files_in_a_version_are_refused_by_name_and_never_followed(
    store: ModelStore, damage: Any, name: str
) -> None:
    folder = Path(store.base_path, "1")
    damage(folder)
    line = f"{folder}: {name} is a link, or not a regular file: publish the model again"
    with pytest.raises(DigestError, match=rf"^{re.escape(line)}"):
        store.verify(1)


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (linked("variables"), "variables"),
        (linked("saved_model.pb"), "saved_model.pb"),
        (piped("pipe"), "pipe"),
    ],
)
def test_a_folder_with_links_or_special_files_is_not_published_and_no_number_is_claimed(
    store: ModelStore, saved_model: Path, damage: Any, name: str
) -> None:
    damage(saved_model)
    with pytest.raises(
        NotASavedModelError,
        match=rf"^{saved_model}/{name} is a link, or not a regular file: publish",
    ):
        store.publish(saved_model)
    assert [path.name for path in Path(store.base_path, ".claims").iterdir()] == ["1"]


def test_a_folder_that_is_a_link_itself_is_published(
    store: ModelStore, saved_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "newest").symlink_to(saved_model)
    assert store.publish(tmp_path / "newest").number == 2
    store.verify(2)


def test_a_folder_that_cannot_be_listed_is_not_published_without_what_is_in_it(
    store: ModelStore, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def forbidden(path: Any) -> Any:
        if str(path).endswith("export/variables"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr("os.scandir", forbidden)
    with pytest.raises(DiskError, match=r"/variables: Permission denied"):
        store.publish(saved_model)


def test_an_old_version_under_a_new_number_is_refused(store: ModelStore) -> None:
    shutil.copytree(Path(store.base_path, "1"), Path(store.base_path, "4"))
    with pytest.raises(
        NumberError, match=r"/4 is a copy of what was published as version 1: a version keeps its"
    ):
        store.verify(4)
    store.verify(1)


def test_a_manifest_that_is_no_json_is_refused_before_a_number_is_claimed_and_in_a_version(
    store: ModelStore, saved_model: Path
) -> None:
    for content in ("{", "[]", "[" * 100_000):
        (saved_model / MANIFEST_FILE).write_text(content)
        with pytest.raises(
            ManifestError, match=rf"^{saved_model}/{MANIFEST_FILE}: cannot be read \(.*\); export"
        ):
            store.publish(saved_model)
        shutil.copy(saved_model / MANIFEST_FILE, Path(store.base_path, "1", MANIFEST_FILE))
        with pytest.raises(
            DigestError, match=rf"/1/{MANIFEST_FILE}: cannot be read \(.*\); export"
        ):
            store.verify(1)
    assert [path.name for path in Path(store.base_path, ".claims").iterdir()] == ["1"]


def test_a_folder_without_a_manifest_is_told_how_to_get_one(saved_model: Path) -> None:
    with pytest.raises(
        DigestError,
        match=r"^gs://b/1 has no assets\.extra/whisker\.json, .* whisker-store publish",
    ):
        verify(saved_model, 1, "gs://b/1")


def test_a_missing_manifest_is_an_empty_one() -> None:
    assert parse(b"", "") == {}
