"""Versions in a bucket, through the emulator that STORAGE_EMULATOR_HOST names."""

import gc
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from serving.server import discovery, loading
from serving.server.status import StatusError
from whisker_ml import storage


def test_versions_in_a_bucket_are_found_loaded_and_cleaned_up(
    exported, bucket, tmp_path, monkeypatch
):
    address = f"gs://{bucket}/models/half"
    storage.upload_folder(exported / "half", address)
    storage.write(f"{address}/.claims/3", b"", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert discovery.scan(address) == {1: f"{address}/1", 2: f"{address}/2"}
    loaded = loading.load(2, f"{address}/2", loading.LoadingOptions())
    signature = loaded.signatures["serving_default"]
    feeds = {signature.inputs["x"].name: np.ones((1, 1), np.float32)}
    assert loaded.run(feeds, [signature.outputs["y"].name], None)[0].tolist() == [[3.5]]
    assert len(list(tmp_path.iterdir())) == 1
    loaded.close()
    del loaded
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_incomplete_version_in_a_bucket_is_refused_by_its_address_and_leaves_nothing(
    exported, bucket, tmp_path, monkeypatch
):
    address = f"gs://{bucket}/half"
    storage.upload_new({"1/saved_model.pb": exported / "half" / "1" / "saved_model.pb"}, address)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(
        StatusError,
        match=f"^FAILED_PRECONDITION: {address}/1 is incomplete: variables/variables.index",
    ):
        loading.load(1, f"{address}/1", loading.LoadingOptions())
    assert list(tmp_path.iterdir()) == []


def test_base_path_in_a_bucket_where_nothing_is_keeps_what_is_loaded(bucket):
    with pytest.raises(
        StatusError,
        match=f"^NOT_FOUND: Could not find base path gs://{bucket}/none: nothing is there$",
    ):
        discovery.scan(f"gs://{bucket}/none")


def test_bucket_that_does_not_exist_is_one_line(bucket):
    with pytest.raises(StatusError, match="^UNAVAILABLE: .*") as error:
        discovery.scan(f"gs://{bucket}-none/m")
    assert "\n" not in str(error.value)


def test_configuration_is_read_from_a_bucket(bucket):
    text = 'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" } }'
    storage.write(f"gs://{bucket}/models.config", text.encode(), 0)
    assert (
        discovery.read_config(f"gs://{bucket}/models.config").model_config_list.config[0].name
        == "m"
    )


def test_configuration_that_a_bucket_does_not_have_is_not_found(bucket):
    with pytest.raises(StatusError) as error:
        discovery.read_config(f"gs://{bucket}/none")
    assert str(error.value) == f"NOT_FOUND: gs://{bucket}/none: nothing is there"


def test_batching_file_of_a_version_is_read_only_where_that_is_asked_for(exported, tmp_path):
    version = shutil.copytree(exported / "half" / "1", tmp_path / "1")
    Path(version, "batching_params.pbtxt").write_text("max_batch_size { value: 0 }")
    assert loading.load(1, str(version), loading.LoadingOptions()).batching is None
    with pytest.raises(
        StatusError,
        match="^INVALID_ARGUMENT: .*batching_params.pbtxt: max_batch_size must be positive",
    ):
        loading.load(1, str(version), loading.LoadingOptions(batching_per_version=True))
