"""What a store holds at one moment, on which a change of models.config decides; and which version
was live before.
"""

import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from serving.config import models_config
from serving.config.models_config import ModelServerConfig
from whisker_ml.errors import StorageError

logger = logging.getLogger(__name__)


class VersionMissingError(StorageError):
    """A version that the store does not have."""


@dataclass(frozen=True)
class State:
    """A model in a store, at one moment.

    Attributes:
        base_path: the folder of versions, or its gs:// address.
        model_name: as the server knows the model.
        config: models.config; with what other models have there.
        versions: that a server can load, ascending.
        retired: numbers whose versions are about to be deleted, or were.
        history: which versions were live, newest last.
        generations: of models.config and of the history, as they were read.
    """

    base_path: str
    model_name: str
    config: ModelServerConfig
    versions: Sequence[int]
    retired: Collection[int]
    history: Sequence[int]
    generations: tuple[int, int]

    @property
    def live(self) -> int | None:
        """The version labelled `stable`; None where there is none yet."""
        return models_config.live_version(self.config, self.model_name)

    @property
    def lasting(self) -> list[int]:
        """The versions that are not about to be deleted: models.config may name them."""
        return [version for version in self.versions if version not in self.retired]

    @property
    def previous(self) -> int | None:
        """The version that was live before the present one and still exists, or None."""
        return previous(self.history, self.live, self.lasting)

    def has_been_live(self, version: int) -> bool:
        """Tells whether a version is live, or was before the one that is."""
        return self.live is not None and version in until(self.history, self.live)

    @property
    def in_use(self) -> set[int | None]:
        """What must not be deleted: what models.config names, and where `rollback` would go to."""
        named = models_config.named(self.config, self.model_name)
        return {*named, previous(self.history, self.live, self.versions)}

    def require(self, version: int) -> None:
        """Raises a VersionMissingError where the store does not have a version."""
        if version not in self.versions:
            raise VersionMissingError(
                f"{self.base_path} has no version {version}: its versions are {self._listed()}"
            )

    def require_lasting(self, version: int) -> None:
        """As `require`, and where the version is about to be deleted."""
        self.require(version)
        if version in self.retired:
            raise VersionMissingError(
                f"{self.base_path}/{version} is being deleted: choose another of {self._listed()}"
            )

    def require_previous(self) -> int:
        """Gives what `previous` gives, or raises a VersionMissingError."""
        version = self.previous
        if version is None:
            reason = "is live" if self.live is None else f"was live before {self.live}"
            way_out = f"promote one of these: {self._listed()}"
            if set(self.versions) == {self.live}:
                way_out = "it is the only version, so publish another one first"
            raise VersionMissingError(f"{self.base_path} has no version that {reason}: {way_out}")
        return version

    def moved(self, version: int, label: str) -> ModelServerConfig:
        """Gives models.config with a label on a version; raises as `require_lasting` does."""
        self.require_lasting(version)
        return models_config.with_live(self.config, self.model_name, self.base_path, version, label)

    def settled(self, config: ModelServerConfig) -> "State":
        """Gives what is there with another models.config, which names only versions that are there.

        Raises:
            VersionMissingError: it names one that the present one does not, and that is not there.
        """
        named = models_config.named(config, self.model_name)
        for version in sorted(named - models_config.named(self.config, self.model_name)):
            self.require_lasting(version)
        if gone := named.difference(self.versions):
            logger.warning(
                "%s has no version %s any more: models.config names it no longer",
                self.base_path,
                ", ".join(map(str, sorted(gone))),
            )
            config = models_config.without(config, self.model_name, gone)
        return replace(self, config=config)

    def _listed(self) -> str:
        return ", ".join(map(str, self.lasting)) or "none"


# The history: which versions were live, in order, newest last. A kill may leave an entry that never
# was live, or is not any more: what models.config says decides, and entries behind the last mention
# of the live version count for nothing.


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
            f"{place} is not a list of versions: remove it; the store then no longer knows what was"
            " live before"
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
