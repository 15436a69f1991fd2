"""The model store: versions of a model in a folder or a bucket, and which of them is live."""

from serving.store.model_store import ModelStore, open_store
from serving.store.versions import PublishedVersion

__all__ = ["ModelStore", "PublishedVersion", "open_store"]
