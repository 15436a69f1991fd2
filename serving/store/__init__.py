"""The model store: versions of a model in a folder or a bucket, and which of them is live."""

from serving.store.store import ModelStore, PublishedVersion
from whisker_ml.errors import StorageError
from whisker_ml.files import is_address

__all__ = ["ModelStore", "PublishedVersion", "open_store"]


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
