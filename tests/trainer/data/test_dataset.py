import resource
import subprocess
import sys

import numpy as np
import pytest

from trainer.data.dataset import free_memory_bytes, make_cache, pixel_rows
from trainer.errors import DataError

SHAPE = (50, 32, 32, 3)
NEEDED = int(np.prod(SHAPE))


@pytest.mark.parametrize("on_disk", [False, True])
def test_rows_are_given_back_and_nothing_is_left_in_the_folder(tmp_path, on_disk):
    cache = pixel_rows(SHAPE, tmp_path / "pixels" if on_disk else None)
    rows = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    cache[20:] = rows[20:]
    cache[np.arange(10)] = rows[:10]
    np.testing.assert_array_equal(cache[:10], rows[:10])
    np.testing.assert_array_equal(cache[10:20], 0)
    np.testing.assert_array_equal(cache[[49, 20]], rows[[49, 20]])
    assert isinstance(cache, np.memmap) == on_disk
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def kept_in(cache):
    return "none" if cache is None else "disk" if isinstance(cache, np.memmap) else "memory"


@pytest.mark.parametrize(
    ("kind", "memory", "disk", "expected"),
    [
        ("auto", 2 * NEEDED, 0, "memory"),
        ("auto", 2 * NEEDED - 1, 2 * NEEDED, "disk"),
        ("auto", 0, 2 * NEEDED - 1, "none"),
        ("disk", 2 * NEEDED, 2 * NEEDED, "disk"),
        ("none", 2 * NEEDED, 2 * NEEDED, "none"),
    ],
)
def test_auto_takes_memory_then_disk_then_nothing(
    tmp_path, monkeypatch, kind, memory, disk, expected
):
    monkeypatch.setattr("trainer.data.dataset._free_disk_bytes", lambda _: disk)
    assert kept_in(make_cache(kind, 50, 32, tmp_path / "new", free_bytes=memory)) == expected


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_cache_that_was_asked_for_and_does_not_fit_is_refused(tmp_path, kind):
    with pytest.raises(
        DataError,
        match=rf"--cache={kind}: 1,000,000,000 pictures of 32 pixels take 3072.0 GB, expected",
    ):
        make_cache(kind, 10**9, 32, tmp_path, free_bytes=2**30)


def test_full_disk_is_one_line(tmp_path):
    # In a process of its own: the limit on the size of files stands for the end of the disk.
    code = f"""
import resource, signal
from pathlib import Path
from trainer.data.dataset import pixel_rows
from trainer.errors import DataError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))
try:
    pixel_rows({SHAPE}, Path({str(tmp_path)!r}))
except DataError as error:
    print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert (
        ended.stdout
        == f"{tmp_path}: decoded pictures cannot be kept here (File too large); free space, or use"
        " --cache=none\n"
    )


@pytest.fixture
def linux(tmp_path):
    """Writes what Linux tells of memory: 8 GB in the machine."""
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")

    def limit(line, folder, **files):
        (proc / "self" / "cgroup").write_text(f"1:cpu:/elsewhere\n{line}\n")
        (groups / folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (groups / folder / name.replace("__", ".")).write_text(content)
        return free_memory_bytes(proc, groups)

    return limit


def test_limit_of_a_container_counts_without_the_pages_of_files(linux):
    files = {"memory__current": "700", "memory__stat": "anon 1\ninactive_file 200"}
    assert linux("0::/pod/box", "pod/box", memory__max="max", **files) == 8_192_000_000
    assert linux("0::/pod/box", "pod", memory__max="1000", **files) == 500


def test_limit_of_version_1_counts_too(linux):
    files = {"memory__usage_in_bytes": "700", "memory__stat": "total_inactive_file 100"}
    assert linux("4:memory:/box", "memory/box", memory__limit_in_bytes="1000", **files) == 400


def test_system_that_does_not_tell_is_taken_to_have_little(tmp_path):
    assert free_memory_bytes(tmp_path) == 2**30
