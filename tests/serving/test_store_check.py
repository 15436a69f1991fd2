from pathlib import Path

import pytest

from serving.config import ConfigError, render
from serving.store import ModelStore, open_store
from serving.store_check import check
from whisker_ml.files import is_address
from whisker_ml.storage import upload_folder


@pytest.fixture
def store(model_dir: str, saved_model: Path) -> ModelStore:
    store = open_store(model_dir, "whisker")
    for label in ("stable", "canary"):
        store.promote(store.publish(saved_model).number, label)
    return store


def put(store: ModelStore, name: str, content: bytes, tmp_path: Path) -> None:
    target = tmp_path / "put" / name if is_address(store.base_path) else Path(store.base_path, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    if is_address(store.base_path):
        upload_folder(tmp_path / "put", store.base_path)


def test_whole_store_has_no_findings(store: ModelStore) -> None:
    assert check(store.config_path, 1) == ([], False)


def test_flipped_byte_and_a_version_that_is_gone_are_found(
    store: ModelStore, tmp_path: Path, saved_model: Path
) -> None:
    put(store, "1/variables/variables.index", b"jndex", tmp_path)
    store.publish(saved_model)
    config = store.config()
    config.model_config_list.config[0].model_version_policy.specific.versions.append(9)
    # As somebody else writes it: the store would not.
    _, generation = store._read(store.config_path)
    assert store._replace(store.config_path, render(config).encode(), generation)
    findings, _ = check(store.config_path, 1)
    assert len(findings) == 2
    assert (
        findings[0]
        == f"whisker: version 9 is to be loaded, but {store.base_path}/9 has no saved_model.pb"
    )
    assert "variables/variables.index has another SHA-256" in findings[1]


def test_another_tools_version_without_variables_is_found(
    store: ModelStore, tmp_path: Path
) -> None:
    put(store, "7/saved_model.pb", b"graph", tmp_path)
    store.promote(7)
    assert check(store.config_path, 1)[0] == [
        "whisker: version 7 is incomplete: variables/ has no variables.index, or no variables.data"
    ]


@pytest.mark.parametrize(
    ("model", "finding"),
    [
        (
            'base_path: "/nowhere/m" model_platform: "tensorflow"',
            "/nowhere/m has no version to load: a server waits",
        ),
        (
            'base_path: "s3://b/m" model_platform: "tensorflow"',
            "s3://b/m cannot be read from here: expected a path",
        ),
        (
            'base_path: "{base}" model_platform: "pytorch"',
            'the platform is pytorch: expected model_platform: "tensorf',
        ),
        (
            (
                'base_path: "{base}" model_platform: "tensorflow" version_labels {{ key: "stable"'
                " value: 1 }}"
            ),
            "the label stable is on version 1, which is not loaded: move it to one of [2]",
        ),
    ],
    ids=["path", "scheme", "platform", "label"],
)
def test_model_that_a_server_could_not_serve_is_found(
    model: str, finding: str, tmp_path: Path, saved_model: Path
) -> None:
    store = open_store(str(tmp_path / "models"), "m")
    for _ in range(2):
        store.publish(saved_model)
    file = tmp_path / "models.config"
    file.write_text(
        f'model_config_list {{ config {{ name: "m" {model.format(base=store.base_path)} }} }}'
    )
    (found,) = check(str(file), 1)[0]
    assert found.startswith(f"m: {finding}")


def test_file_without_models_is_found_and_one_that_is_not_there_refused(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    with pytest.raises(
        ConfigError,
        match=r"models\.config cannot be read: No such file or directory: expected a mod",
    ):
        check(str(file), 1)
    file.write_text("")
    assert check(str(file), 1) == ([f"{file} lists no model"], False)


def test_file_that_is_not_in_the_bucket_is_refused(bucket: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^gs://.*/models\.config is not there: expected a models\.config"
    ):
        check(f"gs://{bucket}/models.config", 1)
