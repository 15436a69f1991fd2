import os
import re
import subprocess
import sys
import zipfile
from dataclasses import fields
from pathlib import Path

import pytest

from trainer.config import Config

ROOT = Path(__file__).parents[2]


def task(*arguments, folder=ROOT, **environment):
    return subprocess.run(
        [sys.executable, "-m", "trainer.task", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--epochs=0", "task.py: error: --epochs=0: expected at least 1\n"),
        (
            "--epoch=3",
            "task.py: error: Unknown command line flag 'epoch'. Did you mean: epochs ?\n",
        ),
        (
            "my_pictures",
            "task.py: error: my_pictures: expected flags only, such as --data=my_pictures\n",
        ),
    ],
)
def test_wrong_use_ends_with_one_line_and_exit_code_2(argument, message):
    ended = task(argument)
    assert (ended.returncode, ended.stderr, ended.stdout) == (2, message, "")


def test_help_shows_every_setting_and_ends_with_0():
    ended = task("--help")
    assert ended.returncode == 0
    groups = re.findall(r"^(\S.*):$", ended.stdout, re.MULTILINE)[1:]
    assert groups == ["Data", "Model", "Devices", "Run", "Publish", "Every command"]
    shown = re.findall(r"^  --(\w+)=", ended.stdout, re.MULTILINE)
    assert shown[:6] == ["data", "variant", "model_dir", "recipe", "split", "run_dir"]
    names = [setting.name for setting in fields(Config)]
    assert sorted(shown) == sorted([*names, "flagfile", "verbosity"])
    one_line = " ".join(ended.stdout.split())
    assert "model to train (plain, augmented, preprocessed, transfer)" in one_line


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("pictures.zip", "is a file; expected a folder of class folders, or a CSV file with"),
        ("file:///pictures", "expected a folder on this machine, a CSV file, or gs://…; download"),
        ("photo.jpg", "is a file; expected a folder of class folders, or a CSV file with"),
        ("set.tar.gz", "is a file; expected a folder of class folders, or a CSV file with"),
        ("labels.csv", "line 1 is 'only a path'; expected a path, a label and, if needed,"),
        ("pcitures", "there is no such folder; expected one folder of pictures per class; did you"),
        ("pictures", "cats, dogs hold only folders, like a group of classes; take the"),
    ],
)
def test_data_that_cannot_be_meant_is_refused_before_anything_starts(tmp_path, data, message):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("cats/1.jpg", b"")
    for label in ("cats", "dogs"):
        (tmp_path / "pictures" / label / "old").mkdir(parents=True)
        (tmp_path / "pictures" / label / "old" / "1.jpg").touch()
    for name in ("photo.jpg", "set.tar.gz"):
        (tmp_path / name).touch()
    (tmp_path / "labels.csv").write_text("only a path\n")
    before = {file.name for file in tmp_path.iterdir()}
    # TensorFlow that cannot be imported shows that it was not.
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was started')")
    ended = task(f"--data={data}", folder=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"task.py: error: --data={data}: {message}")
    assert ended.stderr.count("\n") == 1
    after = {file.name for file in tmp_path.iterdir()}
    assert after - before <= {"tensorflow.py", "__pycache__"}
