import fcntl
import logging
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from absl import logging as absl_logging

from tests.trained_model import write_pictures
from whisker_ml.terminal import LogLine, escaped, foreign_lines_kept_back


class Terminal:
    """A command whose standard output and standard error are terminals of their own."""

    def __init__(self, *arguments, rows=0, columns=0, log_level="0"):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": log_level}
        for name in ("COLUMNS", "LINES", *([] if log_level else ["TF_CPP_MIN_LOG_LEVEL"])):
            environment.pop(name, None)
        pairs = [pty.openpty() for _ in range(2)]
        self._streams, theirs = zip(*pairs, strict=True)
        for end in theirs:
            fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=theirs[0],
            stderr=theirs[1],
            env=environment,
        )
        for end in theirs:
            os.close(end)
        self._written = dict.fromkeys(self._streams, b"")

    def read(self, until=None, timeout_s=200):
        """What both show: until a text is among it, or to the end."""
        deadline = time.monotonic() + timeout_s
        left = set(self._streams)
        while left and not (until and any(until in text for text in self._written.values())):
            ready, _, _ = select.select(left, [], [], max(0, deadline - time.monotonic()))
            assert ready, self._written
            for stream in ready:
                try:
                    self._written[stream] += os.read(stream, 1 << 16)
                except OSError:  # the command has ended
                    left.remove(stream)
        return [text.decode() for text in self._written.values()]

    def end(self, timeout_s=200):
        try:
            shown = self.read(timeout_s=timeout_s)
            return self.process.wait(timeout_s), *shown
        finally:
            self.process.kill()
            self.process.wait()
            for stream in self._streams:
                os.close(stream)


def on_screen(written):
    """The lines that are left on a screen."""
    lines = []
    for line in written.split("\r\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines += [shown.rstrip()] if shown.strip() else []
    return lines


LOUD = """
import warnings
from whisker_ml import cli
def main(_):
    cli.import_tensorflow()
    import tensorflow as tf
    from absl import logging
    from serving.server.lite import Interpreters
    double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec([1, 4])])
    concrete = double.get_concrete_function()
    Interpreters(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert(), 1)
    warnings.warn("a library warns")
    logging.warning("a library logs")
    print(double(tf.ones([1, 4])).numpy())
cli.run(main)
"""


@pytest.mark.long
def test_what_other_libraries_write_is_shown_for_an_explicit_flag_alone():
    # All at once: each has its TensorFlow to load.
    terminals = [Terminal("-c", LOUD, log_level=level) for level in ("", "3")]
    loud = Terminal("-c", LOUD, "--verbosity=0", log_level="3")
    for terminal in terminals:
        assert terminal.end() == (0, "[[2. 2. 2. 2.]]\r\n", "")
    exit_code, _, errors = loud.end()
    assert exit_code == 0
    assert re.search(r"^I0000 ", errors, re.MULTILINE)
    assert "INFO: Created TensorFlow Lite XNNPACK delegate for CPU." in errors
    assert "UserWarning: a library warns" in errors
    assert "a library logs" in errors


def test_training_export_and_serving_are_quiet(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", per_class=10)
    training = Terminal(
        "-m",
        "trainer.task",
        f"--data={pictures}",
        "--variant=transfer",
        "--base_weights=none",
        "--image_size=32",
        "--epochs=1",
        f"--cache_dir={tmp_path}",
        f"--run_dir={tmp_path}/run",
    )
    exit_code, output, errors = training.end()
    assert exit_code == 0, output + errors
    assert "computed with XNNPACK" in output
    assert "exporting the model" in output
    # Bars, and what they leave behind: nothing.
    assert re.search(r"\repoch 1/1: +0%\|", errors)
    assert [line for line in on_screen(errors) if not line.startswith("warning: every")] == []
    assert not re.search(r"tensorflow|keras|warning:(?! every)", output, re.IGNORECASE)

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "1").symlink_to(tmp_path / "run" / "export")
    server = Terminal(
        "-m",
        "serving.server",
        f"--model_base_path={tmp_path}/model",
        f"--ports_file={tmp_path}/ports",
        "--xnnpack",
    )
    try:
        server.read(until=b"HTTP/REST API")
        server.process.send_signal(signal.SIGTERM)
    finally:
        exit_code, output, errors = server.end()
    assert (exit_code, output) == (0, "")
    assert "Successfully loaded" in errors
    for line in on_screen(errors):
        assert re.match(r"\d{4}-\d\d-\d\d \S+ INFO serving\.", line), errors


@pytest.fixture
def quiet():
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.WARNING)
    yield
    absl_logging.set_verbosity(before)


@pytest.mark.usefixtures("quiet")
def test_what_was_kept_back_is_shown_where_the_block_fails(capfd):
    with foreign_lines_kept_back():
        os.write(2, b"a delegate was made\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(ValueError, match="no model"), foreign_lines_kept_back():
        os.write(2, b"the reason\n")
        raise ValueError("no model")
    assert capfd.readouterr().err == "the reason\n"
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"
    assert absl_logging.get_verbosity() == absl_logging.WARNING


BAR = """
import logging
from whisker_ml import cli, terminal
def main(_):
    with terminal.progress(desc="pictures", total=2) as bar:
        bar.update()
        logging.getLogger("trainer").info("a line")
        logging.getLogger("trainer").warning("a warning")
        bar.refresh()
        FAIL
cli.run(main)
"""


@pytest.mark.parametrize(
    ("rows", "columns", "width"), [(0, 0, 79), (0, 60, 59), (40, 0, 79), (40, 60, 59)]
)
def test_bar_is_shown_on_terminals_of_any_size_and_leaves_nothing_behind(rows, columns, width):
    terminal = Terminal("-c", BAR.replace("FAIL", "pass"), rows=rows, columns=columns)
    exit_code, output, errors = terminal.end()
    assert (exit_code, output) == (0, "a line\r\n")
    assert {len(part) for part in errors.split("\r") if "pictures:" in part} == {width}
    assert on_screen(errors) == ["a warning"]


def test_error_is_not_written_behind_a_bar():
    _, _, errors = Terminal("-c", BAR.replace("FAIL", "raise KeyboardInterrupt")).end()
    assert on_screen(errors) == ["a warning", "-c: error: interrupted"]


def test_no_bar_without_a_terminal():
    ended = subprocess.run(
        [sys.executable, "-c", BAR.replace("FAIL", "pass")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (ended.stdout, ended.stderr) == ("a line\n", "a warning\n")


def test_names_cannot_move_the_cursor_or_look_like_another_line():
    assert escaped("ca\x1b[2Jts\nERROR all lost\r\x07\x9b") == (
        "ca\\x1b[2Jts\\nERROR all lost\\r\\x07\\x9b"
    )
    assert escaped("\u202egnp.exe\u2028") == "\\u202egnp.exe\\u2028"
    assert escaped("Käse 猫 \u200d é") == "Käse 猫 \u200d é"
    record = logging.LogRecord("a", logging.INFO, "", 1, "model %s", ("x\nERROR y",), None)
    assert LogLine("%(levelname)s %(message)s").format(record) == "INFO model x\\nERROR y"
