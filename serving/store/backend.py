"""What a folder and a bucket do differently for a model store: eight small operations."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from whisker_ml.contract import MODELS_CONFIG

# Beside the versions, and invisible to TensorFlow Serving, which reads only names that are numbers.
CLAIMS = ".claims"
STAGING = ".staging"


class Backend(ABC):
    """The place of one model's versions.

    Args:
        model_dir: root of the store, an absolute path or a gs:// address.
        model_name: one path segment.

    Attributes:
        base_path: the folder of versions, or its gs:// address.
        config_path: of models.config.
    """

    def __init__(self, model_dir: str, model_name: str) -> None:
        root = model_dir.rstrip("/")
        self.base_path = f"{root}/{model_name}"
        self.config_path = f"{root}/{MODELS_CONFIG}"

    @abstractmethod
    def check(self) -> None:
        """Raises a StorageError where it shows without writing that nothing can be written."""

    @abstractmethod
    def names(self) -> Iterable[str]:
        """Names below the base path, relative to it: at least every child, claim and saved_model.pb
        of a child.
        """

    @abstractmethod
    def claim(self, number: int) -> bool:
        """Claims a number; false where it is claimed already. Of any number of callers one gets
        true.
        """

    @abstractmethod
    def write(self, number: int, sources: Mapping[str, Path]) -> None:
        """Writes a version, saved_model.pb last, or leaves nothing that a server would load.

        What killed publishers left is removed.

        Args:
            number: claimed by the caller.
            sources: relative names with forward slashes, and where each file lies now.
        """

    @abstractmethod
    def delete(self, number: int) -> None:
        """Deletes a version; a kill leaves it whole, or nothing that a server would load."""

    @abstractmethod
    def local(self, version: int) -> AbstractContextManager[Path]:
        """Gives a local folder with the files of a version meanwhile."""

    @abstractmethod
    def read(self, path: str) -> tuple[bytes, int]:
        """Reads a file below the root: its content, empty where it is missing, and its
        generation.
        """

    @abstractmethod
    def replace(self, path: str, content: bytes, generation: int) -> bool:
        """Replaces a file below the root as one step; false where it is no longer the one of
        `generation`.
        """

    def exclusive(self) -> AbstractContextManager[None]:
        """Keeps others from writing models.config meanwhile, where generations cannot."""
        return nullcontext()


def is_version(name: str) -> bool:
    """Tells whether TensorFlow Serving takes a name for a version."""
    # As TensorFlow Serving scans: the whole name is a number that fits an int64, leading zeros
    # allowed.
    return name.isascii() and name.isdigit() and int(name) < 2**63
