import subprocess
import sys

import pytest


def task(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "trainer.task", *arguments],
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
    assert "python -m trainer.task --data=my_pictures" in ended.stdout
    assert "<plain|augmented|preprocessed|transfer>: model to train" in ended.stdout
    assert "--model_dir: model store to publish to" in ended.stdout
