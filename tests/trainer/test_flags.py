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
        [sys.executable, "-c", SCRIPT, "--epochs=3", "--deterministic", "--data=gs://bucket/my pictures"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout == "True ['--data=gs://bucket/my pictures', '--epochs=3', '--deterministic=true']\n", (
        ended.stderr
    )
