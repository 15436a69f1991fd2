"""Requests that wait are answered together: which, how many, and what the fault of one does."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.server.merging import MOST_ROWS, Merger
from serving.server.status import StatusError, invalid_argument
from tests.serving.server.asking import wait_until

WAIT_S = 20


class Model:
    """Doubles its input; notes the rows of each run, and waits for `go` where it is told to."""

    def __init__(self):
        self.merger = Merger(1)
        self.runs, self.limits = [], []
        self.began, self.go = threading.Event(), threading.Event()
        self.go.set()

    def execute(self, inputs, timeout_s):
        self.runs.append(len(inputs["x"]))
        self.limits.append(timeout_s)
        self.began.set()
        assert self.go.wait(WAIT_S)
        if (inputs["x"] < 0).any():
            raise invalid_argument("below zero")
        return {"y": 2 * inputs["x"]}

    def ask(self, *values, key="key", timeout_s=None):
        inputs = {"x": np.float32(values)}
        return self.merger.run(key, self.execute, inputs, timeout_s)["y"].tolist()

    def waiting(self):
        return sum(map(len, self.merger._queues.values()))


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def busy(model):
    """A model in the midst of a run, and a pool to ask it from."""
    model.go.clear()
    with ThreadPoolExecutor(80) as pool:
        first = pool.submit(model.ask, 1)
        assert model.began.wait(WAIT_S)
        try:
            yield pool
        finally:
            model.go.set()
        assert first.result(WAIT_S) == [2]


def ask_all(model, pool, *requests, **options):
    """Asks in this order, and lets the model go once all of them wait."""
    futures = []
    for values in requests:
        futures.append(pool.submit(model.ask, *values, **options))
        wait_until(lambda: model.waiting() == len(futures))
    model.go.set()
    return futures


def test_request_that_finds_the_model_idle_runs_at_once_and_alone(model):
    assert [model.ask(1), model.ask(2)] == [[2], [4]]
    assert model.runs == [1, 1]


def test_requests_that_wait_share_runs_of_few_sizes(model, busy):
    answers = ask_all(model, busy, *[[number] for number in range(7)])
    assert [answer.result(WAIT_S) for answer in answers] == [[2 * n] for n in range(7)]
    assert model.runs == [1, 4, 2, 1]


def test_no_run_has_more_rows_than_the_largest_size(model, busy):
    answers = ask_all(model, busy, *[[number] for number in range(70)])
    assert [answer.result(WAIT_S) for answer in answers] == [[2 * n] for n in range(70)]
    assert model.runs == [1, 32, 32, 4, 2]


def test_requests_of_several_rows_stay_whole(model, busy):
    answers = ask_all(model, busy, [1, 2, 3], [4, 5], [6])
    assert [answer.result(WAIT_S) for answer in answers] == [[2, 4, 6], [8, 10], [12]]
    assert model.runs == [1, 3, 2, 1]


def test_large_request_is_run_in_pieces_between_which_others_get_their_turn(model, busy):
    (large,) = ask_all(model, busy, range(100))
    assert large.result(WAIT_S) == [2 * number for number in range(100)]
    assert model.runs == [1, 32, 32, 32, 4]
    assert model.ask(*range(MOST_ROWS)) == [2 * number for number in range(MOST_ROWS)]


def test_request_without_rows_is_answered(model):
    assert model.ask() == []


def test_fault_of_one_request_fails_that_one_alone(model, busy):
    answers = ask_all(model, busy, [1], [-1], [3], [4])
    assert [answers[n].result(WAIT_S) for n in (0, 2, 3)] == [[2], [6], [8]]
    with pytest.raises(StatusError, match="below zero"):
        answers[1].result(WAIT_S)


def test_requests_for_something_else_or_of_another_shape_are_not_merged(model, busy):
    one = busy.submit(model.ask, 1)
    other = busy.submit(model.ask, 2, key="other")
    shaped = busy.submit(
        model.merger.run, "key", model.execute, {"x": np.ones((1, 2), np.float32)}, None
    )
    wait_until(lambda: model.waiting() == 3)
    model.go.set()
    assert (one.result(WAIT_S), other.result(WAIT_S)) == ([2], [4])
    assert shaped.result(WAIT_S)["y"].tolist() == [[2, 2]]
    assert model.runs == [1, 1, 1, 1]


@pytest.mark.usefixtures("busy")
def test_request_whose_deadline_passes_while_it_waits_is_given_up(model):
    with pytest.raises(StatusError, match="before the request ran"):
        model.ask(1, timeout_s=0.01)
    assert model.waiting() == 0
    model.go.set()
    assert model.ask(3) == [6]


def test_run_has_the_latest_deadline_and_none_where_one_request_has_none(model, busy):
    limited = [busy.submit(model.ask, 1, timeout_s=seconds) for seconds in (100, 200)]
    wait_until(lambda: model.waiting() == 2)
    free = busy.submit(model.ask, 1, key="other")
    mixed = busy.submit(model.ask, 1, key="other", timeout_s=100)
    wait_until(lambda: model.waiting() == 4)
    model.go.set()
    for answer in (*limited, free, mixed):
        assert answer.result(WAIT_S) == [2]
    assert model.limits[1] == pytest.approx(200, abs=WAIT_S)
    assert model.limits[2] is None
