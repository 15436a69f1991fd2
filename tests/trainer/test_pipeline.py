import dataclasses
import hashlib
import html
import json
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf

from serving.store import open_store
from serving.store.manifest import LEDGER_FILE
from tests.trained_model import draw, load_examples, logged, write_pictures
from trainer import lease
from trainer.config import Config
from trainer.data.dataset import run_digest
from trainer.data.splits import ledger_file
from trainer.errors import DataError, GateRefused, RunStopped
from trainer.pipeline import run
from trainer.record import Result
from trainer.session import Stop
from whisker_ml import storage


def json_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_first_lines_say_devices_replicas_batches_and_kernels(trained):
    environment = json.loads((trained.run / "environment.json").read_text())
    assert (
        trained.lines[0]
        == "devices CPU:0, CPU:1; 2 replicas (MirroredStrategy); batch 32 in all, 16 per replica;"
        f" float32; kernels of {environment['kernels']}"
    )
    assert environment["kernels"] in ("oneDNN", "TensorFlow")
    assert "1 files left out:" in trained.lines
    assert (
        "  cats/broken.jpg: truncated or damaged picture, or one of a format that TensorFlow does"
        " not decode" in trained.lines
    )


def test_run_folder_holds_everything(trained):
    names = {
        path.relative_to(trained.run).as_posix()
        for path in trained.run.rglob("*")
        if path.is_file()
    }
    assert names >= {
        "config.json",
        "environment.json",
        "state.json",
        "ledger.json",
        "metrics.jsonl",
        "predictions.jsonl",
        "model.keras",
        "result.json",
        "report.html",
        "export/saved_model.pb",
        "pictures/class_rows.jpg",
        "pictures/label_counts.png",
        "pictures/augmentation.jpg",
        "pictures/confusion.png",
        "pictures/thresholds.png",
        "pictures/reliability.png",
        "pictures/least_certain.jpg",
        "pictures/training_curves.png",
        "pictures/prediction_grid.jpg",
    }
    assert json.loads((trained.run / "state.json").read_text())["state"] == "done"
    assert not [name for name in names if name.endswith(".part")]


def test_result_agrees_with_the_predictions_it_was_made_from(trained):
    result = json.loads((trained.run / "result.json").read_text())
    rows = json_lines(trained.run / "predictions.jsonl")
    for split in ("validation", "test"):
        of_split = [row for row in rows if row["split"] == split]
        right = [("dogs" if row["logits"][0] > 0 else "cats") == row["label"] for row in of_split]
        assert result[split]["n"] == len(of_split)
        assert result[split]["accuracy"] == pytest.approx(np.mean(right))
        assert [row["predicted"] == row["label"] for row in of_split] == right
        assert len({row["sha256"] for row in of_split}) == len(of_split), (
            "a picture was judged twice"
        )
    assert (
        result["epochs"]
        == len(result["history"]["loss"])
        == len(json_lines(trained.run / "metrics.jsonl"))
        == 3
    )
    assert result["images_per_second"] > 0
    assert set(result["seconds"]) == {
        "data",
        "train",
        "evaluate",
        "export",
        "explain",
        "publish",
        "total",
    }
    assert result["model_version"] == 1
    assert result["export"]["latency_ms"] > 0
    assert result["export"]["calls"] == min(20, result["test"]["n"])
    files = (
        file for file in (trained.run / "export").rglob("*") if "assets.extra" not in file.parts
    )
    size_bytes = sum(file.stat().st_size for file in files if file.is_file())
    assert result["export"]["size_bytes"] == size_bytes
    assert {each["about"] for each in result["reading"]} >= {
        "baseline",
        "overfitting",
        "classes",
        "probabilities",
    }
    ledger = {
        row["sha256"]: row["path"]
        for row in json.loads((trained.run / "ledger.json").read_text())["pictures"]
    }
    for each in result["at_random"] + result["least_certain"]:
        assert ledger[each["sha256"]] == each["path"]
        assert np.shape(each["importance"]) == (5, 5)
    counted = result["unsure"]
    assert counted["sure"] + counted["unsure"] == result["test"]["n"]
    right = counted["sure_correct"] + counted["unsure_correct"]
    assert right == round(result["test"]["accuracy"] * result["test"]["n"])


def test_tensorboard_shows_the_pictures_from_the_start_and_at_the_end(trained):
    shown = {}
    for file in (trained.run / "tensorboard").glob("events.*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "images":
                    shown[value.tag, event.step] = value.tensor.string_val
    steps = 3 * -(-sum(trained.result["data"]["counts"]["train"].values()) // 32)
    at_start = {tag for tag, step in shown if step == 0}
    assert at_start == {"pictures/class_rows", "pictures/label_counts", "pictures/augmentation"}
    files = {f"pictures/{file.stem}" for file in (trained.run / "pictures").iterdir()}
    assert {tag for tag, step in shown if step == steps} == files
    for name in ("confusion.png", "class_rows.jpg"):
        encoded = (trained.run / "pictures" / name).read_bytes()
        height, width, _ = tf.io.decode_image(encoded).shape
        assert list(shown[f"pictures/{name[:-4]}", steps]) == [
            str(width).encode(),
            str(height).encode(),
            encoded,
        ]


def test_test_pictures_are_in_no_other_split(trained):
    ledger = json.loads((trained.run / "ledger.json").read_text())
    by_split = {
        split: {row["sha256"] for row in ledger["pictures"] if row["split"] == split}
        for split in ("train", "validation", "test")
    }
    assert by_split["test"]
    assert not by_split["test"] & (by_split["train"] | by_split["validation"])
    for row in ledger["pictures"]:
        assert (
            hashlib.sha256((trained.pictures / row["path"]).read_bytes()).hexdigest()
            == row["sha256"]
        )


def test_result_is_shown_in_words_by_a_notebook(trained):
    shown = trained.result._repr_html_()
    assert shown.startswith(f"<p>test accuracy {trained.result['test']['accuracy']:.3f} (95 % ")
    for each in trained.result["reading"]:
        assert html.escape(f"({each['verdict']}): {each['text']}") in shown
    assert Result()._repr_html_() is None


def test_separable_pictures_are_learnt(trained):
    assert trained.result["test"]["accuracy"] > 0.9


def test_published_version_is_the_export_and_is_live(trained):
    store = open_store(str(trained.store), "whisker")
    assert (store.versions(), store.live_version()) == ([1], 1)
    published = trained.store / "whisker" / "1"
    for file in (trained.run / "export").rglob("*"):
        if file.is_file() and file.name != "whisker.json":
            assert (
                published / file.relative_to(trained.run / "export")
            ).read_bytes() == file.read_bytes()


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory):
    return write_pictures(
        tmp_path_factory.mktemp("three") / "pictures", ("cats", "dogs", "other <b>&"), per_class=25
    )


@pytest.mark.long
def test_model_trained_on_features_answers_as_it_was_judged(three_classes, tmp_path):
    config = Config(
        data=str(three_classes),
        variant="transfer",
        base_weights="none",
        recipe="fast",
        feature_views=2,
        image_size=32,
        epochs=3,
        run_dir=str(tmp_path / "run"),
    )
    with logged() as lines:
        result = run(config, downloads=tmp_path)
    assert result["recipe"] == "fast"
    assert result["parameters"]["total"] - result["parameters"]["trainable"] == 2_257_984, (
        "the backbone is in the model"
    )
    assert any(
        line.startswith("features of 75 pictures, 2 views of each training picture: computed")
        for line in lines
    )
    paths = {
        row["sha256"]: row["path"]
        for row in json.loads((tmp_path / "run" / "ledger.json").read_text())["pictures"]
    }
    rows = json_lines(tmp_path / "run" / "predictions.jsonl")
    encoded = [(three_classes / paths[row["sha256"]]).read_bytes() for row in rows]
    loaded = tf.saved_model.load(str(tmp_path / "run" / "export"))
    given = loaded.signatures["serving_default"](image_bytes=tf.constant(encoded))
    # The features came from another backend than the exported graph uses.
    temperature = result["calibration"]["temperature"]
    expected = tf.nn.softmax(tf.constant([row["logits"] for row in rows]) / temperature)
    assert [label.decode() for label in given["label"].numpy()] == [
        row["predicted"] for row in rows
    ]
    np.testing.assert_allclose(given["probabilities"], expected, atol=1e-3)


def test_whole_way_works_in_a_bucket_and_gives_the_model_that_a_folder_gives(
    bucket, three_classes, tmp_path, monkeypatch
):
    # What renews the lease of a folder in a bucket draws random numbers, too.
    monkeypatch.setattr(lease, "_RENEWED_S", 0.01)
    storage.upload_folder(three_classes, f"gs://{bucket}/pictures")
    in_folder = Config(
        data=str(three_classes),
        image_size=32,
        epochs=2,
        deterministic=True,
        mixed_precision="bfloat16",
        run_dir=str(tmp_path / "run"),
    )
    in_bucket = dataclasses.replace(
        in_folder,
        data=f"gs://{bucket}/pictures",
        run_dir=f"gs://{bucket}/run",
        model_dir=f"gs://{bucket}/models",
    )
    losses = [
        run(config, downloads=tmp_path)["history"]["validation_loss"]
        for config in (in_folder, in_bucket)
    ]
    assert losses[0] == losses[1]

    result = json.loads(storage.read(f"{in_bucket.run_dir}/result.json")[0])
    assert result["classes"] == ["cats", "dogs", "other <b>&"]
    assert result["model_path"] == f"gs://{bucket}/models/whisker/1"
    assert "state.json" in storage.list_names(in_bucket.run_dir)
    storage.download_folder(result["model_path"], tmp_path / "served")
    loaded = tf.saved_model.load(str(tmp_path / "served"))
    given = loaded.signatures["serving_default"](image_bytes=tf.constant([draw("cats", 1)]))
    assert given["probabilities"].shape == (1, 3)
    assert open_store(in_bucket.model_dir, "whisker").live_version() == 1


def test_run_on_a_frozen_uneven_set_says_weights_and_looks(tmp_path):
    folder = write_pictures(tmp_path / "pictures", per_class=25)
    for number in range(25, 60):
        (folder / "dogs" / f"{number}.jpg").write_bytes(draw("dogs", number))
    frozen = load_examples(folder, 32)[1]
    frozen.write(ledger_file(folder))
    (folder / "cats" / "new.jpg").write_bytes(draw("cats", 99))
    for look in (1, 2):
        config = Config(
            data=str(folder),
            image_size=32,
            epochs=1,
            class_weights="balanced",
            cache="disk",
            run_dir=str(tmp_path / str(look)),
        )
        with logged() as lines:
            result = run(config, downloads=tmp_path / "downloads")
        assert result["data"]["digest"] == run_digest(frozen)
        assert result["data"]["looks_at_test"] == look
        assert f"evaluation {look} of the frozen test set" in lines
        assert any(line.startswith("1 added (cats/new.jpg) since then: not used") for line in lines)
    weights, counts = result["data"]["class_weights"], result["data"]["counts"]["train"]
    assert weights["cats"] * counts["cats"] == pytest.approx(
        weights["dogs"] * counts["dogs"], rel=1e-5
    )
    report = (tmp_path / "2" / "report.html").read_text()
    assert (
        f"In training, a picture counts {weights['dogs']:.2f} to {weights['cats']:.2f} times"
        in " ".join(report.split())
    )
    assert "This is evaluation 2 on the same test pictures" in report


def test_refused_run_is_whole_and_not_published(trained, tmp_path):
    shutil.copytree(trained.run / "export", tmp_path / "before")
    ledger = tmp_path / "before" / LEDGER_FILE
    ledger.write_text(ledger.read_text().replace('"test"', '"train"', 3))
    store = open_store(str(tmp_path / "store"), "whisker")
    store.promote(store.publish(tmp_path / "before").number)
    config = Config(
        data=str(trained.pictures),
        image_size=32,
        epochs=1,
        mixed_precision="none",
        run_dir=str(tmp_path / "run"),
        model_dir=str(tmp_path / "store"),
    )
    with pytest.raises(
        GateRefused, match=r"was trained on or chosen by 3 of the \d+ test pictures"
    ) as error:
        run(config, downloads=tmp_path)
    assert error.value.exit_code == 3
    assert (store.versions(), store.live_version()) == ([1], 1)
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert (state["state"], state["reason"]) == ("failed", str(error.value))
    verdict = json.loads((tmp_path / "run" / "gate.json").read_text())
    assert (verdict["verdict"], verdict["sentence"]) == ("unfair", str(error.value))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["gate"] == verdict
    for name in ("report.html", "model_card.md"):
        assert (
            "The gate refused it: version 1, which is live,"
            in (tmp_path / "run" / name).read_text()
        )
    # The way out that the sentence names: the same command with the gate off trains nothing again.
    with logged() as lines:
        result = run(dataclasses.replace(config, gate="off"), downloads=tmp_path)
    assert (result["model_version"], result["gate"]["verdict"], store.live_version()) == (
        2,
        "off",
        2,
    )
    assert not any(line.startswith("epoch ") for line in lines)


def test_run_that_fails_keeps_its_folder_and_publishes_nothing(tmp_path):
    write_pictures(tmp_path / "pictures", per_class=25)
    (tmp_path / "pictures" / "llamas").mkdir()
    (tmp_path / "pictures" / "llamas" / "1.jpg").write_bytes(draw("llamas", 1))
    config = Config(
        data=str(tmp_path / "pictures"),
        image_size=32,
        run_dir=str(tmp_path / "run"),
        model_dir=str(tmp_path / "store"),
    )
    with pytest.raises(DataError, match="class llamas: none of its 1 usable pictures"):
        run(config, downloads=tmp_path)
    assert json.loads((tmp_path / "run" / "state.json").read_text())["state"] == "failed"
    assert open_store(str(tmp_path / "store"), "whisker").versions() == []


def test_run_whose_pictures_were_changed_says_so_and_begins_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures", per_class=25)
    config = Config(data="pictures", image_size=32, epochs=1, mixed_precision="none")
    stop = Stop()
    stop._requested = signal.SIGINT
    with pytest.raises(RunStopped) as stopped:
        run(config, downloads=tmp_path, stop=stop)
    assert stopped.value.exit_code == 130
    (first,) = (tmp_path / "runs").iterdir()
    second = tmp_path / "runs" / "20260101-000000-preprocessed"
    shutil.copytree(first, second)
    (tmp_path / "pictures" / "cats" / "new.jpg").write_bytes(draw("cats", 777))
    with logged() as lines:
        result = run(config, downloads=tmp_path)
    said = [line for line in lines if line.endswith(": this command does not resume that run")]
    for line, folder in zip(said, (first, second), strict=True):
        assert line.startswith(
            f"runs/{folder.name}: the pictures have changed since this run began"
        )
    assert (tmp_path / result["run_dir"]) not in (first, second)
    assert sum(result["data"]["counts"]["train"].values()) > 0
