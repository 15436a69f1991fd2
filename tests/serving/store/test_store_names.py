"""Which model of a store is meant where no name is given, or a wrong one."""

from pathlib import Path
from typing import Any

import pytest

from serving.store import model_names, open_model, open_store
from whisker_ml import storage
from whisker_ml.errors import BucketMissingError, DiskError, StorageError


@pytest.fixture(params=["folder", "bucket"])
def model_dir(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "models")
    return f"gs://{request.getfixturevalue('bucket')}/some/models"


def publish(model_dir: str, saved_model: Path, *names: str) -> None:
    for name in names:
        open_store(model_dir, name).publish(saved_model)


def write(path: str, content: bytes = b"x") -> None:
    if path.startswith("gs://"):
        storage.write(path, content, generation=0)
    else:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content)


def test_store_without_models_gives_the_first_one_the_default_name(model_dir: str) -> None:
    assert model_names(model_dir) == []
    assert open_model(model_dir, new=True).model_name == "whisker"
    assert open_model(model_dir, "digits", new=True).model_name == "digits"
    with pytest.raises(StorageError, match="models has no model: check --model_dir, or publish"):
        open_model(model_dir)
    with pytest.raises(StorageError, match="models has no model digits: check --model_dir, or"):
        open_model(model_dir, "digits")


def test_only_model_is_taken_whatever_else_lies_there(model_dir: str, saved_model: Path) -> None:
    publish(model_dir, saved_model, "digits")
    open_store(model_dir, "digits").promote(1)
    # A claim alone, half a version, pictures in folders with numbers, and a hidden folder.
    for path in (
        "lions/.claims/1",
        "half/1/fingerprint.pb",
        "data/0/1.jpg",
        "0",
        ".old/1/saved_model.pb",
    ):
        write(f"{model_dir}/{path}")
    assert model_names(f"{model_dir}/") == ["digits"]
    assert open_model(model_dir).model_name == "digits"
    assert open_model(model_dir, new=True).model_name == "digits"
    assert open_model(model_dir, "digits").versions() == [1]
    assert open_model(model_dir, "lions", new=True).model_name == "lions"


def test_of_several_models_and_for_a_wrong_name_the_error_lists_them(
    model_dir: str, saved_model: Path
) -> None:
    publish(model_dir, saved_model, "whisker", "digits", "v1.2")
    listed = "give --model_name, one of digits, v1.2, whisker$"
    for new in (False, True):
        with pytest.raises(StorageError, match=f"models has 3 models: {listed}"):
            open_model(model_dir, new=new)
    with pytest.raises(StorageError, match=f"models has no model lions: {listed}"):
        open_model(model_dir, "lions")
    with pytest.raises(StorageError, match="the model name 'a/b' cannot name a folder: "):
        open_model(model_dir, "a/b")


def test_root_of_a_bucket_is_a_store(bucket: str, saved_model: Path) -> None:
    publish(f"gs://{bucket}", saved_model, "digits")
    for address in (f"gs://{bucket}", f"gs://{bucket}/"):
        assert open_model(address).model_name == "digits"


def test_what_cannot_be_a_model_is_not_looked_through_in_a_bucket(
    bucket: str, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(f"gs://{bucket}", saved_model, "digits")
    write(f"gs://{bucket}/pictures/cats/1.jpg")
    looked_through = []
    list_objects = storage.list_objects

    def noted(address: str) -> Any:
        looked_through.append(address)
        return list_objects(address)

    monkeypatch.setattr(storage, "list_objects", noted)
    assert model_names(f"gs://{bucket}") == ["digits"]
    assert set(looked_through) == {f"gs://{bucket}/digits"}


def test_store_that_cannot_be_read_is_no_empty_one(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del bucket
    with pytest.raises(BucketMissingError, match="^gs://whisker-missing/models: "):
        open_model("gs://whisker-missing/models", new=True)

    def refused(_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(DiskError, match=f"^{tmp_path}: "):
        open_model(str(tmp_path))
