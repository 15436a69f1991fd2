"""--verify_digests: a version that is not what was published is not loaded, and what was loaded
goes on.
"""

import json
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.server import manager
from serving.server.flags import Flags
from serving.server.loading import load
from serving.server.status import StatusError
from serving.store import open_store
from serving.store.manifest import MANIFEST_FILE
from whisker_ml import contract, storage

VERIFIED = Flags(verify_digests=True)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """A model that answers the classes cats and dogs, and a manifest that says so."""
    path = tmp_path_factory.mktemp("classes") / "export"
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=contract.INPUT_BYTES)])
    def answer(image_bytes):
        return {contract.OUTPUT_CLASSES: tf.tile([["cats", "dogs"]], [tf.size(image_bytes), 1])}

    module.weight = tf.Variable(1.0)
    tf.saved_model.save(
        module, str(path), signatures={contract.SIGNATURE_BYTES: answer.get_concrete_function()}
    )
    return path


@pytest.fixture
def publish(export, tmp_path):
    """Publishes the model with classes of choice in whisker.json."""

    def publish(model_dir, classes=("cats", "dogs")):
        folder = shutil.copytree(export, tmp_path / "export", dirs_exist_ok=True)
        (folder / "assets.extra").mkdir(exist_ok=True)
        (folder / MANIFEST_FILE).write_text(json.dumps({"classes": classes} if classes else {}))
        return open_store(str(model_dir), "m").publish(folder).path

    return publish


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_flag_is_off_by_default():
    assert not Flags().verify_digests


@pytest.mark.parametrize("classes", [("cats", "dogs"), None])
def test_a_version_that_is_what_was_published_is_loaded(publish, tmp_path, classes):
    load(1, publish(tmp_path, classes), VERIFIED).close()


def test_a_flipped_byte_is_refused_and_nobody_notices_without_the_flag(publish, tmp_path):
    path = publish(tmp_path)
    flip(Path(path, "fingerprint.pb"))
    with pytest.raises(
        StatusError, match=f"^FAILED_PRECONDITION: {path}: fingerprint.pb has another SHA-256"
    ):
        load(1, path, VERIFIED)
    load(1, path, Flags()).close()


@pytest.mark.parametrize("name", ["saved_model.pb", "assets", "pipe"])
def test_what_is_no_regular_file_is_refused_and_nobody_notices_without_the_flag(
    publish, tmp_path, name
):
    path = Path(publish(tmp_path / "models"))
    if name == "pipe":
        os.mkfifo(path / name)
    else:
        (tmp_path / "assets").mkdir()
        if (path / name).exists():
            (path / name).rename(tmp_path / name)
        (path / name).symlink_to(tmp_path / name)
    with pytest.raises(
        StatusError,
        match=f"^FAILED_PRECONDITION: {path}: {name} is a link, or not a regular file: publish",
    ):
        load(1, str(path), VERIFIED)
    load(1, str(path), Flags()).close()


def test_a_model_that_answers_other_classes_than_were_recorded_is_refused(publish, tmp_path):
    path = publish(tmp_path, ("dogs", "cats"))
    with pytest.raises(StatusError) as error:
        load(1, path, VERIFIED)
    assert (
        str(error.value)
        == f"FAILED_PRECONDITION: {path}: the model's classes are ['cats', 'dogs'], those in"
        " assets.extra/whisker.json are ['dogs', 'cats']: export the model again and publish it"
    )


def test_a_version_without_a_manifest_is_refused_with_the_way_to_get_one(export):
    with pytest.raises(
        StatusError,
        match=r"^FAILED_PRECONDITION: .* has no assets\.extra/whisker\.json, .* publish",
    ):
        load(1, str(export), VERIFIED)


def test_a_version_in_a_bucket_is_refused_by_its_address_and_leaves_nothing(
    publish, bucket, tmp_path, monkeypatch
):
    path = publish(f"gs://{bucket}")
    load(1, path, VERIFIED).close()
    _, generation = storage.read(f"{path}/fingerprint.pb")
    storage.write(f"{path}/fingerprint.pb", b"another", generation)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(
        StatusError, match=f"^FAILED_PRECONDITION: {path}: fingerprint.pb has 7 bytes, not"
    ):
        load(1, path, VERIFIED)
    assert list(folder.iterdir()) == []


def test_an_old_version_under_a_new_number_is_refused_and_the_old_one_goes_on(publish, tmp_path):
    path = Path(publish(tmp_path))
    server = manager.Manager(
        partial(load, flags=VERIFIED), ModelServerConfig, Flags(max_num_load_retries=0)
    )
    server.apply(
        text_format.Parse(
            f'model_config_list {{ config {{ name: "m" base_path: "{path.parent}" model_platform:'
            ' "tensorflow" } }',
            ModelServerConfig(),
        )
    )
    server.tick()
    shutil.copytree(path, path.parent / "5")
    for _ in range(3):
        server._next_poll = 0.0
        server.tick()
    (_, state, error), (_, old, _) = server.states("m")
    assert (state.name, old.name) == ("END", "AVAILABLE")
    assert str(error).startswith(
        f"FAILED_PRECONDITION: {path.parent}/5 is a copy of what was published as version 1: "
    )
    with server.use("m") as servable:
        assert servable.version == 1
