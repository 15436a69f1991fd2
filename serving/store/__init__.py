"""The model store: versions of a model in a folder or a bucket, and which of them is live."""

from serving.store.model_store import ModelStore, PublishedVersion, open_store

__all__ = ["ModelStore", "PublishedVersion", "open_store"]
