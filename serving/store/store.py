"""The model store: the versions of a model, and which of them is live, as
`<model_dir>/models.config` says.

Versions lie in `<model_dir>/<model_name>/<version>/`. Publishing:

1. claim a number that nobody else can claim (`.claims/<number>`);
2. stage the version (`.staging/<number>`), its manifest with it, so that `saved_model.pb` is the
   last file to appear in its place: before that, nothing loads it;
3. on any failure, remove what was written. The number stays claimed, so that it never means two
   things. What a killed publisher left, a later one removes; it never touches what a living one is
   writing.
"""

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.config import models_config, render
from serving.config.models_config import ModelServerConfig
from serving.store import manifest
from serving.store.manifest import MANIFEST_FILE
from whisker_ml.contract import MODELS_CONFIG, SAVED_MODEL_FILE, STABLE_LABEL
from whisker_ml.errors import ConflictError, StorageError, disk_errors

# Beside the versions, and invisible to TensorFlow Serving, which reads only names that are numbers.
CLAIMS = ".claims"
STAGING = ".staging"
HISTORY_FILE = ".live.json"

# Each attempt loses only to another writer of models.config that has succeeded.
_EDIT_ATTEMPTS = 20


class NotASavedModelError(StorageError):
    """What is to be published cannot be served."""


class VersionMissingError(StorageError):
    """A version that the store does not have."""


@dataclass(frozen=True)
class PublishedVersion:
    """A version that a server can load.

    Attributes:
        number: above 0.
        path: its folder, or its gs:// address.
    """

    number: int
    path: str


class ModelStore(ABC):
    """The versions of one model, and which of them is live; `open_store` makes one.

    What a folder and a bucket do differently are the eight small operations at the end.

    Args:
        model_dir: root of the store, an absolute path or a gs:// address.
        model_name: as the server knows the model; one path segment.

    Attributes:
        base_path: the folder of versions, or its gs:// address.
        config_path: of models.config.
    """

    def __init__(self, model_dir: str, model_name: str) -> None:
        root = model_dir.rstrip("/")
        self.model_name = model_name
        self.base_path = f"{root}/{model_name}"
        self.config_path = f"{root}/{MODELS_CONFIG}"
        self._history_path = f"{self.base_path}/{HISTORY_FILE}"

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
        paths = (name.partition("/") for name in self._names())
        return sorted(
            int(version)
            for version, _, file in paths
            if is_version(version) and file == SAVED_MODEL_FILE
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

    def require(self, version: int) -> None:
        """Raises a VersionMissingError where the store does not have a version."""
        if version not in self.versions():
            raise VersionMissingError(
                f"{self.base_path} has no version {version}: its versions are {self._listed()}"
            )

    def check(self) -> None:
        """Finds out, before there is anything to lose, what would keep a version from being
        published.

        Raises:
            ConfigError: models.config cannot be read.
            StorageError: the store cannot be reached, or not written as far as that shows without
                writing.
        """
        self.live_version()

    def live_version(self) -> int | None:
        """Gives the version labelled `stable` in models.config, or None where there is none yet.

        Raises:
            ConfigError: models.config cannot be read.
        """
        return self._live(self.config())

    def config(self) -> ModelServerConfig:
        """Reads models.config; empty where there is none.

        Raises:
            ConfigError: it cannot be read.
        """
        return models_config.parse(self._read(self.config_path)[0], self.config_path)

    def labels(self) -> dict[str, int]:
        """Gives the labels in models.config, and the version that each is on."""
        return models_config.labels(self.config(), self.model_name)

    def previous(self) -> int | None:
        """Gives the version that was live before the present one and still exists, or None."""
        entries = parse_history(self._read(self._history_path)[0], self._history_path)
        return previous(entries, self.live_version(), self.versions())

    def require_previous(self) -> int:
        """Gives what `previous` gives, or raises a VersionMissingError."""
        version = self.previous()
        if version is None:
            live = self.live_version()
            reason = "is live" if live is None else f"was live before {live}"
            raise VersionMissingError(
                f"{self.base_path} has no version that {reason}: promote one of {self._listed()}"
            )
        return version

    def promote(self, version: int, label: str = STABLE_LABEL, *, back: bool = False) -> None:
        """Moves a label to a version, in models.config; with `stable` the version is the live one.

        Args:
            version: one of `versions()`.
            label: which.
            back: as for `edit_config`.

        Raises:
            VersionMissingError: the store does not have it.
            ConfigError: the models.config that is there cannot be read; it stays as it is.
            StorageError: the store cannot be written; models.config stays as it is.
        """
        self.require(version)
        self.edit_config(
            lambda config: models_config.with_live(
                config, self.model_name, self.base_path, version, label
            ),
            back=back,
        )

    def rollback(self) -> int:
        """Makes the version live that was live before; a second rollback goes further back, never
        forward again.

        Returns:
            Its number.

        Raises:
            VersionMissingError: no version that still exists was live before.
            ConfigError, StorageError: as `promote` says.
        """
        version = self.require_previous()
        self.promote(version, back=True)
        return version

    def edit_config(
        self, change: Callable[[ModelServerConfig], ModelServerConfig], *, back: bool = False
    ) -> ModelServerConfig:
        """Changes models.config as one step, and keeps the history of what was live.

        Args:
            change: makes the new configuration from the present one; is called again where somebody
                else wrote meanwhile.
            back: where `change` moves `stable`: to a version that was live before, and what was
                live since is to be forgotten; else the version is remembered as the newest.

        Returns:
            What was written.

        Raises:
            ConfigError, StorageError: as `promote` says.
        """
        with self._exclusive():
            for _ in range(_EDIT_ATTEMPTS):
                text, generation = self._read(self.config_path)
                config = models_config.parse(text, self.config_path)
                changed = change(config)
                models_config.check(changed, self.config_path)
                # First the history: an entry too many is known as such, a missing one is not.
                if self._remember(
                    self._live(config), self._live(changed), back=back
                ) and self._replace(self.config_path, render(changed).encode(), generation):
                    return changed
        raise ConflictError(
            f"{self.config_path} was changed by others {_EDIT_ATTEMPTS} times in a row: try again"
        )

    def prune(self, keep: int) -> list[int]:
        """Deletes the oldest versions.

        Never those that models.config names, nor the one that `rollback` would go to, nor another
        tool's.

        Args:
            keep: how many of the newest stay in any case, 1 or more.

        Returns:
            The numbers of the deleted ones, ascending.

        Raises:
            StorageError: `keep` is below 1, or the store cannot be written; every version is whole
                or gone.
        """
        if keep < 1:
            raise StorageError(f"cannot keep {keep} versions: expected 1 or more")
        deleted = []
        with self._exclusive():
            for version in self.versions()[:-keep]:
                # Looked at each time, as a bucket cannot keep others from promoting meanwhile.
                if version not in self._in_use() and self.read_file(version, MANIFEST_FILE):
                    self._delete(version)
                    deleted.append(version)
        return deleted

    def _in_use(self) -> set[int | None]:
        models = self.config().model_config_list.config
        loaded = {
            version
            for model in models
            if model.name == self.model_name
            for version in model.model_version_policy.specific.versions
        }
        return {*loaded, *self.labels().values(), self.previous()}

    def _remember(self, old: int | None, new: int | None, *, back: bool) -> bool:
        """Notes that another version becomes live; false where somebody else wrote meanwhile."""
        if new is None or new == old:
            return True
        content, generation = self._read(self._history_path)
        entries = until(parse_history(content, self._history_path), old)
        entries = until(entries, new) if back else [*entries, new]
        return self._replace(self._history_path, json.dumps(entries).encode(), generation)

    def _live(self, config: ModelServerConfig) -> int | None:
        return models_config.live_version(config, self.model_name)

    def _listed(self) -> str:
        return ", ".join(map(str, self.versions())) or "none"

    def _taken(self) -> set[int]:
        """Numbers that are claimed, or whose name exists below the base path, whoever made it."""
        names = (name.removeprefix(f"{CLAIMS}/").partition("/")[0] for name in self._names())
        return {int(name) for name in names if is_version(name)}

    @abstractmethod
    def files(self, version: int) -> set[str]:
        """Lists the files of a version: relative names with forward slashes."""

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
    def _write(self, number: int, sources: Mapping[str, Path]) -> None:
        """Writes a version, saved_model.pb last, or leaves nothing that a server would load.

        What killed publishers left is removed.

        Args:
            number: claimed by the caller.
            sources: relative names with forward slashes, and where each file lies now.
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

    def _exclusive(self) -> AbstractContextManager[None]:
        """Keeps others from writing models.config meanwhile, where generations cannot."""
        return nullcontext()


def is_version(name: str) -> bool:
    """Tells whether TensorFlow Serving takes a name for a version."""
    # As TensorFlow Serving scans: the whole name is a number that fits an int64, leading zeros
    # allowed.
    return name.isascii() and name.isdigit() and int(name) < 2**63


# The history: which versions were live, in order, newest last. It is written before models.config,
# so that a kill in between leaves an entry that never was live: what models.config says decides,
# and entries behind the last mention of the live version count for nothing.


def parse_history(content: bytes, place: str) -> list[int]:
    """Reads a history; an empty content is an empty one.

    Raises:
        StorageError: it is no list of numbers.
    """
    try:
        entries = json.loads(content or b"[]")
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list) or not all(type(entry) is int for entry in entries):
        raise StorageError(
            f"{place} is no list of versions: remove it; what was live before is then unknown"
        )
    return entries


def until(entries: Sequence[int], live: int | None) -> list[int]:
    """Gives the entries up to and with the last mention of the live version, which is added where
    there is none.
    """
    kept = list(entries)
    if live is None:
        return kept
    while live in kept and kept[-1] != live:
        kept.pop()
    return kept if live in kept else [*kept, live]


def previous(entries: Sequence[int], live: int | None, versions: Collection[int]) -> int | None:
    """Gives the last of these versions that was live before the present one, if any."""
    before = reversed(until(entries, live))
    return next((entry for entry in before if entry != live and entry in versions), None)
