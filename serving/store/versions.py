"""The versions of a model, wherever they lie: `<model_dir>/<model_name>/<version>/`.

The protocol of publishing, which every store follows:

1. claim a number that nobody else can claim (`.claims/<number>`; TensorFlow Serving reads only
names that are numbers); 2. stage the version (`.staging/<number>`), its manifest with it, so that
`saved_model.pb` is the last file to appear
   in its place: before that, nothing loads it;
3. on any failure, remove what was written. The number stays claimed, so that it never means two
   things. What a killed publisher left, a later one removes; it never touches what a living one is
   writing.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.store import manifest
from serving.store.errors import NotASavedModelError, VersionMissingError
from serving.store.manifest import MANIFEST_FILE
from whisker_ml.contract import SAVED_MODEL_FILE
from whisker_ml.errors import StorageError, disk_errors

# Beside the versions, and invisible to TensorFlow Serving.
CLAIMS = ".claims"
STAGING = ".staging"


@dataclass(frozen=True)
class PublishedVersion:
    """A version that a server can load.

    Attributes:
        number: above 0.
        path: its folder, or its gs:// address.
    """

    number: int
    path: str


class Versions(ABC):
    """The versions of one model.

    Args:
        model_dir: root of the store, an absolute path or a gs:// address.
        model_name: as the server knows the model; one path segment.

    Raises:
        StorageError: `model_name` is no single path segment.
    """

    def __init__(self, model_dir: str, model_name: str) -> None:
        if not model_name or "/" in model_name or model_name.startswith("."):
            raise StorageError(
                f"the model name {model_name!r} cannot name a folder: expected a name without / or"
                " leading ."
            )
        self.model_name = model_name
        self.base_path = f"{model_dir.rstrip('/')}/{model_name}"

    def publish(
        self, folder: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> PublishedVersion:
        """Adds a SavedModel as the next version, and removes what killed publishers left. It is not
        live yet.

        The version's whisker.json is that of the folder, if it has one, with number, time and the
        digest of every file.

        Args:
            folder: the SavedModel; stays as it is.
            clock: the time in UTC, for whisker.json; nothing depends on it.

        Raises:
            NotASavedModelError: `folder` has no saved_model.pb.
            ManifestError: the whisker.json in `folder` cannot be read.
            StorageError: the store cannot be written; nothing that a server would load is left
                there.
        """
        files = manifest.files_in(folder)
        if SAVED_MODEL_FILE not in files:
            raise NotASavedModelError(
                f"{folder} is no SavedModel: it has no {SAVED_MODEL_FILE}; export one there first"
            )
        with disk_errors(folder):
            content = files[MANIFEST_FILE].read_bytes() if MANIFEST_FILE in files else b""
        given = manifest.parse(content, f"{folder}/{MANIFEST_FILE}")
        described = manifest.describe(files)
        number = max(self._taken(), default=0) + 1
        while not self._claim(number):
            number += 1
        with (
            disk_errors(tempfile.gettempdir()),
            tempfile.NamedTemporaryFile(prefix="whisker-manifest-") as file,
        ):
            file.write(manifest.complete(given, self.model_name, number, clock(), described))
            file.flush()
            self._write(number, {**files, MANIFEST_FILE: Path(file.name)})
        return PublishedVersion(number, f"{self.base_path}/{number}")

    def versions(self) -> list[int]:
        """Lists the versions that a server can load, ascending; folders without saved_model.pb are
        none.
        """
        return sorted(
            int(segments[0])
            for segments in map(_segments, self._names())
            if is_version(segments[0]) and segments[1:] == [SAVED_MODEL_FILE]
        )

    def manifest(self, version: int) -> dict[str, Any]:
        """Gives the whisker.json of a version; empty where it has none, as it is another tool's.

        Raises:
            ManifestError: it cannot be read.
        """
        return manifest.parse(
            self.read_file(version, MANIFEST_FILE), f"{self.base_path}/{version}/{MANIFEST_FILE}"
        )

    def read_file(self, version: int, name: str) -> bytes:
        """Reads a file of a version; empty where it is missing.

        Args:
            version: its number.
            name: relative to the version's folder, with forward slashes.
        """
        return self._read(f"{self.base_path}/{version}/{name}")[0]

    def verify(self, version: int) -> None:
        """Finds out whether a version is what was published under its number.

        Raises:
            VersionMissingError: the store does not have it.
            DigestError, LabelsError, NumberError: as `serving.store.manifest.verify` says.
        """
        self.require(version)
        with self._local(version) as folder:
            manifest.verify(folder, version, f"{self.base_path}/{version}")

    def _listed(self) -> str:
        return ", ".join(map(str, self.versions())) or "none"

    def require(self, version: int) -> None:
        """Raises a VersionMissingError where the store does not have a version."""
        if version not in self.versions():
            raise VersionMissingError(
                f"{self.base_path} has no version {version}: its versions are {self._listed()}"
            )

    def _taken(self) -> set[int]:
        """Numbers that are claimed, or whose name exists below the base path, whoever made it."""
        numbers = set()
        for segments in map(_segments, self._names()):
            name = segments[1] if segments[0] == CLAIMS and len(segments) == 2 else segments[0]
            if is_version(name):
                numbers.add(int(name))
        return numbers

    @abstractmethod
    def _names(self) -> Iterable[str]:
        """Names below the base path, relative to it: at least every child, claim and saved_model.pb
        of a child.
        """

    @abstractmethod
    def _claim(self, number: int) -> bool:
        """Claims a number; false where it is claimed already. Of any number of callers one gets
        true.
        """

    @abstractmethod
    def _write(self, number: int, files: Mapping[str, Path]) -> None:
        """Writes a version, saved_model.pb last, or leaves nothing that a server would load.

        What killed publishers left is removed.

        Args:
            number: claimed by the caller.
            files: relative names with forward slashes, and where each file lies now.
        """

    @abstractmethod
    def _delete(self, number: int) -> None:
        """Deletes a version; a kill leaves it whole, or nothing that a server would load."""

    @abstractmethod
    def _local(self, version: int) -> AbstractContextManager[Path]:
        """Gives a local folder with the files of a version meanwhile."""

    @abstractmethod
    def _read(self, path: str) -> tuple[bytes, int]:
        """Reads a file below the root: its content, empty where it is missing, and its
        generation.
        """

    @abstractmethod
    def _replace(self, path: str, content: bytes, generation: int) -> bool:
        """Replaces a file below the root as one step; false where it is no longer the one of
        `generation`.
        """


def _segments(name: str) -> list[str]:
    return name.split("/")


def is_version(name: str) -> bool:
    """Tells whether TensorFlow Serving takes a name for a version."""
    # As TensorFlow Serving scans: the whole name is a number that fits an int64, leading zeros
    # allowed.
    return name.isascii() and name.isdigit() and int(name) < 2**63
