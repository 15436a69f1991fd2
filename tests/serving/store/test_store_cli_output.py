import json
from pathlib import Path

import pytest

from serving.store import open_store
from serving.store.__main__ import rows, table, words

MANIFEST = {
    "classes": ["cats", "dogs"],
    "config": {"image_size": 160, "deterministic": False, "learning_rate": "", "epochs": 0},
    "metrics": {
        "test": {"n": 1000, "accuracy": 0.9765, "interval_95": [0.966, 0.985], "loss": 0.07}
    },
    "gate": {
        "verdict": "better",
        "sentence": "The gate let it through: better than version 1, which is live.",
    },
}


@pytest.fixture
def listed(tmp_path: Path, saved_model: Path):
    store = open_store(str(tmp_path / "models"), "whisker")
    store.publish(saved_model)
    (saved_model / "assets.extra").mkdir()
    (saved_model / "assets.extra" / "whisker.json").write_text(json.dumps(MANIFEST))
    store.publish(saved_model)
    for version, manifest in ((12, None), (13, "{")):
        other = Path(store.base_path, str(version), "assets.extra")
        other.mkdir(parents=True)
        (other.parent / "saved_model.pb").write_bytes(b"graph")
        if manifest:
            (other / "whisker.json").write_text(manifest)
    store.promote(1, "canary")
    store.promote(2)
    return store, rows(store, store.versions())


def test_table_is_aligned_and_says_nothing_of_what_another_tool_wrote(listed) -> None:
    heading, *lines = table(listed[1])
    assert heading == "version  live  labels  published (UTC)   test accuracy     size  gate"
    published = [str(row["published"])[:16].replace("T", " ") for row in listed[1]]
    assert lines == [
        f"      1        canary  {published[0]}  -               0.0 MB  off",
        f"      2  live  stable  {published[1]}  0.977 of 1,000  0.0 MB  better",
        "     12                -                 -                    -  -",
        (
            "     13                -                 -                    -  whisker.json cannot"
            " be read"
        ),
    ]


def test_words_name_everything_that_is_known(listed) -> None:
    store, found = listed
    said = [line.split(maxsplit=1) for line in words(found[1], store.manifest(2), "/m/2")]
    said = dict(said)
    assert said["version"] == "2, live, /m/2"
    assert said["gate"] == MANIFEST["gate"]["sentence"]
    assert said["test"] == "0.977 of 1,000 right (95 % interval 0.966 to 0.985)"
    assert said["config"] == 'image_size 160, deterministic no, learning_rate "", epochs 0'
    assert said["classes"] == "cats, dogs"
    assert words(found[2], {}, "/m/12")[-1].split(maxsplit=1) == [
        "files",
        "no digests: another tool wrote this version",
    ]
