"""The model store: versions of a model in a folder or a bucket, and which of them is live."""

from pathlib import Path

from serving.store.store import ModelStore, PublishedVersion, is_version
from whisker_ml.contract import DEFAULT_MODEL_NAME
from whisker_ml.errors import StorageError, disk_errors
from whisker_ml.files import is_address

__all__ = ["ModelStore", "PublishedVersion", "model_names", "open_model", "open_store"]


def open_store(model_dir: str, model_name: str) -> ModelStore:
    """Opens a store; one that does not exist yet comes to be when something is published.

    Args:
        model_dir: root of the store: a folder, or ``gs://bucket/prefix``.
        model_name: as the server knows the model; one path segment.

    Raises:
        StorageError: the address or the name cannot be one, or there are no credentials for the
            bucket.
    """
    if not model_name or "/" in model_name or model_name.startswith("."):
        raise StorageError(
            f"the model name {model_name!r} cannot name a folder: expected a name without / or"
            " leading ."
        )
    if is_address(model_dir):
        # Only a bucket needs google-cloud-storage.
        from serving.store.gcs import Bucket

        return Bucket(model_dir, model_name)
    from serving.store.local import Folder

    return Folder(model_dir, model_name)


def open_model(model_dir: str, model_name: str = "", *, new: bool = False) -> ModelStore:
    """Opens the store of the model that is meant.

    Args:
        model_dir: root of the store: a folder, or ``gs://bucket/prefix``.
        model_name: as the server knows the model; empty: the only one that is there.
        new: whether it may be one that is not there yet. Without a name, the first one of an empty
            store is then `DEFAULT_MODEL_NAME`.

    Raises:
        StorageError: as `open_store` and `model_names` say; or there is no such model, or no name
            where there are several, and the text lists them.
    """
    if model_name:
        store = open_store(model_dir, model_name)
        if new or store.versions():
            return store
    names = model_names(model_dir)
    if not model_name and (len(names) == 1 or (new and not names)):
        return open_store(model_dir, names[0] if names else DEFAULT_MODEL_NAME)
    if not names:
        raise StorageError(
            f"{model_dir} has no model {model_name}".rstrip()
            + ": check --model_dir, or publish one there first"
        )
    what = f"no model {model_name}" if model_name else f"{len(names)} models"
    raise StorageError(f"{model_dir} has {what}: give --model_name, one of {', '.join(names)}")


def model_names(model_dir: str) -> list[str]:
    """Lists the models of a store, sorted: those with a version that a server can load.

    Raises:
        StorageError: the store cannot be read.
    """
    if is_address(model_dir):
        from whisker_ml import storage

        root = model_dir.rstrip("/")
        # What else lies there may be large: only what looks like a model is looked through.
        names = [
            name
            for name in storage.list_folders(root)
            if any(map(is_version, storage.list_folders(f"{root}/{name}")))
        ]
    else:
        folder = Path(model_dir)
        with disk_errors(folder):
            names = [child.name for child in folder.iterdir()] if folder.is_dir() else []
    return sorted(
        name
        for name in names
        if not name.startswith(".") and open_store(model_dir, name).versions()
    )
