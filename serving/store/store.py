"""The model store: the versions of a model, and which of them is live, as
`<model_dir>/models.config` says.

Versions lie in `<model_dir>/<model_name>/<version>/`. Publishing:

1. claim a number that nobody else can claim (`.claims/<number>`), and say in the claim who does: a
   publisher that was killed and comes again gets its number, or its version, and no second one;
2. stage the version (`.staging/<number>`), its manifest with it, so that `saved_model.pb` is the
   last file to appear in its place: before that, nothing loads it;
3. on any failure, remove what was written. The number stays claimed, so that it never means two
   things. What a killed publisher left, a later one removes; it never touches what a living one is
   writing.

Whatever changes models.config, or deletes what it might name, goes through `edit_config`: under the
lock of the folder, or the generation of the bucket's object, look, decide, write.
"""

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import EllipsisType
from typing import Any

from serving.config import models_config, render
from serving.config.models_config import ModelServerConfig
from serving.store import manifest
from serving.store.manifest import MANIFEST_FILE
from serving.store.state import State, parse_history, until
from whisker_ml.contract import (
    MODELS_CONFIG,
    SAVED_MODEL_FILE,
    SAVED_MODEL_FILES,
    STABLE_LABEL,
)
from whisker_ml.errors import ConflictError, StorageError, disk_errors
from whisker_ml.files import scratch_folder

# Beside the versions, and invisible to TensorFlow Serving, which reads only names that are numbers.
CLAIMS = ".claims"
STAGING = ".staging"
HISTORY_FILE = ".live.json"

# Each attempt loses only to another writer of models.config that has succeeded.
_EDIT_ATTEMPTS = 20


class NotASavedModelError(StorageError):
    """What is to be published cannot be served."""


class OvertakenError(ConflictError):
    """Another version is live than the one that was to be replaced."""


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

    What a folder and a bucket do differently are the nine small operations at the end.

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
        self,
        folder: Path,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        publisher: str = "",
    ) -> PublishedVersion:
        """Adds a SavedModel as the next version, and removes what killed publishers left. It is not
        live yet.

        The version's whisker.json is that of the folder, if it has one, with number, time and the
        digest of every file.

        Args:
            folder: the SavedModel; stays as it is.
            publisher: of this one version, letters and digits: where it was killed, it goes on
                under the number that it had, or gets what it published; empty: it never comes
                again.
            clock: the time in UTC, for whisker.json; nothing depends on it.

        Raises:
            NotASavedModelError: `folder` has no saved_model.pb or .pbtxt, or has both; or a link.
            ManifestError: the whisker.json in `folder` cannot be read.
            StorageError: the store cannot be written; nothing that a server would load is left
                there.
        """
        files = manifest.files_in(folder)
        graphs = [name for name in SAVED_MODEL_FILES if name in files]
        if not graphs:
            raise NotASavedModelError(
                f"{folder} is not a SavedModel: it has no {SAVED_MODEL_FILE}; export one there"
                " first"
            )
        if len(graphs) > 1:
            raise NotASavedModelError(f"{folder} has {' and '.join(graphs)}: remove one of them")
        if strange := manifest.irregular(files):
            raise NotASavedModelError(
                f"{files[strange]} is a link, or not a regular file: publish a folder without such"
                " files, for example a copy made with cp -RL"
            )
        with disk_errors(folder):
            content = files[MANIFEST_FILE].read_bytes() if MANIFEST_FILE in files else b""
        given = manifest.parse(content, f"{folder}/{MANIFEST_FILE}")
        described = manifest.describe(files)
        number = self._claimed_by(publisher) if publisher else None
        again = number is not None
        if number is None:
            number = max(self._taken(), default=0) + 1
            while not self._claim(number, publisher):
                number += 1
        with (
            disk_errors(tempfile.gettempdir()),
            scratch_folder("manifest-") as scratch,
        ):
            told = scratch / "whisker.json"
            told.write_bytes(manifest.complete(given, self.model_name, number, clock(), described))
            self._write(number, {**files, MANIFEST_FILE: told}, again=again)
        return self._version(number)

    def published_by(self, publisher: str) -> PublishedVersion | None:
        """Gives the version that a publisher has published, or None where there is none."""
        number = self._claimed_by(publisher)
        return self._version(number) if number in self.versions() else None

    def _version(self, number: int) -> PublishedVersion:
        return PublishedVersion(number, f"{self.base_path}/{number}")

    def versions(self) -> list[int]:
        """Lists the versions that a server can load, ascending; folders without saved_model.pb, or
        .pbtxt, are none.
        """
        return _versions(self._names()[0])

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
        self.state().require(version)

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
        return models_config.live_version(self.config(), self.model_name)

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
        return self.state().previous

    def state(self) -> State:
        """Looks at all that a change decides on.

        Raises:
            ConfigError: models.config cannot be read.
            StorageError: the history cannot be read.
        """
        # In this order: both were so at one moment, and names that were seen after models.config
        # hold as long as that is as it was.
        while True:
            history, text = self._read(self._history_path), self._read(self.config_path)
            if history == self._read(self._history_path):
                break
        config = models_config.parse(text[0], self.config_path)
        names, retired = self._names()
        return State(
            self.base_path,
            self.model_name,
            config,
            _versions(names),
            retired,
            parse_history(history[0], self._history_path),
            (text[1], history[1]),
        )

    def promote(
        self,
        version: int,
        label: str = STABLE_LABEL,
        *,
        over: int | EllipsisType | None = ...,
    ) -> None:
        """Moves a label to a version, in models.config; with `stable` the version is the live one.

        Args:
            version: one of `versions()`.
            label: which.
            over: the version that must be live, None where none must be; left out, any may be.

        Raises:
            VersionMissingError: the store does not have it.
            OvertakenError: another version is live than `over`.
            ConfigError: the models.config that is there cannot be read; it stays as it is.
            StorageError: the store cannot be written; models.config stays as it is.
        """

        def moved(state: State) -> ModelServerConfig:
            if over not in (..., state.live):
                raise OvertakenError(
                    f"{self.base_path}: version {state.live} is live by now, not {over or 'none'}"
                )
            return state.moved(version, label)

        # A wrong path gets no lock file.
        self.require(version)
        self.edit_config(moved)

    def rollback(self) -> int:
        """Makes the version live that was live before; a second rollback goes further back, never
        forward again.

        Returns:
            Its number.

        Raises:
            VersionMissingError: no version that still exists was live before.
            ConfigError, StorageError: as `promote` says.
        """
        self.state().require_previous()
        state = self.edit_config(
            lambda state: state.moved(state.require_previous(), STABLE_LABEL), back=True
        )
        return models_config.labels(state.config, self.model_name)[STABLE_LABEL]

    def edit_config(
        self, decide: Callable[[State], ModelServerConfig], *, back: bool = False
    ) -> State:
        """Changes models.config as one step, and keeps the history of what was live.

        Of our model, nothing is written that is not there: a change that names such a version is
        refused, and what was named and is gone, as somebody deleted it by hand, is dropped.

        Args:
            decide: makes the new configuration from what is there now; is called again where
                somebody else wrote meanwhile.
            back: where `decide` moves `stable`: to a version that was live before, and what was
                live since is to be forgotten; else the version is remembered as the newest.

        Returns:
            What `decide` was given, with the configuration that was written.

        Raises:
            VersionMissingError: the change names a version that the store does not have.
            ConfigError, StorageError: as `promote` says.
        """
        with self._exclusive():
            for _ in range(_EDIT_ATTEMPTS):
                state = self.state()
                changed = state.settled(decide(state))
                models_config.check(changed.config, self.config_path)
                # An entry too many in the history is known as such, a missing one is not: so one
                # is added before, and those that a step back forgets are taken out after.
                if (back or self._remember(state, changed.live)) and self._replace(
                    self.config_path, render(changed.config).encode(), state.generations[0]
                ):
                    if back:
                        self._remember(state, changed.live, back=True)
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
        return self._remove(
            lambda state: [
                version
                for version in state.versions
                # What a killed prune was about to delete, too.
                if version in state.retired or version in state.lasting[:-keep]
            ]
        )

    def withdraw(self, version: int) -> None:
        """Deletes a version that was published just now, unless it has been promoted.

        Raises:
            StorageError: the store cannot be written.
        """
        self._remove(lambda _: [version])

    def _remove(self, choose: Callable[[State], Sequence[int]]) -> list[int]:
        with self._exclusive():
            state = self.state()
            ours = [
                version
                for version in choose(state)
                if (version in state.retired or version not in state.in_use)
                and self.read_file(version, MANIFEST_FILE)
            ]
            free = self._retire(ours) if ours else []
            for version in free:
                self._delete(version)
        return free

    def _remember(self, state: State, live: int | None, *, back: bool = False) -> bool:
        """Notes that another version becomes live; false where somebody else wrote meanwhile."""
        if live is None or live == state.live:
            return True
        entries = until(state.history, state.live)
        entries = until(entries, live) if back else [*entries, live]
        content = json.dumps(entries).encode()
        return self._replace(self._history_path, content, state.generations[1])

    def _taken(self) -> set[int]:
        """Numbers that are claimed, or whose name exists below the base path, whoever made it."""
        names = (name.removeprefix(f"{CLAIMS}/").partition("/")[0] for name in self._names()[0])
        return {int(name) for name in names if is_version(name)}

    @abstractmethod
    def files(self, version: int) -> set[str]:
        """Lists the files of a version: relative names with forward slashes."""

    @abstractmethod
    def _names(self) -> tuple[Collection[str], Collection[int]]:
        """Names below the base path, relative to it: at least every child, claim and file of
        SAVED_MODEL_FILES of a child; and the versions that `_retire` was given.
        """

    @abstractmethod
    def _claim(self, number: int, publisher: str) -> bool:
        """Claims a number; false where it is claimed already. Of any number of callers one gets
        true.
        """

    @abstractmethod
    def _claimed_by(self, publisher: str) -> int | None:
        """Gives the number that a publisher has claimed, unless its version was deleted."""

    @abstractmethod
    def _write(self, number: int, sources: Mapping[str, Path], *, again: bool) -> None:
        """Writes a version, saved_model.pb last, or leaves nothing that a server would load.

        What killed publishers left is removed.

        Args:
            number: claimed by the caller.
            sources: relative names with forward slashes, and where each file lies now.
            again: whether the caller may have been killed while it wrote this very version, which
                stays where it is there.
        """

    @abstractmethod
    def _retire(self, versions: Sequence[int]) -> list[int]:
        """Gives those of some versions that nothing uses, and that no models.config names from here
        on.
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


def _versions(names: Iterable[str]) -> list[int]:
    paths = (name.partition("/") for name in names)
    return sorted(
        int(version)
        for version, _, file in paths
        if is_version(version) and file in SAVED_MODEL_FILES
    )
