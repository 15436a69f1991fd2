"""The model store in a bucket of Cloud Storage, made of preconditions on uploads alone."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from serving.contract import SAVED_MODEL_FILE
from serving.store import bucket
from serving.store.address import parse_address
from serving.store.errors import StoreError
from serving.store.model_store import CLAIMS, ModelStore


class BucketStore(ModelStore):
    """A store in a bucket: a version comes to be when its saved_model.pb, the last object, is there."""

    def __init__(self, model_dir: str, model_name: str) -> None:
        parse_address(model_dir)
        super().__init__(model_dir, model_name)

    def _names(self) -> Iterable[str]:
        return bucket.list_names(self.base_path)

    def _claim(self, number: int) -> bool:
        # Where the answer to a claim is lost, its repetition says no: that costs a number, and nothing else.
        return bucket.write(f"{self.base_path}/{CLAIMS}/{number}", b"", generation=0)

    def _write(self, number: int, files: Mapping[str, Path]) -> None:
        address = f"{self.base_path}/{number}"
        last = {SAVED_MODEL_FILE: files[SAVED_MODEL_FILE]}
        try:
            bucket.upload_new({name: path for name, path in files.items() if name not in last}, address)
            bucket.upload_new(last, address)
        except BaseException:
            try:
                # saved_model.pb first: an upload whose answer was lost may have put it there.
                bucket.delete_same({**last, **files}, address)
            except StoreError as error:
                logging.warning("%s is incomplete and could not be removed: %s", address, error)
            raise

    def _read_config(self) -> tuple[bytes, int]:
        return bucket.read(self.config_path)

    def _replace_config(self, text: bytes, generation: int) -> bool:
        return bucket.write(self.config_path, text, generation)
