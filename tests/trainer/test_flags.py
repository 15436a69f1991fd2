import subprocess
import sys

SCRIPT = """
from serving import command_line
from trainer import flags
flags.define()
command_line.run(lambda _: print(flags.config().deterministic, flags.arguments()))
"""


def test_only_flags_that_were_given_are_forwarded():
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            SCRIPT,
            "--epochs=3",
            "--deterministic",
            "--data=gs://bucket/my pictures",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (
        ended.stdout
        == "True ['--data=gs://bucket/my pictures', '--epochs=3', '--deterministic=true']\n"
    ), ended.stderr


def test_given_flag_wins_over_what_the_environment_says_and_that_over_the_default():
    script = SCRIPT.replace(
        "flags.config().deterministic, flags.arguments()",
        "(c := flags.config({'run_dir': 'gs://b/out', 'model_dir': 'gs://b/model'})).run_dir,"
        " c.model_dir, c.seed",
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, "--model_dir="],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout == "gs://b/out  0\n", ended.stderr
