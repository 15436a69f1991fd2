"""Files appear whole or not at all, a lock ends with its process, damaged JSON is one line."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from whisker_ml import files


def test_a_reader_finds_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "result.json"
    files.replace(path, b"old")
    with files.replacing(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "result.json"
    files.replace(path, b"old")
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_permissions_that_were_asked_for(tmp_path):
    files.replace(tmp_path / "key", b"secret", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    kept = {".lock", ".hidden.1", "result.json", "a.12-34"}
    (tmp_path / "below").mkdir()
    for name in (*kept, ".result.json.12-140141", "below/.roc.png.7-8"):
        (tmp_path / name).touch()
    files.remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_scratch_folders_of_killed_processes_are_removed_and_those_in_use_are_not(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = """
import os, sys
from whisker_ml import files
with files.scratch_folder("test-") as folder:
    (folder / "model").touch()
    print(folder.parent, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as other:
        folder = Path(other.stdout.readline().decode().strip())
        os.utime(folder, (0, 0))
        with files.scratch_folder("other-") as mine:
            assert (folder / "files" / "model").exists()
            assert list(mine.iterdir()) == []
        assert not mine.parent.exists()
        other.kill()
    other.wait(10)
    (folder.parent / "new").mkdir()
    os.utime(folder, (0, 0))
    with files.scratch_folder("other-"):
        assert not folder.exists()
    assert [path.name for path in folder.parent.iterdir()] == ["new"]


def test_a_scratch_folder_is_never_behind_a_link(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "mine" / "runs").mkdir(parents=True)
    os.utime(tmp_path / "mine" / "runs", (0, 0))
    (tmp_path / f"whisker-scratch-{os.getuid()}").symlink_to(tmp_path / "mine")
    with files.scratch_folder("test-") as folder:
        assert folder.parent.parent == tmp_path
    assert list((tmp_path / "mine").iterdir()) == [tmp_path / "mine" / "runs"]


def test_json_comes_back_as_it_was_written(tmp_path):
    files.write_json(tmp_path / "a.json", {"größe": [1, 2.5, None]})
    assert files.read_json(tmp_path / "a.json", "") == {"größe": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON: "),
        (b'{"a": 1', "not JSON: "),
        (b"\xff\xfe\x00", "not JSON: "),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1]", "not a JSON object"),
    ],
)
def test_damaged_json_is_one_line_with_its_remedy(tmp_path, content, reason):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(files.DamagedFileError) as raised:
        files.read_json(path, "remove the folder")
    text = str(raised.value)
    assert text.startswith(str(path))
    assert reason in text
    assert text.endswith("; remove the folder")
    assert "\n" not in text


def test_missing_json_is_one_line(tmp_path):
    with pytest.raises(files.DamagedFileError, match="No such file"):
        files.read_json(tmp_path / "state.json", "remove the folder")


def _hold(path: Path, held, release) -> None:
    with files.locked(path):
        held.set()
        release.wait(20)


def test_a_second_process_is_kept_out_until_the_first_has_let_go(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    path = tmp_path / ".lock"
    process = context.Process(target=_hold, args=(path, held, release))
    process.start()
    assert held.wait(20)
    with pytest.raises(BlockingIOError), files.locked(path):
        pass
    release.set()
    with files.locked(path, wait=True):
        pass
    process.join(20)
    assert process.exitcode == 0


def test_a_lock_leaves_the_content_of_its_file(tmp_path):
    path = tmp_path / "claim"
    path.write_text(json.dumps({"number": 3}))
    with files.locked(path):
        assert json.loads(path.read_text()) == {"number": 3}


def test_a_lock_is_neither_behind_a_link_nor_a_pipe_that_somebody_must_read(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    for name, number in (("link", errno.ELOOP), ("pipe", errno.ENXIO)):
        with pytest.raises(OSError, match=name) as raised, files.locked(tmp_path / name):
            pass
        assert raised.value.errno == number
    assert not (tmp_path / "elsewhere").exists()
