"""The store in a folder: disks that fail, and writers that die."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serving.config import ConfigError
from serving.store import open_store
from whisker_ml.errors import ConflictError, DiskError, disk_errors

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def visible(base: Path) -> list[str]:
    """What TensorFlow Serving would take for versions."""
    return [path.name for path in base.iterdir() if path.name.isdigit()]


@pytest.mark.parametrize(
    ("operation", "good"),
    [
        *(("shutil.copyfile", good) for good in range(4)),
        *(("os.fsync", good) for good in range(4)),
        ("os.rename", 0),
    ],
)
def test_a_disk_that_fills_up_between_any_two_writes_leaves_nothing_loadable(
    operation: str, good: int, saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, function = operation.partition(".")
    real, calls = getattr(sys.modules[module], function), []

    def failing(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) > good:
            raise FULL
        return real(*arguments, **options)

    base = tmp_path / "models" / "whisker"
    store = open_store(str(base.parent), "whisker")
    with monkeypatch.context() as patched:
        patched.setattr(operation, failing)
        with pytest.raises(
            DiskError, match=r"/1: No space left on device: free some space there and try again$"
        ):
            store.publish(saved_model)
    assert store.versions() == []
    assert visible(base) == []
    assert list((base / ".staging").iterdir()) == []
    assert store.publish(saved_model).number == 2


def test_a_publisher_killed_before_its_rename_leaves_nothing_loadable(
    saved_model: Path, tmp_path: Path
) -> None:
    program = (
        "import os, signal, sys, pathlib\n"
        "from serving.store import open_store\n"
        "pathlib.Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "open_store(sys.argv[1], 'whisker').publish(pathlib.Path(sys.argv[2]))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "m", saved_model], timeout=30, check=False
    )
    assert process.returncode == -signal.SIGKILL
    store = open_store(str(tmp_path / "m"), "whisker")
    assert store.versions() == []
    assert visible(tmp_path / "m" / "whisker") == []
    assert store.publish(saved_model).number == 2


def test_a_full_disk_at_promotion_leaves_models_config_as_it_was(
    saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path), "whisker")
    for _ in range(2):
        store.publish(saved_model)
    store.promote(1)
    before = (tmp_path / "models.config").read_bytes()

    def full(*_: object) -> None:
        raise FULL

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(DiskError, match=r"models\.config: No space left on device"):
            store.promote(2)
    assert (tmp_path / "models.config").read_bytes() == before
    assert not list(tmp_path.glob(".models.config.[0-9]*"))


def test_a_model_dir_below_a_file_is_one_clear_line(saved_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        DiskError, match=rf"^{tmp_path}/file/whisker\S*: Not a directory: choose another folder$"
    ):
        open_store(str(tmp_path / "file"), "whisker").publish(saved_model)


def test_a_check_finds_a_model_dir_that_cannot_be_made_before_anything_is_published(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        DiskError, match=f"^{tmp_path}/file/models/whisker: Not a directory: choose another folder$"
    ):
        open_store(str(tmp_path / "file" / "models"), "whisker").check()
    open_store(str(tmp_path / "models"), "whisker").check()
    assert (tmp_path / "models" / "whisker").is_dir()


def test_a_check_finds_a_models_config_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "models.config").write_text("no config")
    with pytest.raises(ConfigError, match="models.config is not a ModelServerConfig"):
        open_store(str(tmp_path), "whisker").check()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_model_dir_without_write_permission_is_one_clear_line(
    saved_model: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(
            DiskError, match=r"Permission denied: choose a folder that you may write to$"
        ):
            open_store(str(tmp_path / "models"), "whisker").publish(saved_model)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_may_not_be_written_is_one_clear_line(number: int) -> None:
    reason = os.strerror(number)
    with (
        pytest.raises(DiskError, match=rf"^/m/1: {reason}: choose a folder that you may write to$"),
        disk_errors("/m"),
    ):
        raise OSError(number, reason, "/m/1")


def test_a_relative_model_dir_becomes_an_absolute_base_path(
    saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("models", "whisker")
    store.promote(store.publish(saved_model).number)
    assert (
        f'base_path: "{tmp_path}/models/whisker"'
        in (tmp_path / "models" / "models.config").read_text()
    )


def test_a_store_in_a_folder_loads_neither_google_cloud_storage_nor_tensorflow(
    tmp_path: Path,
) -> None:
    program = (
        "import sys\nfrom serving.store import open_store\nopen_store(sys.argv[1],"
        " 'whisker').live_version()\nprint([name for name in sys.modules if"
        " name.startswith(('google.cloud.storage', 'tensorflow'))])\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        timeout=30,
        check=True,
        capture_output=True,
        text=True,
    )
    assert answer.stdout == "[]\n"


def test_a_disk_quota_met_while_publishing_is_one_clear_line_and_leaves_nothing_loadable(
    saved_model: Path, tmp_path: Path
) -> None:
    # A real refusal of the kernel: no file of the child may grow beyond 10,000 bytes, and one has
    # 16,384.
    program = (
        "import pathlib, resource, signal, sys\n"
        "from serving.store import open_store\n"
        "from whisker_ml.errors import DiskError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n"
        "    open_store(sys.argv[1], 'whisker').publish(pathlib.Path(sys.argv[2]))\n"
        "except DiskError as error:\n"
        "    print(error)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "m", saved_model],
        timeout=30,
        check=True,
        capture_output=True,
        text=True,
    )
    assert answer.stdout.endswith(
        "variables.data-00000-of-00001: File too large: choose another folder\n"
    )
    store = open_store(str(tmp_path / "m"), "whisker")
    assert (store.versions(), visible(tmp_path / "m" / "whisker")) == ([], [])
    assert store.publish(saved_model).number == 2


def test_what_a_living_publisher_has_staged_is_left_alone_and_what_a_dead_one_has_is_removed(
    saved_model: Path, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path), "whisker")
    store.publish(saved_model)
    base = tmp_path / "whisker"
    for name in ("2", "3", "notes"):
        (base / ".staging" / name).mkdir()
    for name in ("2", "3"):
        (base / ".claims" / name).touch()
    with (base / ".claims" / "3").open() as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        assert store.publish(saved_model).number == 4
    assert sorted(path.name for path in (base / ".staging").iterdir()) == ["3", "notes"]
    store.publish(saved_model)
    assert [path.name for path in (base / ".staging").iterdir()] == ["notes"]


def test_a_killed_promotion_leaves_no_file_behind_after_the_next(
    saved_model: Path, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path), "whisker")
    store.publish(saved_model)
    for leftover in (
        tmp_path / ".models.config.123-456",
        tmp_path / "whisker" / "..live.json.123-456",
    ):
        leftover.touch()
    store.promote(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".models.config.lock",
        "export",
        "models.config",
        "whisker",
    ]
    assert not (tmp_path / "whisker" / "..live.json.123-456").exists()


@pytest.mark.parametrize("exists", [True, False])
def test_a_lock_that_is_a_link_is_refused_and_what_it_leads_to_stays_as_it_was(
    exists: bool, saved_model: Path, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "models"), "whisker")
    store.publish(saved_model)
    elsewhere = tmp_path / "elsewhere"
    if exists:
        elsewhere.write_bytes(b"precious")
    lock = tmp_path / "models" / ".models.config.lock"
    lock.symlink_to(elsewhere)
    for change in (lambda: store.promote(1), lambda: store.prune(1)):
        with pytest.raises(DiskError, match=rf"^{lock}: .*: remove the link$"):
            change()
    assert elsewhere.exists() == exists
    assert not exists or elsewhere.read_bytes() == b"precious"
    lock.unlink()
    store.promote(1)


@pytest.mark.parametrize("name", [".staging", ".staging/2", ".claims"])
def test_a_folder_of_the_store_that_is_a_link_is_refused_and_nothing_is_written_behind_it(
    name: str, saved_model: Path, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "models"), "whisker")
    store.publish(saved_model)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # What would be removed as a killed publisher's, were the link followed.
    (elsewhere / "1").mkdir()
    folder = tmp_path / "models" / "whisker" / name
    if folder.is_dir():
        folder.rename(tmp_path / "before")
    folder.symlink_to(elsewhere)
    with pytest.raises(ConflictError, match=rf"^{folder} is a link: .*; remove the link$"):
        store.publish(saved_model)
    assert [path.name for path in elsewhere.iterdir()] == ["1"]
    assert store.versions() == [1]
    folder.unlink()
    if (tmp_path / "before").exists():
        (tmp_path / "before").rename(folder)
    store.verify(store.publish(saved_model).number)


def test_a_claim_that_is_a_link_is_a_number_taken_and_leads_nowhere(
    saved_model: Path, tmp_path: Path
) -> None:
    claims = tmp_path / "models" / "whisker" / ".claims"
    claims.mkdir(parents=True)
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (claims / "1").symlink_to(tmp_path / "elsewhere")
    (claims.parent / ".staging" / "1").mkdir(parents=True)
    store = open_store(str(tmp_path / "models"), "whisker")
    assert store.publish(saved_model).number == 2
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"


def test_what_lies_staged_under_a_number_that_nobody_has_claimed_does_not_get_into_a_version(
    saved_model: Path, tmp_path: Path
) -> None:
    staged = tmp_path / "models" / "whisker" / ".staging" / "1"
    staged.mkdir(parents=True)
    (staged / "stranger.txt").touch()
    store = open_store(str(tmp_path / "models"), "whisker")
    store.publish(saved_model)
    store.verify(1)
