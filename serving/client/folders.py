"""Which pictures the paths of a command line mean."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from serving.client.errors import UnreadablePicture

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


def find_pictures(paths: Iterable[str]) -> Iterator[tuple[str, UnreadablePicture | None]]:
    """Lists the pictures, one at a time and always in the same order.

    Args:
        paths: files, taken whatever they are called and whether or not they exist; and folders, searched with all
            below them for files with one of `SUFFIXES`.

    Yields:
        The path of a picture and None; or a folder that is empty of pictures or cannot be read, and the error.
    """
    for path in paths:
        if Path(path).is_dir():
            yield from _search(path)
        else:
            yield path, None


def _search(folder: str) -> Iterator[tuple[str, UnreadablePicture | None]]:
    unreadable: list[OSError] = []
    empty = True
    for parent, folders, names in os.walk(folder, onerror=unreadable.append):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES):
                empty = False
                yield str(Path(parent, name)), None
    for error in unreadable:
        yield str(error.filename), UnreadablePicture(f"the folder cannot be read: {error.strerror}")
    if empty and not unreadable:
        yield folder, UnreadablePicture(f"no picture in this folder: expected files ending in {', '.join(SUFFIXES)}")
