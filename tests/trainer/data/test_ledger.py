import json

import pytest

from tests.trainer.data.splitting import FLAT, found_and_hashes
from trainer.data.ledger import Found, Ledger
from trainer.data.splits import freeze
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
        file.read_text()[:100]: r"cannot be read \(no JSON: .*\)",
        "[" * 100_000: r"cannot be read \(nested too deeply\)",
        "[]": r"cannot be read \(no JSON object\)",
        "{}": r"cannot be read as a ledger \(KeyError: .*\)",
        json.dumps(whole | {"pictures": 3}): r"cannot be read as a ledger \(TypeError: .*\)",
        json.dumps(whole | {"pictures": ["a"]}): r"cannot be read as a ledger \(TypeError: .*\)",
    }
    for content, reason in damaged.items():
        file.write_text(content)
        with pytest.raises(DataError, match=rf"ledger.json: {reason}; put the file back") as error:
            Ledger.read(file)
        assert "\n" not in str(error.value)
