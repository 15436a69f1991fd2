"""Stores to try."""

from pathlib import Path

import pytest


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    """A folder that looks like a SavedModel: a store does not read what it stores."""
    folder = tmp_path / "export"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "fingerprint.pb").write_bytes(b"fingerprint")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(bytes(range(256)) * 64)
    return folder


@pytest.fixture(params=["folder", "bucket"])
def model_dir(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The root of a store that does not exist yet: a folder with a space in its path, or a prefix
    of a bucket.
    """
    if request.param == "folder":
        return str(tmp_path / "all models")
    return f"gs://{request.getfixturevalue('bucket')}/all models"
