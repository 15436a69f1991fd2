"""The last step on a real export, store and server; that what is fine is published shows every
run.
"""

import json
import shutil

import keras
import numpy as np
import pytest

from serving.store import open_store
from tests.trained_model import logged
from trainer.config import Config
from trainer.data.dataset import Dataset, open_pictures
from trainer.data.ledger import Ledger
from trainer.devices import prepare
from trainer.errors import ConfigError
from trainer.evaluation.calibration import NO_DOUBT
from trainer.export import Exported, provenance, saved_model
from trainer.export.verify import starting
from trainer.publish import _replace_live, publish, require_same_classes
from trainer.run_folder import RunFolder
from trainer.session import Clock, Session, Stop
from trainer.variants.objective import Objective


@pytest.fixture
def store(trained, tmp_path):
    """A store of its own in which the trained model is live."""
    store = open_store(str(tmp_path / "store"), "whisker")
    store.promote(store.publish(trained.run / "export").number)
    return store


# What a run that was killed had found.
BEFORE = {
    "verification": {"n": 12},
    "gate": {"policy": "not_worse", "passed": True, "live_version": 1, "sentence": "better"},
}


@pytest.fixture(scope="module")
def dogs_only(tmp_path_factory):
    """The export of a model that answers "dogs" whatever it is shown."""
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(
                1, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(2.0)
            ),
        ]
    )
    folder = tmp_path_factory.mktemp("dogs_only") / "export"
    saved_model.export(model, Objective(2), ["cats", "dogs"], 32, folder)
    return folder


@pytest.fixture
def candidate(dogs_only, trained, tmp_path):
    """A worse model than the live one, at `tmp_path / "export"`: its logits of the test set."""
    shutil.copytree(dogs_only, tmp_path / "export")
    return np.full((trained.result["test"]["n"], 1), 2.0, np.float32)


def published(trained, store, folder, logits, run_id="a run"):
    config = Config(model_dir="store", image_size=32)
    session = Session(
        prepare(config),
        RunFolder(trained.run, str(trained.run), {"commit": "unknown"}),
        Clock(),
        Stop(),
        folder,
    )
    session.folder.id = run_id
    ledger = Ledger.read(trained.run / "ledger.json")
    data = Dataset(trained.pictures, open_pictures(trained.pictures), ledger, examples=None)
    with session.servers, logged() as lines:
        server = session.servers.enter_context(starting("the exported model"))
        server.show(str(folder))
        exported = Exported(
            folder,
            trained.run / "model.keras",
            Objective(2),
            NO_DOUBT,
            {},
            warmup_records=0,
            candidate=server,
            predict_test=lambda: (logits, None),
        )
        publication = publish(config, session, data, exported, trained.result, store)
    # A refusal is said once, by whom it ends.
    decision = publication.gate
    assert (decision["sentence"] in lines) == (decision["passed"] and decision != BEFORE["gate"])
    return publication


def test_worse_candidate_is_refused_and_nothing_of_it_is_in_the_store(
    trained, store, tmp_path, candidate
):
    publication = published(trained, store, tmp_path / "export", candidate)
    assert (publication.gate["verdict"], publication.version) == ("worse", None)
    assert publication.gate["comparison"]["only_candidate"] == 0
    beside = {row["floor"] for row in publication.gate["floors"]}
    assert beside >= {"latency beside the live one in ms", "size beside the live one in bytes"}
    assert (store.versions(), store.live_version()) == ([1], 1)
    manifest = json.loads((tmp_path / "export" / provenance.MANIFEST_FILE).read_text())
    assert manifest["gate"]["sentence"] == publication.gate["sentence"]


@pytest.mark.parametrize("live", [1, 2, 3])
def test_run_that_was_killed_after_it_had_published_publishes_nothing_more(
    trained, store, tmp_path, candidate, live
):
    provenance.write_manifest(tmp_path / "export", BEFORE)
    assert store.publish(tmp_path / "export", publisher="aa").number == 2
    # Killed before it was live, and after; and what went live then stays.
    for version in range(2, live + 1):
        store.publish(trained.run / "export", publisher=f"{version}" * 2)
        store.promote(version)
    provenance.write_manifest(tmp_path / "export", {})
    publication = published(trained, store, tmp_path / "export", candidate, "aa")
    assert (publication.version.number, publication.gate) == (2, BEFORE["gate"])
    assert publication.verification == BEFORE["verification"]
    assert store.live_version() == max(2, live)
    manifest = json.loads((tmp_path / "export" / provenance.MANIFEST_FILE).read_text())
    assert manifest["gate"] == BEFORE["gate"]


@pytest.mark.long
def test_run_that_was_killed_before_its_version_was_live_is_compared_with_what_is_now(
    trained, store, tmp_path, candidate
):
    provenance.write_manifest(tmp_path / "export", BEFORE)
    assert store.publish(tmp_path / "export", publisher="aa").number == 2
    store.promote(store.publish(trained.run / "export").number)
    publication = published(trained, store, tmp_path / "export", candidate, "aa")
    assert (publication.gate["verdict"], publication.version) == ("worse", None)
    assert (store.versions(), store.live_version()) == ([1, 3], 3)


@pytest.fixture
def exported(tmp_path):
    """A folder that a store takes for a SavedModel."""
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "saved_model.pb").write_bytes(b"graph")
    return tmp_path / "export"


def comparing(store, exported, *, overtaken, verdicts, policy="not_worse"):
    """Publishes while another version goes live during each of the first comparisons; gives what
    came of it, and what it was compared with.
    """
    compared = []

    def compare(live):
        compared.append(live)
        if len(compared) <= overtaken:
            store.promote(store.publish(exported).number)
        return {"passed": verdicts[live or 0], "policy": policy, "sentence": f"over {live}"}

    return _replace_live(store, exported, compare), compared


@pytest.mark.parametrize("live", [None, 1])
def test_what_went_live_during_the_comparison_is_compared_with_too(tmp_path, exported, live):
    store = open_store(str(tmp_path / "store"), "whisker")
    first = store.publish(exported).number
    if live:
        store.promote(live)
    (decision, version), compared = comparing(
        store, exported, overtaken=1, verdicts={0: True, 1: True, first + 1: True}
    )
    assert compared == [live, 2]
    # 3 was compared with what was not live any more.
    assert (decision["sentence"], version.number, store.versions()) == ("over 2", 4, [1, 2, 4])
    assert (store.live_version(), store.previous()) == (4, 2)


def test_worse_than_what_went_live_during_the_comparison_is_refused(tmp_path, exported):
    store = open_store(str(tmp_path / "store"), "whisker")
    store.promote(store.publish(exported).number)
    (decision, version), compared = comparing(
        store, exported, overtaken=1, verdicts={1: True, 2: False}
    )
    assert (decision["sentence"], version, compared) == ("over 2", None, [1, 2])
    assert (store.versions(), store.live_version()) == ([1, 2], 2)


def test_being_overtaken_again_and_again_ends_as_a_refusal(tmp_path, exported):
    store = open_store(str(tmp_path / "store"), "whisker")
    (decision, version), compared = comparing(store, exported, overtaken=9, verdicts=[True] * 10)
    assert len(compared) == 3
    assert (decision["passed"], version) == (False, None)
    assert decision["sentence"] == (
        "The gate refused it: another version went live during each of 3 comparisons; give the"
        " same command again."
    )
    assert store.live_version() == max(store.versions()) == 5


def test_with_the_gate_off_the_last_one_is_live(tmp_path, exported):
    store = open_store(str(tmp_path / "store"), "whisker")
    (_, version), compared = comparing(store, exported, overtaken=1, verdicts=[True], policy="off")
    assert (version.number, store.live_version(), compared) == (2, 2, [None])


def test_other_classes_than_the_live_ones_are_refused(store):
    require_same_classes(store, ["cats", "dogs"])
    with pytest.raises(ConfigError) as error:
        require_same_classes(store, ["cats", "dogs", "llamas"])
    assert (
        str(error.value)
        == "--model_name=whisker: its live version 1 has the classes cats, dogs, and these pictures"
        " have cats, dogs, llamas; give another --model_name, or another --model_dir"
    )


def test_any_classes_may_be_the_first(tmp_path):
    require_same_classes(open_store(str(tmp_path), "whisker"), ["cats", "dogs"])
