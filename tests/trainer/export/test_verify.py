"""Verification against real servers: it passes what was trained (every published run) and catches
what was not.
"""

import json
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.data.ledger import Ledger
from trainer.errors import VerificationError
from trainer.evaluation.calibration import Doubt
from trainer.export import saved_model
from trainer.export.verify import Expected, _difference, serve, verify
from trainer.variants.objective import Objective
from whisker_ml import contract


def test_published_run_was_verified_on_its_whole_test_set(trained):
    found, n = trained.result["verification"], trained.result["test"]["n"]
    assert (found["n"], found["over_rest"]["n"], found["warmup_records"]) == (n, min(n, 20), 4)
    assert (
        max(found["largest_difference"], found["over_rest"]["largest_difference"])
        <= found["bound"]
        == 1e-5
    )
    assert found["flips"] == found["over_rest"]["flips"] == 0
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    assert found["size_bytes"] == trained.result["export"]["size_bytes"]
    assert found["load_seconds"] > 0
    assert f"served as trained: {n} test pictures over gRPC, " in "\n".join(trained.lines)


def expected(trained, objective):
    ledger = Ledger.read(trained.run / "ledger.json")
    pictures = [picture for picture in ledger.pictures if picture.split == "test"]
    rows = [
        json.loads(line) for line in (trained.run / "predictions.jsonl").read_text().splitlines()
    ]
    rows = [row for row in rows if row["split"] == "test"]
    probabilities = objective.probabilities(tf.constant([row["logits"] for row in rows])).numpy()
    predicted = [row["predicted"] for row in rows]
    return Expected(
        ledger.classes,
        pictures,
        lambda path: (trained.pictures / path).read_bytes(),
        predicted,
        probabilities,
        lambda slack: unsure(trained, probabilities.max(axis=1), slack),
    )


def unsure(trained, probability, slack):
    return Doubt(trained.result["unsure"]["lowest_probability"]).unsure(probability, slack=slack)


def test_model_that_is_unsure_of_other_pictures_is_caught(trained, tmp_path):
    objective = Objective(2, trained.result["calibration"]["temperature"])
    model = keras.models.load_model(trained.run / "model.keras")
    told = expected(trained, objective)
    half = float(np.median(told.probabilities.max(axis=1)))
    saved_model.export(
        model, objective, ["cats", "dogs"], 32, tmp_path / "export", doubt=Doubt(half)
    )
    with serve(str(tmp_path / "export"), "the exported model") as served:
        with pytest.raises(VerificationError, match="is unsure of other pictures than the"):
            verify(served, told, "CPU")
        right = replace(
            told,
            unsure=lambda slack: Doubt(half).unsure(told.probabilities.max(axis=1), slack=slack),
        )
        verify(served, right, "CPU")


def test_model_that_resizes_another_way_is_caught(trained, tmp_path, monkeypatch):
    resize, objective = tf.image.resize, Objective(2, trained.result["calibration"]["temperature"])
    model = keras.models.load_model(trained.run / "model.keras")
    with monkeypatch.context() as patched:
        patched.setattr(
            tf.image,
            "resize",
            lambda *given, **named: resize(*given, **(named | {"antialias": True})),
        )
        saved_model.export(model, objective, ["cats", "dogs"], 32, tmp_path / "export")
    with (
        serve(str(tmp_path / "export"), "the exported model") as served,
        pytest.raises(VerificationError) as error,
    ):
        verify(served, expected(trained, objective), "CPU")
    assert "the served model answers differently from the trained model: over gRPC, " in str(
        error.value
    )
    assert " in probability (at most 1e-05 is rounding)" in str(error.value)
    assert "\n" not in str(error.value)


def test_label_may_differ_only_where_two_probabilities_are_as_good_as_equal(trained):
    ledger = Ledger.read(trained.run / "ledger.json")
    for apart, passes in ((8e-6, True), (8e-5, False)):
        before = np.array([[0.5 - apart / 2, 0.5 + apart / 2]], np.float32)
        told = Expected(
            ["cats", "dogs"], ledger.pictures[:1], lambda _: b"", ["dogs"], before, np.zeros
        )
        served = [("cats", dict(zip(("cats", "dogs"), before[0].tolist(), strict=True)))]
        if passes:
            assert _difference(served, told, 1e-5, "over gRPC")["flips"] == 1
        else:
            with pytest.raises(VerificationError, match="1 in label"):
                _difference(served, told, 1e-5, "over gRPC")


def test_warm_up_record_that_fails_keeps_the_model_from_being_served(trained, tmp_path):
    shutil.copytree(trained.run / "export", tmp_path / "export")
    with tf.io.TFRecordWriter(str(tmp_path / "export" / contract.WARMUP_FILE)) as writer:
        writer.write(b"no record")
    with (
        pytest.raises(
            VerificationError, match=r"the exported model, .*, cannot be served: .*warmup record"
        ) as error,
        serve(str(tmp_path / "export"), "the exported model"),
    ):
        pass
    assert "\n" not in str(error.value)
