import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from whisker_ml import cli

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "setup.py"
# Name, module; an image has no setup.py.
COMMANDS = [("python -m trainer.quickstart", "trainer.quickstart")]
if SETUP.exists():
    COMMANDS += re.findall(r'"(whisker-\w+)=([\w.]+):main"', SETUP.read_text())
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


@pytest.mark.parametrize("keras", [True, False])
def test_what_tensorflow_imports_beside_itself_is_left_out_until_it_is_needed(keras):
    code = (
        "import sys; from whisker_ml import cli; cli.import_tensorflow(keras={});"
        "print(*(name in sys.modules for name in ('keras', 'matplotlib.pyplot')));"
        "import gc; assert gc.isenabled() and gc.get_freeze_count();"
        "import keras, matplotlib.pyplot; print(keras.ops.add(1, 2).numpy())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code.format(keras)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout == f"{keras} False\n3\n"


def help_of(module, columns):
    # None in sys.modules: importing it fails.
    program = (
        "import sys; sys.modules.update(tensorflow=None, keras=None); sys.argv[1:] = ['--help'];"
        f" from {module} import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("command", "module"), COMMANDS)
def test_help_has_a_purpose_three_examples_and_flags_in_groups(command, module):
    ended = help_of(module, 80)
    # As the program that the server imitates.
    assert ended.returncode == (255 if command == "whisker-serve" else 0), ended.stderr
    assert max(map(len, ended.stdout.splitlines())) <= 80
    purpose, examples, *rest = ended.stdout.split("\n\n")
    assert purpose.count("\n") < 2
    assert len(re.findall(r"^  \w", examples, re.MULTILINE)) == 3
    assert examples.count(command) >= 2
    groups = [text for text in rest if re.match(r"\S.*:\n  --", text)]
    assert groups == rest[-len(groups) :]
    assert not any("/" in text.partition("\n")[0] for text in groups)
    shown = [re.findall(r"^  --(\w+)=", text, re.MULTILINE) for text in groups]
    named = list(dict.fromkeys(re.findall(r"--(\w+)", examples)))
    assert shown[0] == named[:6]
    assert set(named) <= {name for group in shown for name in group}


def test_help_is_as_wide_as_the_terminal():
    lines = help_of("trainer.task", 120).stdout.splitlines()
    assert 110 < max(map(len, lines)) <= 120


def test_help_whose_reader_has_left_ends_without_a_word():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", "from trainer.task import main; main()", "--help"],
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_flag_without_a_group_or_with_a_long_name_is_shown_like_the_others(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    page = cli.help_page(
        """What it is for.

          command --b=1 --a --other_program=2

        More to know.
        """,
        [
            ("Group", "a", False, "first"),
            ("Group", "c", ["x", "y"], "third"),
            ("Group", "b", None, "second"),
            ("Long", "d" * 30, 1.5, "words " * 8),
        ],
    )
    assert (
        page
        == f"""What it is for.

  command --b=1 --a --other_program=2

More to know.

Flags that matter first, as --name=default:
  --b=                     second
  --a=false                first

Group:
  --c=x,y                  third

Long:
  --{"d" * 30}=1.5
                           words words words words words
                           words words words"""
    )


def test_flag_that_is_defined_without_a_group_stands_in_help():
    script = """
import sys
from whisker_ml import cli
def main(_):
    pass
cli.define("colour", "red", "of what", choices=["red", "green"])
cli.define("size", 3, "of it", group="Shape")
cli.run(main)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"^More flags:\n  --colour=red +of what \(red, green\)$", ended.stdout, re.M)
    assert re.search(r"^Shape:\n  --size=3 +of it$", ended.stdout, re.M)


def test_choices_are_added_where_the_text_does_not_name_them():
    assert cli.meaning("a colour", ["", "red", "green"]) == "a colour (red, green)"
    assert cli.meaning("red: warm; green: cold", ["red", "green"]) == "red: warm; green: cold"
    assert cli.meaning("anything", ()) == "anything"


def test_reader_that_leaves_ends_no_run():
    script = """
import logging, sys
from whisker_ml import cli
def main(_):
    for number in range(3):
        logging.getLogger("trainer").info("line %d", number)
    print("the end")
    print("done", file=sys.stderr)
cli.run(main)
"""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        ended = subprocess.run(
            [sys.executable, "-c", script],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (0, "done\n")
