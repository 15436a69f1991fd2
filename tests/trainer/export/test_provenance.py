import hashlib
import json

from serving.store import open_store
from trainer.data.ledger import Ledger
from trainer.export import provenance


def test_published_version_says_where_it_comes_from(trained):
    manifest = open_store(str(trained.store), "whisker").manifest(1)
    result, config = trained.result, json.loads((trained.run / "config.json").read_text())
    assert (
        manifest["data"]["digest"]
        == json.loads((trained.run / "ledger.json").read_text())["run_digest"]
    )
    assert (
        manifest["commit"] == json.loads((trained.run / "environment.json").read_text())["commit"]
    )
    assert manifest["config"] == config
    weights = trained.run / manifest["checkpoint"]["name"]
    assert manifest["checkpoint"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (manifest["classes"], manifest["image_size"]) == (["cats", "dogs"], 32)
    for split in ("validation", "test"):
        metrics = ("n", "accuracy", "interval_95", "loss")
        assert manifest["metrics"][split] == {name: result[split][name] for name in metrics}
    assert (manifest["verification"], manifest["gate"]) == (result["verification"], result["gate"])
    assert manifest["version"] == 1


def test_ledger_travels_without_paths(trained):
    content = open_store(str(trained.store), "whisker").read_file(1, provenance.LEDGER_FILE)
    ledger = Ledger.read(trained.run / "ledger.json")
    assert provenance.read_ledger(content) == {
        picture.sha256: picture.split for picture in ledger.pictures
    }
    rows = [json.loads(line) for line in content.splitlines()]
    assert {tuple(row) for row in rows} == {("sha256", "split", "label")}


def test_what_is_no_ledger_tells_nothing():
    for content in (b"", b"no JSON", b"[1]\n", b'{"sha256": "0"}\n', b"3\n"):
        assert provenance.read_ledger(content) is None
