import contextlib
import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from serving.store import open_store

COMMAND = [sys.executable, "-m", "serving.predict"]


def predict(*arguments, stdin=""):
    command = [*COMMAND, *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, input=stdin
    )


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"cats 0.5")
    (folder / "b.jpg").write_bytes(b"rubbish")
    (folder / "more" / "c.png").write_bytes(b"dogs 0.75")
    return folder


def test_table_of_a_folder_lists_failures_last_and_exits_with_4(stand_in, pictures, tmp_path):
    ended = predict(f"--server={stand_in.address}", str(pictures), str(tmp_path / "missing.jpg"))
    assert ended.returncode == 4
    heading, *rows = ended.stdout.splitlines()
    assert heading.split() == ["label", "probability", "unsure", "version", "path"]
    assert [row.split() for row in rows] == [
        ["cats", "0.5000", "or", "dogs", "3", f"{pictures}/a.jpg"],
        ["dogs", "0.7500", "3", f"{pictures}/more/c.png"],
    ]
    title, *failures = ended.stderr.splitlines()
    assert title == "2 of 4 failed:"
    assert failures[0].startswith(f"{pictures}/b.jpg: not a picture that the server can decode")
    assert (
        failures[1] == f"{tmp_path}/missing.jpg: the file cannot be read: No such file or directory"
    )


def test_json_lines_come_in_order_of_the_paths(stand_in, pictures, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    ended = predict(f"--server={stand_in.address}", "--format=json", str(empty), str(pictures))
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["path"] for line in lines] == [
        str(empty),
        *(f"{pictures}/{n}" for n in ("a.jpg", "b.jpg", "more/c.png")),
    ]
    assert [set(line) for line in lines] == [
        {"path", "error"},
        {"path", "label", "probability", "probabilities", "unsure", "model_version"},
        {"path", "error"},
        {"path", "label", "probability", "probabilities", "unsure", "model_version"},
    ]
    assert ended.returncode == 4


def test_all_answered_exits_with_0_and_says_nothing_else(stand_in, pictures):
    ended = predict(
        f"--server={stand_in.address}", "--format=csv", "--top=2", str(pictures / "a.jpg")
    )
    (row,) = csv.DictReader(ended.stdout.splitlines())
    assert (row["label"], row["label_2"], row["probability_2"]) == ("cats", "dogs", "0.5")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_flags_reach_the_request(stand_in, pictures):
    predict(
        f"--server={stand_in.address}",
        "--label=stable",
        "--signature=other",
        str(pictures / "a.jpg"),
    )
    (request,) = stand_in.requests
    assert (request.model_spec.version_label, request.model_spec.signature_name) == (
        "stable",
        "other",
    )


def test_file_name_that_is_no_utf8_is_written_as_it_is(stand_in, tmp_path):
    path = bytes(tmp_path) + b"/\xff.jpg"
    Path(os.fsdecode(path)).write_bytes(b"cats 0.5")
    command = [*COMMAND, f"--server={stand_in.address}", path, path + b"x"]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    ended = subprocess.run(command, check=False, capture_output=True, timeout=60, env=strict)
    assert ended.stdout.endswith(path + b"\n")
    assert ended.returncode == 4


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "no pictures named"),
        (["--server=127.0.0.1:1", "a.jpg"], "nothing listens at this address: start the server"),
        (["--server=127.0.0.1:1", "--model_dir=models", "a.jpg"], "expected one of them"),
        (["--model_dir=nowhere", "a.jpg"], "nowhere/models.config is not there"),
        (["--version=1", "--label=stable", "a.jpg"], "one of them, not both"),
        (["--top=0", "a.jpg"], "flag --top=0"),
        (["--format=xml", "a.jpg"], "flag --format=xml"),
        (
            ["--out=results.txt", "a.jpg"],
            "--out=results.txt: expected a name that ends in .csv, .json, .jsonl or .png",
        ),
        (["--out=nowhere/sheet.png", "a.jpg"], "there is no folder nowhere"),
        (["--out=nowhere/r.csv", "a.jpg"], "there is no folder nowhere"),
        (["--token_file=nowhere", "a.jpg"], "--token_file=nowhere: cannot be read"),
        (["--tls_ca=nowhere", "a.jpg"], "nowhere"),
    ],
    ids=[
        *("no_paths", "no_server", "two_servers", "no_store", "version_and_label", "top", "format"),
        *("out", "sheet", "results", "token", "tls"),
    ],
)
def test_wrong_use_is_one_line_and_exits_with_2(arguments, text):
    ended = predict(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert text in line


@pytest.mark.parametrize("flags", [[], ["--model_name=c"]])
def test_store_of_several_models_names_them_before_anything_is_loaded(
    saved_model, pictures, tmp_path, flags
):
    for name in ("a", "b"):
        store = open_store(str(tmp_path / "models"), name)
        store.promote(store.publish(saved_model).number)
    ended = predict(f"--model_dir={tmp_path}/models", *flags, str(pictures))
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.endswith("give --model_name, one of a, b")


def test_unknown_model_fails_once_and_not_for_every_picture(stand_in, pictures):
    ended = predict(f"--server={stand_in.address}", "--model_name=lions", str(pictures))
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert "any versions of model lions" in ended.stderr
    assert stand_in.requests == []


def test_wrong_signature_fails_once_and_not_for_every_picture(stand_in, pictures):
    ended = predict(f"--server={stand_in.address}", "--signature=regress", str(pictures))
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert "no signature 'regress': the model has" in ended.stderr


def test_paths_come_from_standard_input_where_none_is_given(stand_in, pictures):
    named = f"{pictures}/a.jpg\n\n{pictures}/more\n"
    ended = predict(f"--server={stand_in.address}", "--format=csv", stdin=named)
    assert [row["path"] for row in csv.DictReader(ended.stdout.splitlines())] == [
        f"{pictures}/a.jpg",
        f"{pictures}/more/c.png",
    ]
    assert ended.returncode == 0


def test_dash_is_one_picture_on_standard_input(stand_in, pictures):
    ended = predict(
        f"--server={stand_in.address}", "--format=json", "-", f"{pictures}/a.jpg", stdin="dogs 0.75"
    )
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(answer["path"], answer["label"]) for answer in answers] == [
        ("-", "dogs"),
        (f"{pictures}/a.jpg", "cats"),
    ]


def test_same_command_goes_on_with_what_has_no_answer(stand_in, pictures, tmp_path):
    out = tmp_path / "results.csv"
    command = [f"--server={stand_in.address}", f"--out={out}", str(pictures)]
    first = predict(*command)
    assert (first.returncode, first.stdout) == (4, "")
    assert first.stderr.splitlines()[:2] == [
        f"{out}: 2 answers, 0 of them from an earlier run",
        "1 of 3 failed:",
    ]
    assert len(stand_in.requests) == 3
    (pictures / "b.jpg").write_bytes(b"cats 0.9")
    second = predict(*command)
    assert (second.returncode, second.stderr) == (
        0,
        f"{out}: 3 answers, 2 of them from an earlier run\n",
    )
    assert len(stand_in.requests) == 4
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [Path(row["path"]).name for row in rows] == ["a.jpg", "c.png", "b.jpg"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl_c", "sigterm"]
)
def test_stopped_in_the_middle_keeps_what_is_answered_and_says_how_to_go_on(
    stand_in, pictures, tmp_path, number, code
):
    out = tmp_path / "results.jsonl"
    (pictures / "d.jpg").write_bytes(b"slow")
    command = [
        *COMMAND,
        f"--server={stand_in.address}",
        f"--out={out}",
        "--timeout_s=60",
        str(pictures),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        deadline = time.monotonic() + 30
        # Answers come in order: those after d.jpg wait for it.
        while not out.exists() or out.read_text().count("\n") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.send_signal(number)
        said = running.communicate(timeout=30)[1].splitlines()
    assert running.returncode == code
    assert said[0] == f"{out}: 1 answers, 0 of them from an earlier run"
    assert (
        said[-1]
        == "predict.py: error: stopped after 2 pictures, whose answers are kept; the same command"
        " resumes"
    )
    assert [json.loads(line)["path"] for line in out.read_text().splitlines()] == [
        f"{pictures}/a.jpg",
        f"{pictures}/b.jpg",
    ]


@contextlib.contextmanager
def under_way(stand_in, pictures, *flags):
    """The command, with a request that the stand-in has received and not answered."""
    (pictures / "d.jpg").write_bytes(b"slow")
    command = [*COMMAND, f"--server={stand_in.address}", *flags, str(pictures)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            assert stand_in.arrived(4)
            yield running
        finally:
            running.kill()


def test_server_that_comes_back_is_waited_for(stand_in, stand_in_class, pictures):
    with under_way(stand_in, pictures) as running:
        stand_in.abort()
        assert running.stderr.readline().startswith("waiting up to ")
        again = stand_in_class(stand_in.port)
        again.released.set()
        again.start()
        output, said = running.communicate(timeout=60)
        again.stop()
    assert [line.split()[0] for line in output.splitlines()] == ["label", "cats", "cats", "dogs"]
    assert said.splitlines()[0] == "1 of 4 failed:"
    assert running.returncode == 4


def test_server_that_stays_away_ends_the_command_with_4(stand_in, pictures, tmp_path):
    with under_way(stand_in, pictures, "--wait_s=1", f"--out={tmp_path}/results.csv") as running:
        stand_in.abort()
        said = running.communicate(timeout=60)[1].splitlines()
    assert said[-1].startswith("predict.py: error: no answer for 1 s (--wait_s): ")
    assert said[-1].endswith(
        "; ended after 2 pictures, whose answers are kept; the same command resumes"
    )
    assert running.returncode == 4


def test_sheet_is_drawn_and_lines_are_written_as_well(stand_in, pictures, tmp_path):
    ended = predict(
        f"--server={stand_in.address}", f"--out={tmp_path}/sheet.png", "--format=csv", str(pictures)
    )
    assert len(ended.stdout.splitlines()) == 4
    assert ended.stderr.splitlines()[:2] == [f"{tmp_path}/sheet.png: 2 pictures", "1 of 3 failed:"]
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_token_reaches_the_server(stand_in, pictures, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    ended = predict(
        f"--server={stand_in.address}", f"--token_file={tmp_path}/token", f"{pictures}/a.jpg"
    )
    assert (ended.returncode, stand_in.tokens) == (0, ["Bearer secret"])


@pytest.mark.long
def test_hundred_thousand_pictures_take_no_more_memory_than_a_thousand(stand_in, tmp_path):
    for number in range(2):
        (tmp_path / str(number)).write_bytes(b"cats 0.5")
    for count in (1_000, 100_000):
        (tmp_path / f"of_{count}").mkdir()
        for number in range(count):
            # A file has so many names at most.
            os.link(tmp_path / str(number % 2), tmp_path / f"of_{count}" / f"{number}.jpg")
    program = (
        "import atexit, sys; from pathlib import Path; from serving.predict import"
        " main\natexit.register(lambda: print(Path('/proc/self/status').read_text(),"
        " file=sys.stderr)); main()"
    )
    most = {}
    # First as many as are asked about next, half of them answered before.
    for count, out in ((1_000, "small.csv"), (100_000, "large.csv"), (100_000, "large.csv")):
        command = [
            f"--server={stand_in.address}",
            f"--out={tmp_path / out}",
            str(tmp_path / f"of_{count}"),
        ]
        ended = subprocess.run(
            [sys.executable, "-c", program, *command], check=True, capture_output=True, text=True
        )
        stand_in.requests.clear()
        most.setdefault(count, []).append(int(re.search(r"VmHWM:\s+(\d+)", ended.stderr)[1]) / 1024)
        assert len((tmp_path / out).read_text().splitlines()) == count + 1
    (small,) = most[1_000]
    assert max(most[100_000]) < small + 12, most


@pytest.mark.long
def test_bar_is_shown_on_a_terminal_and_of_long_work_alone(stand_in, pictures, tmp_path):
    def shown(*arguments):
        leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, (25, 120))
        command = [*COMMAND, f"--server={stand_in.address}", *arguments, str(pictures)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=follower) as running:
            os.close(follower)
            text = b""
            with contextlib.suppress(OSError):  # Linux' end of file
                while chunk := os.read(leader, 1024):
                    text += chunk
            running.wait()
        os.close(leader)
        return text

    assert b"pictures" not in shown().replace(bytes(pictures), b"")
    (pictures / "d.jpg").write_bytes(b"slow")
    threading.Timer(4, stand_in.released.set).start()
    assert b"3 pictures [00:0" in shown(f"--out={tmp_path}/r.csv")
