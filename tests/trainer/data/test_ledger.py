import hashlib
import json

import pytest

from tests.trained_model import logged
from tests.trainer.data.splitting import FLAT, found_and_hashes, freeze
from trainer.data.ledger import Found, Ledger, LeftOut, Picture, exclude
from trainer.data.shards import Shards
from trainer.errors import DataError


def test_digest_changes_with_a_label_but_not_with_a_path(tmp_path):
    found, sha256 = found_and_hashes(FLAT)
    ledger = freeze(found, sha256, [], protocol="given")
    moved = [Found(f"elsewhere/{file.path}", file.label, None) for file in found]
    moved_hashes = {f"elsewhere/{path}": digest for path, digest in sha256.items()}
    assert freeze(moved, moved_hashes, [], protocol="given").digest == ledger.digest
    relabelled = [
        Found(file.path, "dogs" if file.path == "cats/0.jpg" else file.label, None)
        for file in found
    ]
    assert freeze(relabelled, sha256, [], protocol="given").digest != ledger.digest
    ledger.write(tmp_path / "ledger.json")
    assert json.loads((tmp_path / "ledger.json").read_text())["digest"] == ledger.digest


def test_baseline_is_what_the_commonest_training_class_gets_of_the_test_pictures():
    names = [f"train/cats/{n}.jpg" for n in range(9)] + [f"train/dogs/{n}.jpg" for n in range(3)]
    names += [
        f"{split}/{label}/{n}.jpg"
        for split in ("validation", "test")
        for label in ("cats", "dogs")
        for n in range(1)
    ]
    names += [f"test/dogs/extra{n}.jpg" for n in range(2)]
    assert freeze(
        *found_and_hashes(names), [], protocol="given"
    ).baseline_accuracy() == pytest.approx(1 / 4)


def test_ledger_reads_what_it_has_written_and_refuses_what_it_has_not(tmp_path):
    ledger = freeze(*found_and_hashes(FLAT), [], protocol="given")
    file = tmp_path / "ledger.json"
    ledger.write(file)
    assert Ledger.read(file) == ledger
    assert [each.name for each in tmp_path.iterdir()] == ["ledger.json"]
    whole = json.loads(file.read_text())
    damaged = {
        file.read_text()[:100]: r"cannot be read \(not JSON: .*\)",
        "[" * 100_000: r"cannot be read \(nested too deeply\)",
        "[]": r"cannot be read \(not a JSON object\)",
        "{}": r"cannot be read as a ledger \(KeyError: .*\)",
        json.dumps(whole | {"pictures": 3}): r"cannot be read as a ledger \(TypeError: .*\)",
        json.dumps(whole | {"pictures": ["a"]}): r"cannot be read as a ledger \(TypeError: .*\)",
    }
    for content, reason in damaged.items():
        file.write_text(content)
        with pytest.raises(DataError, match=rf"ledger.json: {reason}; put the file back") as error:
            Ledger.read(file)
        assert "\n" not in str(error.value)


def hashed(path, split="train"):
    return Picture(path, path.split("/")[0], split, hashlib.sha256(path.encode()).hexdigest())


PICTURES = (hashed("cats/1.jpg"), hashed("cats/a b.jpg", "test"), hashed("dogs/1.jpg"))


def excluded(tmp_path, text, pictures=PICTURES):
    """Paths that stay and that are left out, and what is logged."""
    file = tmp_path / "list.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with logged() as lines:
        left_out = exclude(str(file), pictures)
    assert {each.reason for each in left_out.values()} <= {f"excluded by {file}"}
    (line,) = lines
    return (
        [each.path for each in pictures if each.path not in left_out],
        [each.path for each in left_out.values()],
        line.replace(str(file), "F"),
    )


def damaged(content):
    """The same JSON with another value in one place, for each place and several values."""
    for value in (None, 7, -1.5, "text", [], {}, True):
        yield value
        for key in content if isinstance(content, dict) else range(len(content)):
            rest = dict(content) if isinstance(content, dict) else list(content)
            rest[key] = value
            yield rest
            del rest[key]
            yield rest
    for key in content if isinstance(content, dict) else range(min(len(content), 2)):
        if isinstance(content[key], dict | list):
            for value in damaged(content[key]):
                rest = dict(content) if isinstance(content, dict) else list(content)
                rest[key] = value
                yield rest


def test_damaged_ledger_is_read_as_texts_or_refused_in_one_line(tmp_path):
    file, picture = tmp_path / "ledger.json", Picture("1.jpg", "cats", "train", "0" * 64)
    Ledger(("cats", "dogs"), (picture,), (LeftOut("2.jpg", "empty"),)).write(file)
    refused = 0
    for content in damaged(json.loads(file.read_text())):
        file.write_text(json.dumps(content))
        try:
            read = Ledger.read(file)
        except DataError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            texts = [text for picture in read.pictures for text in vars(picture).values()]
            assert all(isinstance(text, str) for text in texts)
            assert isinstance(read.digest, str)
    assert refused > 50


def test_damaged_list_of_shards_is_refused_in_one_line(tmp_path):
    (tmp_path / "1.tfrecord").write_bytes(b"12345")
    whole = {"shards": [["1.tfrecord", 5]], "pictures": {"1.jpg": [0, 0, 5]}}
    (tmp_path / "shards.json").write_text(json.dumps(whole))
    assert Shards(tmp_path).read("1.jpg") == b"12345"
    with pytest.raises(FileNotFoundError, match="not in shards.json"):
        Shards(tmp_path).read("2.jpg")
    refused = 0
    for content in damaged(whole):
        (tmp_path / "shards.json").write_text(json.dumps(content))
        try:
            Shards(tmp_path)
        except DataError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 30


def test_pictures_are_excluded_by_hash_and_by_path_and_what_is_gone_is_counted(tmp_path):
    sha256 = PICTURES[0].sha256
    listed = f"\ufeff# cats/1.jpg\r\n{sha256.upper()}  cats/moved.jpg\r\n\r\n./cats//a b.jpg\r\n"
    assert excluded(tmp_path, listed + "dogs/gone.jpg\n") == (
        ["dogs/1.jpg"],
        ["cats/1.jpg", "cats/a b.jpg"],
        "2 pictures excluded by F (train 1, test 1), so the test set is another one;"
        " 1 that it names do not exist (dogs/gone.jpg)",
    )
    assert excluded(tmp_path, "dogs/1.jpg") == (
        ["cats/1.jpg", "cats/a b.jpg"],
        ["dogs/1.jpg"],
        "1 pictures excluded by F (train 1)",
    )


def test_path_beside_another_hash_excludes_nothing(tmp_path):
    kept, left_out, line = excluded(tmp_path, f"{'0' * 64}  cats/1.jpg\n")
    assert (len(kept), left_out) == (3, [])
    assert line == "0 pictures excluded by F; 1 that it names do not exist (cats/1.jpg)"


def test_list_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match="list.txt: cannot be read .*expected a text file"):
        excluded(tmp_path, b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match="--exclude=/gone: cannot be read .No such file"):
        exclude("/gone", PICTURES)
