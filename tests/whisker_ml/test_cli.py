import os
import subprocess
import sys

import pytest

SCRIPT = """
from whisker_ml import cli
from trainer.config import Config
cli.define_settings(Config)
cli.run(lambda _: print(cli.settings(Config).deterministic, cli.given_flags(Config)))
"""


def test_only_flags_that_were_given_are_forwarded():
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            SCRIPT,
            "--epochs=3",
            "-v=0",
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
        == "True ['--data=gs://bucket/my pictures', '--epochs=3', '--deterministic=true',"
        " '--verbosity=0']\n"
    ), ended.stderr


def test_given_flag_wins_over_what_the_environment_says_and_that_over_the_default():
    script = SCRIPT.replace(
        "cli.settings(Config).deterministic, cli.given_flags(Config)",
        "(c := cli.settings(Config, {'run_dir': 'gs://b/out', 'model_dir': 'gs://b/model'})).run_dir,"
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


def test_log_lines_are_printed_once_and_plain_on_standard_output():
    script = """
import logging
from whisker_ml import cli
def main(_):
    logging.warning("a library that logs to the root")
    cli.show_log()
    logging.getLogger("trainer.training.fit").info("epoch %d/%d", 1, 2)
cli.run(main)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "epoch 1/2\n")
    assert ended.stderr.endswith("a library that logs to the root\n")
    assert ended.stderr.count("\n") == 1


def test_warnings_are_plain_lines_on_standard_error():
    script = """
import logging
from whisker_ml import cli
def main(_):
    logging.getLogger("serving.store.gcs").warning("%s is incomplete", "gs://b/1")
    print("{}")
cli.run(main)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.stdout, ended.stderr) == ("{}\n", "gs://b/1 is incomplete\n")


def test_a_notebook_that_sets_its_logging_up_afterwards_can_do_so():
    script = """
import logging, sys
from whisker_ml import cli
cli.show_log()
cli.show_log()

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(name)s: %(message)s")
logging.getLogger("mine").info("second")
logging.getLogger("trainer").info("third")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout == "mine: second\nthird\n"


def test_a_program_that_has_its_own_logging_keeps_it():
    script = """
import logging, sys
from whisker_ml import cli
logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
cli.show_log()
logging.getLogger("trainer").info("one line")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.stdout, ended.stderr) == ("", "trainer: one line\n")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_tensorflow_takes_the_threads_that_the_process_may_use():
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from whisker_ml import cli; cli.import_tensorflow();"
        "print(os.environ['TF_NUM_INTRAOP_THREADS'], os.environ['TF_NUM_INTEROP_THREADS'])"
    )
    environment = {name: value for name, value in os.environ.items() if "TF_NUM" not in name}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout == "1 1\n"
