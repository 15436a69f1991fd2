"""Which versions there are, in a folder and in a bucket."""

import gc
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from serving.server import discovery, loading
from serving.server.flags import Flags
from serving.server.status import StatusError
from whisker_ml import storage

# Versions in a bucket, through the emulator that STORAGE_EMULATOR_HOST names.


def test_versions_in_a_bucket_are_found_loaded_and_cleaned_up(
    exported, bucket, tmp_path, monkeypatch
):
    address = f"gs://{bucket}/models/half"
    storage.upload_folder(exported / "half", address)
    storage.write(f"{address}/.claims/3", b"", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert discovery.scan(address) == {1: f"{address}/1", 2: f"{address}/2"}
    loaded = loading.load(2, f"{address}/2", Flags())
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
        loading.load(1, f"{address}/1", Flags())
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
    assert loading.load(1, str(version), Flags()).batching is None
    with pytest.raises(
        StatusError,
        match="^INVALID_ARGUMENT: .*batching_params.pbtxt: max_batch_size must be positive",
    ):
        loading.load(1, str(version), Flags(enable_per_model_batching_parameters=True))


def config(*models):
    listed = "".join(f"config {{ {model} }} " for model in models)
    return text_format.Parse(f"model_config_list {{ {listed} }}", ModelServerConfig())


def test_versions_are_children_that_are_whole_numbers_whatever_they_are(tmp_path):
    for name in ("1", "00000123", "9223372036854775807"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").touch()
    for name in ("9223372036854775808", "-1", "1a", "tmp-5", "1.5", ".3"):
        (tmp_path / name).mkdir()
    assert discovery.scan(f"{tmp_path}/") == {
        1: f"{tmp_path}/1",
        7: f"{tmp_path}/7",
        123: f"{tmp_path}/00000123",
        9223372036854775807: f"{tmp_path}/9223372036854775807",
    }


def test_of_two_names_for_one_number_the_later_one_wins_with_a_warning(tmp_path, caplog):
    (tmp_path / "05").mkdir()
    (tmp_path / "5").mkdir()
    assert discovery.scan(str(tmp_path)) == {5: f"{tmp_path}/5"}
    assert "same version" in caplog.text


def test_missing_base_path_is_not_found(tmp_path):
    with pytest.raises(StatusError, match=f"^NOT_FOUND: Could not find base path {tmp_path}/gone"):
        discovery.scan(f"{tmp_path}/gone")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", [9]),
        ("latest {}", [9]),
        ("latest { num_versions: 2 }", [5, 9]),
        ("latest { num_versions: 7 }", [1, 5, 9]),
        ("all {}", [1, 5, 9]),
        ("specific { versions: 1 versions: 5 versions: 6 }", [1, 5]),
    ],
)
def test_policy_chooses_versions(policy, expected):
    model = text_format.Parse(
        f"model_version_policy {{ {policy} }}" if policy else "", ModelConfig()
    )
    assert sorted(discovery.aspired(model, {1: "a/1", 5: "a/5", 9: "a/9"})) == expected


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (
            ['name: "a" base_path: "/a" model_platform: "tensorflow"'] * 2,
            "Illegal to list model a multiple times in config list",
        ),
        (
            ['name: "a" base_path: "./a" model_platform: "tensorflow"'],
            "Expected model a to have an absolute path or URI; got base_path()=./a",
        ),
        (
            ['name: "a" base_path: "/a"'],
            (
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                "ModelServerConfig::model_platform, model name is a"
            ),
        ),
        (
            ['name: "a" base_path: "/a" model_platform: "onnx"'],
            "Model a requests unsupported platform onnx",
        ),
    ],
)
def test_config_that_the_real_server_refuses_is_refused_with_its_text(models, message):
    with pytest.raises(StatusError) as error:
        discovery.check(config(*models))
    assert str(error.value) == f"INVALID_ARGUMENT: {message}"


def test_config_of_one_model_by_flags_and_uris_and_the_old_model_type_are_accepted():
    discovery.check(discovery.single_model("a", "/a"))
    discovery.check(config('name: "a" base_path: "gs://b/a" model_type: TENSORFLOW'))


def test_config_file_that_is_no_config_names_the_place_and_the_file(tmp_path, caplog):
    path = tmp_path / "models.config"
    path.write_text("model_config_list {\n  confog {} }")
    with pytest.raises(StatusError) as error:
        discovery.read_config(str(path))
    assert str(error.value) == f"INVALID_ARGUMENT: Invalid protobuf file: '{path}'"
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig: 2:3 : " in caplog.text


def test_config_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StatusError) as error:
        discovery.read_config(f"{tmp_path}/none")
    assert str(error.value) == f"NOT_FOUND: {tmp_path}/none: No such file or directory"
