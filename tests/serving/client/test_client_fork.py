import subprocess
import sys

PROGRAM = """
import os, sys, threading
from serving.client.errors import InvalidRequest
from serving.client.predict_client import PredictClient

def in_child(check):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            check()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]

def ask(client):
    assert client.predict(b"dogs 0.75").label == "dogs"

def own_client():
    with PredictClient(sys.argv[1]) as client:
        ask(client)

def clients_of_the_parent():
    for refused in (lambda: ask(parents), lambda: next(parents.predict_many([b"x"]))):
        try:
            outcome = refused()
        except InvalidRequest as error:
            outcome = error
        assert f"made by process {os.getppid()}" in str(outcome), outcome
        assert "after the fork" in str(outcome), outcome
    parents.close()  # Must leave the parent's connection alone.

with PredictClient(sys.argv[1]) as parents:
    ask(parents)
    # Several, as each child finds gRPC in another state.
    codes = [in_child(check) for check in (own_client, clients_of_the_parent) * 3]
    ask(parents)
print(codes)
"""


def test_client_works_when_made_after_a_fork_and_is_refused_when_made_before(stand_in):
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, stand_in.address],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout.strip() == str([0] * 6), ended.stderr[-2000:]
