"""The model store: the versions of a model, and which of them is live, as
`<model_dir>/models.config` says.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from serving.config import models_config
from serving.config.models_config import ModelServerConfig
from serving.store import history
from serving.store.errors import VersionMissingError
from serving.store.manifest import MANIFEST_FILE
from serving.store.versions import Versions
from whisker_ml.contract import MODELS_CONFIG, STABLE_LABEL
from whisker_ml.errors import ConflictError, StorageError
from whisker_ml.files import is_address

# Each attempt loses only to another writer of models.config that has succeeded.
_EDIT_ATTEMPTS = 20


class ModelStore(Versions):
    """The versions of one model, and which of them is live; the arguments are those of
    `Versions`.
    """

    def __init__(self, model_dir: str, model_name: str) -> None:
        super().__init__(model_dir, model_name)
        self.config_path = f"{model_dir.rstrip('/')}/{MODELS_CONFIG}"
        self._history_path = f"{self.base_path}/{history.HISTORY_FILE}"

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
        entries = history.parse(self._read(self._history_path)[0], self._history_path)
        return history.previous(entries, self.live_version(), self.versions())

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

    def promote(self, version: int, label: str = STABLE_LABEL) -> None:
        """Moves a label to a version, in models.config; with `stable` the version is the live one.

        Args:
            version: one of `versions()`.
            label: which.

        Raises:
            VersionMissingError: the store does not have it.
            ConfigError: the models.config that is there cannot be read; it stays as it is.
            StorageError: the store cannot be written; models.config stays as it is.
        """
        self.require(version)
        self.edit_config(
            lambda config: models_config.with_live(
                config, self.model_name, self.base_path, version, label
            )
        )

    def rollback(self) -> int:
        """Makes the version live that was live before; a second rollback goes further back, never
        forward again.

        Returns:
            Its number.

        Raises:
            VersionMissingError: no version that still exists was live before.
            ConfigError: models.config cannot be read.
            StorageError: the store cannot be written; models.config stays as it is.
        """
        version = self.require_previous()
        self.edit_config(
            lambda config: models_config.with_live(
                config, self.model_name, self.base_path, version
            ),
            back=True,
        )
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
            ConfigError: the models.config that is there cannot be read; it stays as it is.
            StorageError: the store cannot be written; models.config stays as it is.
        """
        with self._exclusive():
            for _ in range(_EDIT_ATTEMPTS):
                text, generation = self._read(self.config_path)
                config = models_config.parse(text, self.config_path)
                changed = change(config)
                models_config.check(changed, self.config_path)
                # First the history: an entry too many is known as such, a missing one is not.
                if self._remember(
                    *(self._live(one) for one in (config, changed)), back=back
                ) and self._replace(
                    self.config_path, models_config.render(changed).encode(), generation
                ):
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
        entries = history.until(history.parse(content, self._history_path), old)
        entries = history.until(entries, new) if back else [*entries, new]
        return self._replace(self._history_path, history.render(entries), generation)

    def _live(self, config: ModelServerConfig) -> int | None:
        return models_config.live_version(config, self.model_name)

    def _exclusive(self) -> AbstractContextManager[None]:
        """Keeps others from writing models.config meanwhile, where preconditions cannot."""
        return nullcontext()


def open_store(model_dir: str, model_name: str) -> ModelStore:
    """Opens a store; one that does not exist yet comes to be when something is published.

    Args:
        model_dir: root of the store: a folder, or ``gs://bucket/prefix``.
        model_name: as the server knows the model.

    Raises:
        StorageError: the address or the name cannot be one, or there are no credentials for the
            bucket.
    """
    # Imported here, as either module needs this one, and only a bucket needs google-cloud-storage.
    if is_address(model_dir):
        from serving.store.bucket_store import BucketStore

        return BucketStore(model_dir, model_name)
    from serving.store.folder import LocalStore

    return LocalStore(model_dir, model_name)
