import os
import signal
from pathlib import Path

import pytest
import tensorflow as tf

from trainer import session
from trainer.errors import RunStopped
from trainer.session import Stop

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture
def stop():
    # Whatever started the tests may ignore some, as nohup does.
    before = [signal.signal(number, signal.SIG_DFL) for number in SIGNALS]
    stop = Stop()
    stop.install()
    yield stop
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def ask(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_exit_code_says_by_which_signal_a_run_was_stopped(stop, number, code):
    with pytest.raises(RunStopped) as error, stop.raised_plainly():
        with stop.deferred():
            ask(number)
        raise RunStopped("stopped after step 7")
    assert (str(error.value), error.value.exit_code) == ("stopped after step 7", code)


def test_second_interrupt_ends_the_run_at_once(stop):
    with stop.deferred():
        ask(signal.SIGINT)
        assert stop.requested()
        with pytest.raises(KeyboardInterrupt):
            ask(signal.SIGINT)


def test_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        Stop().install()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("stop")
def test_request_outside_of_training_ends_the_run_at_once():
    with pytest.raises(
        RunStopped, match="stopped outside of training; the same command resumes from there"
    ):
        ask()


def test_request_in_training_is_remembered(stop):
    with stop.deferred():
        ask()
        assert stop.requested()


def test_request_that_a_library_wraps_is_one_line_all_the_same(stop):
    @tf.function
    def traced():
        ask()
        return tf.constant(0)

    with pytest.raises(RunStopped) as error, stop.raised_plainly():
        traced()
    assert str(error.value) == "stopped outside of training; the same command resumes from there"


def test_error_that_nobody_asked_for_stays_what_it_is(stop):
    with pytest.raises(ValueError, match="ours"), stop.raised_plainly():
        raise ValueError("ours")


def test_cache_is_where_the_system_keeps_such_things(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert session.cache_folder() == tmp_path / ".cache" / "whisker"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert session.cache_folder() == tmp_path / "xdg" / "whisker"
    assert session.cache_folder("~/mine") == tmp_path / "mine"

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert session.cache_folder().name == f"whisker-{os.getuid()}"
