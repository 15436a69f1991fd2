import errno
import os
from pathlib import Path

import pytest

from serving.config import ConfigError, monitoring


def test_a_disk_that_is_full_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "monitoring.config"
    monitoring.write(path, monitoring.make("/before"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        ConfigError,
        match=rf"^{path} cannot be written: No space left on device: choose another place$",
    ):
        monitoring.write(path, monitoring.make("/after"))
    assert monitoring.read(path) == monitoring.make("/before")
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"/none/m cannot be written: No such file or directory: choose another place$",
    ):
        monitoring.write(tmp_path / "none" / "m", monitoring.make())
    assert list(tmp_path.iterdir()) == []
