import hashlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.trained_model import encode, load_examples, logged, write_pictures
from trainer.data import shards as conversion
from trainer.data.dataset import open_pictures
from trainer.data.shards import convert
from trainer.data.sources import pictures_folder
from trainer.data.splits import ledger_file, read_frozen
from trainer.devices import Part
from trainer.errors import DataError
from whisker_ml import storage

SIZE = 32
SHARD_BYTES = 20_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_pictures(tmp_path_factory.mktemp("records") / "pictures", per_class=40)
    load_examples(folder, SIZE)[1].write(ledger_file(folder))
    return folder


def shards_of(folder, out, shrink=0):
    convert(folder, str(out), shard_bytes=SHARD_BYTES, shrink=shrink)
    return out


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory):
    return shards_of(folder, tmp_path_factory.mktemp("shards") / "out")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_shards_are_records_that_tensorflow_reads(folder, shards):
    ledger = read_frozen(folder)
    names = {name for name in content(shards) if name.endswith(".tfrecord")}
    assert {name.partition("-")[0] for name in names} == {"train", "validation", "test"}
    assert len(names) > 3
    found = {}
    for name in names:
        for record in tf.data.TFRecordDataset(str(shards / name)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            row = {
                key: features[key].bytes_list.value[0]
                for key in ("image_bytes", "label", "path", "sha256")
            }
            assert hashlib.sha256(row["image_bytes"]).hexdigest() == row["sha256"].decode()
            found[row["path"].decode()] = (
                row["label"].decode(),
                name.partition("-")[0],
                row["sha256"].decode(),
            )
    assert found == {each.path: (each.label, each.split, each.sha256) for each in ledger.pictures}
    assert sorted(content(shards)) == sorted({*names, "ledger.json", "shards.json"})
    assert read_frozen(shards) == ledger


@pytest.mark.parametrize("cached", [True, False])
def test_training_from_shards_gives_the_examples_of_the_folder(folder, shards, cached):
    (one, _), (other, _) = (load_examples(each, SIZE, cached=cached) for each in (folder, shards))
    for get in (
        lambda examples: examples.training_batches(7, seed=1, epoch=2, full=True),
        lambda examples: examples.training_batches(
            8, seed=1, epoch=2, full=True, part=Part(2, 4, 4)
        ),
        lambda examples: examples.evaluation_batches("test", 7),
    ):
        for batch, twin in zip(get(one), get(other), strict=True):
            for column, same in zip(batch, twin, strict=True):
                np.testing.assert_array_equal(column, same)


class Killed(BaseException):
    pass


def test_conversion_that_was_stopped_goes_on_and_ends_with_the_same_bytes(
    folder, shards, tmp_path, monkeypatch
):
    written, write = [], conversion._write

    def dying(*arguments):
        if len(written) == 3:
            raise Killed
        written.append(arguments)
        return write(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(conversion, "_write", dying)
        patch.setattr(conversion, "available_processors", lambda: 1)
        shards_of(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "shards.json").exists()
    with pytest.raises(DataError, match="no pictures found"):
        open_pictures(tmp_path / "out")
    with pytest.raises(DataError, match="holds another conversion"):
        shards_of(folder, tmp_path / "out", shrink=40)
    lines = []
    with logged(lines):
        shards_of(folder, tmp_path / "out")
    count = len(json.loads((shards / "shards.json").read_text())["shards"])
    assert lines == [f"{count} shards, 3 of them written already"]
    assert content(tmp_path / "out") == content(shards)
    with logged(lines):
        shards_of(folder, tmp_path / "out")
    assert lines[1] == f"{tmp_path}/out: holds all {count} shards already"


def test_another_conversion_in_the_same_place_is_refused(folder, shards):
    with pytest.raises(
        DataError, match="holds another conversion; give another --out, or remove what is there"
    ):
        shards_of(folder, shards, shrink=40)


def test_shrunk_pictures_are_another_data_set(tmp_path):
    folder = write_pictures(tmp_path / "pictures", per_class=25)
    large = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    (folder / "cats" / "large.png").write_bytes(encode(large, "PNG"))
    load_examples(folder, SIZE)[1].write(ledger_file(folder))
    shrunk = shards_of(folder, tmp_path / "out", shrink=100)
    before, after = read_frozen(folder), read_frozen(shrunk)
    assert before.digest != after.digest
    changed = {
        one.path for one, other in zip(before.pictures, after.pictures, strict=True) if one != other
    }
    assert changed == {"cats/large.png"}
    with Image.open(io.BytesIO(open_pictures(shrunk).read("cats/large.png"))) as picture:
        assert (picture.size, picture.format) == ((100, 150), "JPEG")


def test_shards_in_a_bucket_are_written_fetched_and_gone_on_with(bucket, folder, shards, tmp_path):
    address = f"gs://{bucket}/set"
    shards_of(folder, tmp_path / "local")
    storage.upload_folder(tmp_path / "local", address)
    storage.delete(["shards.json"], address)
    with pytest.raises(DataError, match="no pictures found"):
        open_pictures(pictures_folder(address, tmp_path / "one"))
    shards_of(folder, address)
    fetched = pictures_folder(address, tmp_path / "two")
    assert content(fetched) == content(shards)


def test_shard_that_was_cut_short_is_named(folder, tmp_path):
    out = shards_of(folder, tmp_path / "out")
    shard = next(out.glob("train-00000*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(
        DataError,
        match=rf"{shard.name}: holds {len(whole) - 1:,} bytes where {len(whole):,} were written",
    ):
        open_pictures(out)
    shard.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    with pytest.raises(
        DataError, match=r"pictures have changed: 1 altered \(.*\); put them back, convert again"
    ):
        load_examples(out, SIZE)


def test_folder_without_a_frozen_split_and_altered_pictures_are_refused(tmp_path):
    folder = write_pictures(tmp_path / "pictures", per_class=25)
    with pytest.raises(DataError, match="has no ledger.json; freeze the split first"):
        shards_of(folder, tmp_path / "out")
    load_examples(folder, SIZE)[1].write(ledger_file(folder))
    (folder / "cats" / "1.jpg").write_bytes(b"another")
    with pytest.raises(DataError, match="cats/1.jpg: was altered after the split was frozen"):
        shards_of(folder, tmp_path / "out")


def test_full_disk_is_one_line_and_what_is_done_is_kept(folder, shards, tmp_path):
    # In a process of its own: the limit on the size of files stands for the end of the disk.
    code = f"""
import resource, signal
from pathlib import Path
from trainer.data.shards import convert
from trainer.errors import DataError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, {2**63 - 1}))
try:
    convert(Path({str(folder)!r}), {str(tmp_path / "out")!r}, shard_bytes={SHARD_BYTES}, shrink=0)
except DataError as error:
    print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert ended.stdout.splitlines()[-1].endswith(
        "cannot be written (File too large); free space; what is done is kept"
    )
    assert content(shards_of(folder, tmp_path / "out")) == content(shards)
