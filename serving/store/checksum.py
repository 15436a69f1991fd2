"""Tells by their checksums whether a file and an object of Cloud Storage are the same."""

import base64
from pathlib import Path

import google_crc32c
from google.cloud import storage


def same(path: Path, blob: storage.Blob) -> bool:
    """Tells whether a file exists and has the content of an object whose size and CRC32C are
    known.
    """
    if not path.is_file() or path.stat().st_size != blob.size:
        return False
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        for _ in checksum.consume(file, 1 << 20):
            pass
    return base64.b64encode(checksum.digest()).decode() == blob.crc32c
