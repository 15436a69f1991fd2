import dataclasses
import gc
import json
import os
from datetime import datetime
from pathlib import Path

import pytest

from tests.trained_model import logged
from trainer import run_folder
from trainer.config import Config
from trainer.data.ledger import Ledger, Picture
from trainer.errors import DataError, GateRefused, PicturesChangedError, RunError, RunStopped
from trainer.run_folder import open_run
from whisker_ml import storage
from whisker_ml.errors import StorageError
from whisker_ml.files import DamagedFileError

NOW = datetime(2026, 1, 2, 3, 4, 5)


def state(folder):
    return json.loads((folder / "state.json").read_text())


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_run_is_incomplete_until_it_is_done(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_run(Config(variant="plain"), ["CPU:0"], NOW) as run:
        assert run.address == "runs/20260102-030405-plain"
        assert state(run.path)["state"] == "incomplete"
        assert json.loads((run.path / "config.json").read_text())["variant"] == "plain"
        assert json.loads((run.path / "environment.json").read_text())["devices"] == "CPU:0"
    assert state(run.path) == {"state": "done", "started": "2026-01-02T03:04:05"}


@pytest.mark.parametrize(
    ("error", "ended", "resumed"),
    [
        (DataError("one class only"), "failed", True),
        (GateRefused("worse"), "failed", True),
        (StorageError("the bucket does not answer"), "failed", True),
        (OSError(28, os.strerror(28), "model.keras"), "failed", True),
        (KeyboardInterrupt(), "incomplete", True),
        (RunStopped("stopped"), "incomplete", True),
        (PicturesChangedError("other pictures"), "failed", False),
        (ZeroDivisionError("a defect"), "failed", False),
    ],
)
def test_run_that_ends_early_says_why_and_the_same_command_resumes_it(
    tmp_path, monkeypatch, error, ended, resumed
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((type(error), RunError)), open_run(Config(), [], NOW) as run:
        raise error
    assert state(run.path)["state"] == ended
    assert state(run.path)["reason"] == (str(error) or "interrupted")
    with open_run(Config(), [], NOW.replace(hour=9)) as again:
        assert (again.resumed, again.address == run.address) == (resumed, resumed)


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [open_run(Config(), [], NOW) for _ in range(3)]
    addresses = [run.__enter__().address for run in runs]
    assert addresses == [
        "runs/20260102-030405-preprocessed",
        "runs/20260102-030405-2-preprocessed",
        "runs/20260102-030405-3-preprocessed",
    ]


def test_folder_of_another_run_is_left_alone(tmp_path):
    with open_run(Config(run_dir=str(tmp_path)), [], NOW):
        pass
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    with pytest.raises(
        RunError, match="holds a run already .done.; give another folder, or remove this one"
    ):
        open_run(Config(run_dir=str(tmp_path)), [], NOW).__enter__()
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        RunError, match="--run_dir=.*file/run: cannot be written .Not a directory.; give a folder"
    ):
        open_run(Config(run_dir=str(tmp_path / "file" / "run")), [], NOW).__enter__()


def test_disk_that_fills_up_ends_the_run_with_one_line(tmp_path):
    with pytest.raises(RunError) as error, open_run(Config(run_dir=str(tmp_path)), [], NOW):
        raise OSError(28, os.strerror(28), str(tmp_path / "model.keras"))
    assert (
        str(error.value)
        == f"{tmp_path}: No space left on device ({tmp_path}/model.keras); free space or give"
        " permission"
    )
    assert state(tmp_path)["state"] == "failed"


def test_run_in_a_bucket_is_copied_there_however_it_ends(bucket, tmp_path):
    address = f"gs://{bucket}/runs/1"
    with pytest.raises(DataError), open_run(Config(run_dir=address), [], NOW) as run:
        run.write_predictions([{"sha256": "0"}])
        raise DataError("one class only")
    assert storage.list_names(address) == [
        "config.json",
        "environment.json",
        "predictions.jsonl",
        "state.json",
    ]
    storage.download_file(f"{address}/state.json", tmp_path / "state.json")
    assert state(tmp_path)["state"] == "failed"
    with open_run(Config(run_dir=address), [], NOW) as run:
        assert run.resumed
        # From the start: a machine may vanish at any moment.
        storage.download_file(f"{address}/state.json", tmp_path / "state.json")
        assert state(tmp_path)["state"] == "incomplete"
        assert (run.path / "predictions.jsonl").is_file(), "what the run had written is there again"
        (run.path / "checkpoints").mkdir()
        (run.path / "checkpoints" / "step-1.index").touch()
        run.synchronise()
        assert "checkpoints/step-1.index" in storage.list_names(address)
        (run.path / "checkpoints" / "step-1.index").rename(
            run.path / "checkpoints" / "step-2.index"
        )
        with logged() as lines:
            run.synchronise()
        assert [name for name in storage.list_names(address) if "step" in name] == [
            "checkpoints/step-2.index"
        ]
        assert lines == []
        run.address = f"gs://{bucket}-gone/runs/1"
        with logged() as lines:
            run.synchronise()
        assert lines[0].startswith(f"not copied to gs://{bucket}-gone/runs/1 this time: ")
        run.address = address
    with pytest.raises(RunError, match="holds a run already .done."):
        open_run(Config(run_dir=address), [], NOW).__enter__()


def test_event_files_are_copied_to_the_folder_that_the_job_service_names(bucket, tmp_path):
    address = f"gs://{bucket}/logs/"
    with open_run(Config(run_dir=str(tmp_path)), [], NOW, tensorboard=address) as run:
        run.file("tensorboard", "events.out").touch()
        with logged() as lines:
            run.synchronise()
        assert lines == []
    assert storage.list_names(address) == ["events.out"]


def test_run_of_the_same_command_that_was_killed_is_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    killed = open_run(Config(seed=3), [], NOW)
    address = killed.__enter__().address
    assert Path(address).is_dir()
    later = NOW.replace(hour=5)
    with open_run(Config(seed=3), [], later.replace(minute=50)) as other:
        assert other.address != address, "a run that is still at work is left alone"
    with pytest.raises(
        RunError, match="a run is at work here; wait for it, or give another folder"
    ):
        open_run(Config(seed=3, run_dir=address), [], later).__enter__()
    # The process is gone; so is its lock, and nothing was marked.
    del killed
    gc.collect()
    (Path(address) / "state.json").write_text('{"state": "incomplete"}')
    with open_run(Config(seed=4), [], later) as other:
        assert other.address != address, "other settings are another run"
    with open_run(Config(seed=3, resume="never"), [], later.replace(minute=30)) as other:
        assert other.address != address
    with open_run(Config(seed=3), [], later) as run:
        assert (run.address, run.resumed) == (address, True)
    with open_run(Config(seed=3), [], later.replace(minute=40)) as run:
        assert run.address != address, "a run that is done is not resumed"


@pytest.mark.parametrize("named", [False, True])
def test_folder_of_a_run_that_was_killed_before_it_had_begun_is_used(tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    address = "runs/20260101-000000-preprocessed"
    unfinished = Path("runs/20251231-000000-preprocessed")
    with pytest.raises(RunStopped), open_run(Config(run_dir=str(unfinished)), [], NOW):
        raise RunStopped("a test")
    Path(address).mkdir()
    for name in (".lock", "config.json", "environment.json", ".state.json.12-345"):
        Path(address, name).write_text("{")
    config = Config(seed=1, run_dir=address if named else "")
    with open_run(config, [], NOW) as run:
        assert (run.address, run.resumed) == (address, False)
        assert names(address) == [".lock", "config.json", "environment.json", "state.json"]
    # One that can be resumed comes first; and pictures of somebody's are no run.
    Path("runs/20260101-000001-preprocessed").mkdir()
    with open_run(Config(), [], NOW) as run:
        assert run.address == str(unfinished)
    Path("runs/20260101-000001-preprocessed/cat.jpg").touch()
    with open_run(Config(), [], NOW) as run:
        assert run.address == "runs/20260102-030405-preprocessed"


def test_two_that_find_the_same_folder_do_not_share_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunStopped), open_run(Config(), [], NOW) as run:
        address = run.address
        raise RunStopped("a test")
    find, others = run_folder._unfinished, []

    def found(*arguments):
        path = find(*arguments)
        if not others:
            # As by the same command, a moment before.
            others.append(run_folder.locked_folder(address, "busy"))
            others[0].__enter__()
        return path

    monkeypatch.setattr(run_folder, "_unfinished", found)
    with open_run(Config(), [], NOW) as run:
        assert run.address == "runs/20260102-030405-2-preprocessed"
    others[0].__exit__(None, None, None)


def test_run_that_resumes_is_the_same_and_takes_what_was_half_written_away(tmp_path):
    config = Config(run_dir=str(tmp_path))
    with pytest.raises(RunStopped), open_run(config, [], NOW) as run:
        run.file("pictures", ".roc.png.12-140141").touch()
        raise RunStopped("a test")
    with open_run(config, [], NOW) as again:
        assert again.id == run.id
        assert names(tmp_path / "pictures") == []
    with open_run(Config(run_dir=str(tmp_path / "other")), [], NOW) as other:
        assert other.id != run.id


def test_run_that_began_with_other_kernels_is_not_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunStopped), open_run(Config(), [], NOW, kernels="oneDNN") as run:
        raise RunStopped("a test")
    with (
        pytest.raises(RunError, match="kernels were oneDNN, are TensorFlow: see TF_ENABLE_ONEDNN"),
        open_run(Config(run_dir=run.address), [], NOW, kernels="TensorFlow"),
    ):
        pass
    with open_run(Config(), [], NOW.replace(hour=4), kernels="TensorFlow") as other:
        assert (other.resumed, other.address != run.address) == (False, True)
    with open_run(Config(), [], NOW, kernels="oneDNN") as again:
        assert (again.resumed, again.address) == (True, run.address)


def test_other_settings_in_the_same_folder_are_refused_by_name(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_run(Config(run_dir=str(tmp_path)), [], NOW):
        raise KeyboardInterrupt
    with pytest.raises(RunError) as error:
        open_run(Config(run_dir=str(tmp_path), epochs=7, seed=1), [], NOW).__enter__()
    assert "holds a run with other settings (epochs was 20, is 7; seed was 0, is 1)" in str(
        error.value
    )


def test_run_of_before_heads_and_backbones_had_those_of_the_notebook(tmp_path):
    config = Config(variant="transfer", recipe="notebook", run_dir=str(tmp_path))
    with pytest.raises(KeyboardInterrupt), open_run(config, [], NOW):
        raise KeyboardInterrupt
    file = tmp_path / "config.json"
    before = json.loads(file.read_text())
    del before["backbone"], before["head"], before["exclude"]
    file.write_text(json.dumps(before))
    with open_run(config, [], NOW) as run:
        assert run.resumed
        assert run.differences(config) == []
        other = dataclasses.replace(config, head="wide", backbone="densenet121", exclude="a.txt")
        assert run.differences(other) == [
            "exclude was , is a.txt",
            "backbone was mobilenet_v2, is densenet121",
            "head was notebook, is wide",
        ]


def test_changed_pictures_are_refused(tmp_path):
    def ledger(sha256):
        return Ledger(("cats", "dogs"), (Picture("1.jpg", "cats", "train", sha256),), ())

    with pytest.raises(KeyboardInterrupt), open_run(Config(run_dir=str(tmp_path)), [], NOW) as run:
        run.freeze_ledger(ledger("0").digest, ledger("0").write)
        raise KeyboardInterrupt
    again = open_run(Config(run_dir=str(tmp_path)), [], NOW)
    with (
        pytest.raises(RunError, match="the pictures have changed since this run began"),
        again as run,
    ):
        run.freeze_ledger(ledger("1").digest, ledger("1").write)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", b""),
        ("state.json", b'{"state": "incompl'),
        ("state.json", b"[1]"),
        ("state.json", b"\xff\xfe"),
        ("config.json", None),
        ("config.json", b"{"),
        ("config.json", b"[" * 100_000),
    ],
)
def test_damaged_folder_of_another_run_is_passed_over_in_one_line(
    tmp_path, monkeypatch, name, content
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt), open_run(Config(), [], NOW) as run:
        address = run.address
        raise KeyboardInterrupt
    Path(address, "state.json").write_text('{"state": "incomplete"}')
    Path(address, name).unlink()
    if content is not None:
        Path(address, name).write_bytes(content)
    with logged() as lines, open_run(Config(), [], NOW.replace(hour=7)) as run:
        assert run.address != address
        assert not run.resumed
    (line,) = [line for line in lines if line.startswith("passed over: ")]
    assert f"{address}/{name}" in line
    assert line.endswith(f"remove the folder {address} to begin again")
    if name != "config.json":
        with pytest.raises(DamagedFileError, match=f"{address}/{name}"):
            open_run(Config(run_dir=address), [], NOW).__enter__()
