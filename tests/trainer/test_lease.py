"""Two runs in one folder of a bucket, through the emulator."""

import threading

import pytest

from trainer import lease
from trainer.errors import RunError
from trainer.lease import Lease, leased
from whisker_ml import storage


@pytest.fixture
def folder(bucket, monkeypatch):
    monkeypatch.setattr(lease, "_RENEWED_S", 0.05)
    monkeypatch.setattr(lease, "_EXPIRES_S", 2.0)
    return f"gs://{bucket}/runs/1"


def test_second_run_is_refused_while_the_first_is_at_work_and_not_afterwards(folder):
    with leased(folder), pytest.raises(RunError, match=f"run_dir={folder}: another run is at work"):
        leased(folder).__enter__()
    assert storage.list_names(folder) == []
    with leased(folder):
        assert storage.list_names(folder) == [lease.NAME]


def test_run_that_vanished_is_followed_by_the_next_and_notices_when_it_comes_back(folder):
    vanished = Lease(folder)
    vanished.take()
    with leased(folder) as following:
        renewing = threading.Thread(target=vanished.renew)
        renewing.start()
        renewing.join(10)
        assert not renewing.is_alive(), "it has lost the lease, and ends by itself"
        with pytest.raises(RunError, match="another run is at work there"):
            vanished.require()
        vanished.give_back()
        following.require()
        assert storage.list_names(folder) == [lease.NAME]


def test_run_that_slept_takes_nothing_from_the_one_that_has_taken_over(folder):
    slept = Lease(folder)
    slept.take()
    with leased(folder) as following:
        assert not slept.lost, "it has not looked yet"
        slept.give_back()
        assert slept.lost
        assert following.held()
        assert storage.list_names(folder) == [lease.NAME]


def test_bucket_that_does_not_answer_for_a_while_costs_nothing(folder, monkeypatch):
    failures = []
    write = storage.write

    def failing(*arguments):
        if len(failures) < 3:
            failures.append(arguments)
            raise storage.errors.UnreachableError("the bucket does not answer")
        return write(*arguments)

    with leased(folder) as held:
        monkeypatch.setattr(storage, "write", failing)
        before = storage.read(f"{folder}/{lease.NAME}")[1]
        while storage.read(f"{folder}/{lease.NAME}")[1] == before:
            held.require()
        assert len(failures) == 3
