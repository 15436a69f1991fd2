"""A model store in a bucket of Cloud Storage.

A version comes to be in one step: its saved_model.pb is sent to `.staging/<number>` and, when all
the rest is there, copied to its place by the service. Whoever removes what a killed publisher left
deletes that staged object first: a publisher that was only slow has nothing to copy then, and
cannot make an incomplete version visible.

In a bucket with a hierarchical namespace, the whole folder could be staged and renamed in one step;
that needs another client library (google-cloud-storage-control), and this way works in every
bucket.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from serving.store.store import CLAIMS, STAGING, ModelStore, is_version
from whisker_ml import files, storage
from whisker_ml.contract import SAVED_MODEL_FILES
from whisker_ml.errors import ConflictError, StorageError, disk_errors
from whisker_ml.files import parse_address
from whisker_ml.storage import same

logger = logging.getLogger(__name__)

# A bucket cannot tell a killed publisher from a slow one. One that has finished no object for so
# long counts as killed; both times are the service's own.
_KILLED_AFTER = timedelta(hours=1)

# What the claim of a version holds from when it is to be deleted; before, it is empty.
_RETIRED = b"retired"


class Bucket(ModelStore):
    """A store in a bucket: a version comes to be when its saved_model.pb, the last object, is
    there.
    """

    def __init__(self, model_dir: str, model_name: str) -> None:
        parse_address(model_dir)
        super().__init__(model_dir, model_name)

    def files(self, version: int) -> set[str]:
        """Lists the files of a version."""
        return set(storage.list_names(f"{self.base_path}/{version}"))

    def _names(self) -> tuple[list[str], set[int]]:
        """Names below the base path, and the versions whose claim says that they are retired."""
        objects = storage.list_objects(self.base_path)
        claims = (name.partition("/")[2] for name in objects if name.startswith(f"{CLAIMS}/"))
        return list(objects), {
            int(name) for name in claims if is_version(name) and objects[f"{CLAIMS}/{name}"].size
        }

    def _claim(self, number: int, publisher: str) -> bool:
        """Claims a number."""
        claim = f"{self.base_path}/{CLAIMS}/{number}"
        return bool(storage.write(claim, b"", generation=0, writer=publisher))

    def _claimed_by(self, publisher: str) -> int | None:
        """Gives the number of a publisher; whatever is written into a claim has another writer."""
        claims = storage.list_objects(f"{self.base_path}/{CLAIMS}")
        return next(
            (
                int(name)
                for name, claim in claims.items()
                if is_version(name) and storage.writer_of(claim) == publisher
            ),
            None,
        )

    def _write(self, number: int, sources: Mapping[str, Path], *, again: bool) -> None:
        """Writes a version."""
        address = f"{self.base_path}/{number}"
        graph = _graph(sources)
        rest = {name: path for name, path in sources.items() if name != graph}
        if again:
            self._remove_remains(number)
            if number in self.versions():
                return
        try:
            for name in storage.list_names(address):
                raise ConflictError(
                    f"{address}/{name} is there already: another tool took the number; publish"
                    " again"
                )
            with disk_errors(sources[graph]):
                content = sources[graph].read_bytes()
            staged = f"{self.base_path}/{STAGING}/{number}"
            generation = storage.write(staged, content, generation=0)
            if not generation:
                raise ConflictError(f"{staged} is there already: publish again")
            there = self._take_over(number, rest)
            storage.upload_new(
                {name: path for name, path in rest.items() if name not in there}, address
            )
            if not storage.copy_new(staged, f"{address}/{graph}", generation):
                raise ConflictError(
                    f"{address} took so long that another publisher removed it as abandoned:"
                    " publish again"
                )
        except BaseException:
            try:
                self._withdraw(number, sources)
            except StorageError as error:
                logger.warning("%s is incomplete and could not be removed: %s", address, error)
            raise
        try:
            storage.delete([str(number)], f"{self.base_path}/{STAGING}")
            self._remove_abandoned(f"{number}/{graph}")
        except StorageError as error:
            logger.warning(
                "what other publishers left in %s could not be removed: %s", self.base_path, error
            )

    def _take_over(self, number: int, files: Mapping[str, Path]) -> set[str]:
        """Copies, on the service's side, what a killed publisher had sent of the same content;
        gives the names.
        """
        objects = storage.list_objects(self.base_path)
        taken: set[str] = set()
        for source, blob in objects.items():
            other, _, name = source.partition("/")
            if (
                other.isdigit()
                and not any(f"{other}/{graph}" in objects for graph in SAVED_MODEL_FILES)
                and name in set(files) - taken
                and same(files[name], blob)
                and storage.copy_new(
                    f"{self.base_path}/{source}", f"{self.base_path}/{number}/{name}"
                )
            ):
                taken.add(name)
        return taken

    def _withdraw(self, number: int, files: Mapping[str, Path]) -> None:
        """Deletes what was written of a version, and nothing that somebody else wrote there."""
        objects = storage.list_objects(self.base_path)
        # saved_model.pb first: a copy whose answer was lost may have put it there.
        graph = _graph(files)
        names = {f"{number}/{name}": files[name] for name in (graph, *files)}
        names[f"{STAGING}/{number}"] = files[graph]
        ours = [
            name for name, path in names.items() if name in objects and same(path, objects[name])
        ]
        storage.delete(ours, self.base_path)

    def _remove_abandoned(self, published: str) -> None:
        """Removes what killed publishers left; `published` has just been written, and so tells the
        service's time.
        """
        objects = storage.list_objects(self.base_path)
        now = objects[published].updated
        for claim in [name for name in objects if name.startswith(f"{CLAIMS}/")]:
            number = claim.removeprefix(f"{CLAIMS}/")
            staged = f"{STAGING}/{number}"
            remains = [name for name in objects if name == staged or name.startswith(f"{number}/")]
            if (
                not remains
                or (
                    staged not in remains
                    and any(f"{number}/{graph}" in remains for graph in SAVED_MODEL_FILES)
                )
                or max(objects[name].updated for name in (claim, *remains)) > now - _KILLED_AFTER
            ):
                continue
            self._remove_remains(int(number))

    def _remove_remains(self, number: int) -> None:
        """Removes what a publisher has left that does not write any more, or too late."""
        storage.delete([str(number)], f"{self.base_path}/{STAGING}")
        # Only now is it settled whether the publisher got to its last step.
        there = storage.list_names(f"{self.base_path}/{number}")
        if not set(SAVED_MODEL_FILES).intersection(there):
            storage.delete(there, f"{self.base_path}/{number}")

    def _retire(self, versions: Sequence[int]) -> list[int]:
        """Marks versions in their claims, and then writes models.config as it is.

        Whoever looked at models.config before that has lost by its generation, and whoever looks
        later sees the marks.
        """
        claims = {version: f"{self.base_path}/{CLAIMS}/{version}" for version in versions}
        marks = {
            version: storage.write(claim, _RETIRED, storage.read(claim)[1])
            for version, claim in claims.items()
        }
        in_use = self.edit_config(lambda state: state.config).in_use
        for version, mark in marks.items():
            # Of a mark that another pruner has made anew meanwhile, nothing is taken back.
            if mark and version in in_use:
                storage.write(claims[version], b"", mark)
        return [version for version, mark in marks.items() if mark and version not in in_use]

    def _delete(self, number: int) -> None:
        """Deletes a version."""
        address = f"{self.base_path}/{number}"
        storage.delete(SAVED_MODEL_FILES, address)
        storage.delete(storage.list_names(address), address)

    @contextmanager
    def _local(self, version: int) -> Iterator[Path]:
        """Gives a local folder with a version."""
        with (
            disk_errors(tempfile.gettempdir()),
            files.scratch_folder("version-") as folder,
        ):
            storage.download_folder(f"{self.base_path}/{version}", folder)
            yield folder

    def _read(self, path: str) -> tuple[bytes, int]:
        """Reads a file."""
        return storage.read(path)

    def _replace(self, path: str, content: bytes, generation: int) -> bool:
        """Replaces a file."""
        return bool(storage.write(path, content, generation))


def _graph(names: Iterable[str]) -> str:
    """Finds the file that makes a SavedModel one, of which `publish` has seen to it that there is
    one.
    """
    (graph,) = set(SAVED_MODEL_FILES).intersection(names)
    return graph
