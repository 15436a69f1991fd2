"""The last step on a real export, store and server; that what is fine is published shows every
run.
"""

import json

import keras
import numpy as np
import pytest

from serving.store import open_store
from tests.trained_model import logged
from trainer.config import Config
from trainer.data.dataset import Dataset
from trainer.data.ledger import Ledger
from trainer.data.pictures import open_pictures
from trainer.devices import prepare
from trainer.errors import ConfigError
from trainer.evaluation.unsure import NO_DOUBT
from trainer.export import Exported, provenance, saved_model
from trainer.export.verify import starting
from trainer.publish import publish, require_same_classes
from trainer.run_folder import RunFolder
from trainer.session import Clock, Session, Stop
from trainer.variants.objective import Objective


@pytest.fixture
def store(trained, tmp_path):
    """A store of its own in which the trained model is live."""
    store = open_store(str(tmp_path / "store"), "whisker")
    store.promote(store.publish(trained.run / "export").number)
    return store


def candidate(trained, folder):
    """A model that answers "dogs" whatever it is shown, and its logits."""
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(
                1, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(2.0)
            ),
        ]
    )
    saved_model.export(model, Objective(2), ["cats", "dogs"], 32, folder)
    return np.full((trained.result["test"]["n"], 1), 2.0, np.float32)


def published(trained, store, folder, logits):
    config = Config(model_dir="store", image_size=32)
    session = Session(
        prepare(config),
        RunFolder(trained.run, str(trained.run), {"commit": "unknown"}),
        Clock(),
        Stop(),
        folder,
    )
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
    assert (publication.gate["sentence"] in lines) == publication.gate["passed"]
    return publication


def test_worse_candidate_is_refused_and_nothing_of_it_is_in_the_store(trained, store, tmp_path):
    logits = candidate(trained, tmp_path / "export")
    publication = published(trained, store, tmp_path / "export", logits)
    assert (publication.gate["verdict"], publication.version) == ("worse", None)
    assert publication.gate["comparison"]["only_candidate"] == 0
    beside = {row["floor"] for row in publication.gate["floors"]}
    assert beside >= {"latency beside the live one in ms", "size beside the live one in bytes"}
    assert (store.versions(), store.live_version()) == ([1], 1)
    manifest = json.loads((tmp_path / "export" / provenance.MANIFEST_FILE).read_text())
    assert manifest["gate"]["sentence"] == publication.gate["sentence"]


def test_other_classes_than_the_live_ones_are_refused(store):
    require_same_classes(store, ["cats", "dogs"])
    with pytest.raises(ConfigError) as error:
        require_same_classes(store, ["cats", "dogs", "llamas"])
    assert (
        str(error.value)
        == "--model_name=whisker: its live version 1 has the classes cats, dogs, these pictures"
        " cats, dogs, llamas; give another --model_name"
    )


def test_any_classes_may_be_the_first(tmp_path):
    require_same_classes(open_store(str(tmp_path), "whisker"), ["cats", "dogs"])
