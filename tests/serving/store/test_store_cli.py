"""The command `whisker-store`, as a person sees it."""

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from serving.store import open_store


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "serving.store", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


@pytest.fixture
def flags(tmp_path: Path, saved_model: Path) -> list[str]:
    """Of a store with two versions; the first is live."""
    (saved_model / "assets.extra").mkdir()
    store = open_store(str(tmp_path / "models"), "whisker")
    store.publish(saved_model)
    (saved_model / "assets.extra" / "whisker.json").write_text(
        json.dumps(
            {"gate": {"verdict": "better"}, "metrics": {"test": {"n": 1000, "accuracy": 0.9}}}
        )
    )
    store.publish(saved_model)
    store.promote(1)
    return [f"--model_dir={tmp_path / 'models'}"]


def test_versions_are_published_listed_promoted_rolled_back_and_pruned(
    flags: list[str], saved_model: Path
) -> None:
    lines = run("publish", str(saved_model), *flags).stdout.splitlines()
    assert lines[-1].startswith("make it live with: whisker-store promote 3 --model_dir=")
    ended = run("promote", "3", *flags)
    assert ended.stdout.startswith("version 3 of whisker is live, after ")
    assert "a running server does not know this yet" in ended.stdout
    assert json.loads(run("rollback", "--format=json", *flags).stdout)["version"] == 1
    assert run("promote", "2", "--label=canary", *flags).returncode == 0
    listed = json.loads(run("list", "--format=json", *flags).stdout)
    assert [(row["version"], row["live"], row["labels"]) for row in listed] == [
        (1, True, ["stable"]),
        (2, False, ["canary"]),
        (3, False, []),
    ]
    assert run("check", *flags).stdout.endswith(
        "models.config: all well; nothing was loaded, as no version has warm-up records\n"
    )
    Path(flags[0].partition("=")[2], "whisker", "1", "fingerprint.pb").write_bytes(b"other")
    ended = run("check", *flags)
    assert ended.returncode == 2
    assert "fingerprint.pb" in ended.stdout
    assert run("prune", "--keep=1", *flags).stdout == "nothing to delete; left: 1, 2, 3\n"


def test_show_says_in_words_and_in_json_what_is_known(flags: list[str]) -> None:
    said = run("show", "2", *flags).stdout
    assert "0.900 of 1,000 right" in said
    assert json.loads(run("show", "2", "--format=json", *flags).stdout)["version"] == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "nothing to do: expected one of list|show N|publish DIR|"),
        (["promote", "two"], "two: expected the number of a version, as list shows it"),
        (["promote", "9"], "has no version 9: its versions are 1, 2"),
        (["rollback"], "has no version that was live before 1: promote one of these: 1, 2"),
        (["promote", "2", "--server=127.0.0.1:1"], "127.0.0.1:1: UNAVAILABLE: "),
        (
            ["rollback", "--server=127.0.0.1:1", "--token_file=nowhere"],
            "--token_file=nowhere: cannot be read",
        ),
        (["list", "--model_name=lions"], "/models has no model lions: give --model_name, one of w"),
        (["list", "--model_dir=nowhere"], "nowhere has no model: check --model_dir, or publish"),
    ],
)
def test_wrong_use_is_one_line_and_exits_with_2(
    flags: list[str], arguments: list[str], text: str
) -> None:
    ended = run(*flags, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert text in line


def test_only_model_is_taken_and_of_several_none(tmp_path: Path, saved_model: Path) -> None:
    folder = tmp_path / "models"
    publish = ["publish", str(saved_model), f"--model_dir={folder}"]
    said = run(*publish, "--model_name=digits").stdout
    assert said.startswith(f"published version 1 of digits: {folder}/digits/1\n")
    said = run(*publish).stdout
    assert said.startswith(f"published version 2 of digits: {folder}/digits/2\n")
    assert said.endswith(f"promote 2 --model_dir={folder} --model_name=digits\n")
    assert run("promote", "2", *publish[2:]).stdout.startswith("version 2 of digits is live, ")
    assert json.loads(run(*publish, "--model_name=letters", "--format=json").stdout) == {
        "model_name": "letters",
        "version": 1,
        "path": f"{folder}/letters/1",
    }
    before = (folder / "models.config").read_bytes()
    for command in (["promote", "1"], ["prune", "--keep=1"], publish[:2]):
        ended = run(*command, *publish[2:])
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.endswith(
            f"error: {folder} has 2 models: give --model_name, one of digits, letters\n"
        )
    assert (folder / "models.config").read_bytes() == before
    assert open_store(str(folder), "digits").versions() == [1, 2]


def test_port_that_is_not_grpc_is_one_line_and_nothing_changes(flags: list[str]) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        ended = run("promote", "2", f"--server=127.0.0.1:{server.server_address[1]}", *flags)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert (
        "this is not a gRPC port: give the server's gRPC port (by default 8500), not the port of"
        " REST" in line
    )
    assert open_store(flags[0].partition("=")[2], "whisker").labels() == {"stable": 1}


def test_package_of_the_store_imports_no_grpc() -> None:
    code = "import sys, serving.store; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
