"""Which pictures the paths of a command line mean."""

import glob
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from serving.client.errors import UnreadablePicture
from whisker_ml.formats import SUFFIXES

Found = tuple[str, str | UnreadablePicture]


def find_pictures(paths: Iterable[str]) -> Iterator[Found]:
    """Lists the pictures, one at a time, always in the same order, in constant memory however many
    there are.

    Args:
        paths: files, taken whatever they are called and whether or not they exist; folders,
            searched with all below them for files with one of `SUFFIXES`; and patterns (``*``,
            ``?``, ``[…]``, ``**`` for folders at any depth) that are not themselves the path of
            something.

    Yields:
        The path of a picture, twice; or a folder that is empty of pictures or cannot be read, or a
        pattern that matches nothing, and the error.
    """
    for path in paths:
        if Path(path).is_dir():
            found = _walk(path)
            text = f"no picture in this folder: expected files ending in {', '.join(SUFFIXES)}"
        elif os.path.lexists(path) or not glob.has_magic(path):
            found, text = iter([(path, path)]), ""
        else:
            found = _match(path)
            text = "nothing matches this pattern: expected the path of a file or a folder"
        yield next(found, (path, UnreadablePicture(text)))
        yield from found


def _match(pattern: str) -> Iterator[Found]:
    # Path.glob takes no absolute pattern.
    matches = glob.iglob(pattern, recursive=True)  # noqa: PTH207
    for path, is_folder in _in_order((match, Path(match).is_dir()) for match in matches):
        if not is_folder:
            yield path, path
        # ** gives the folders and, each by itself, what is in them.
        elif "**" not in pattern:
            yield from find_pictures([path])


def _walk(folder: str) -> Iterator[Found]:
    try:
        with os.scandir(folder) as entries:
            found = ((entry.path, entry.is_dir()) for entry in entries if _may_hold(entry))
            for path, is_folder in _in_order(found):
                if is_folder:
                    yield from _walk(path)
                else:
                    yield path, path
    except OSError as error:
        yield folder, UnreadablePicture(f"the folder cannot be read: {error.strerror}")


def _may_hold(entry: os.DirEntry[str]) -> bool:
    if entry.is_dir():
        # Links to folders are not followed: they may lead back.
        return not entry.is_symlink()
    return entry.name.lower().endswith(SUFFIXES)


def _in_order(found: Iterator[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """Sorts paths, those of folders last, on disk where there are many: in a temporary database
    without a name.
    """
    with closing(sqlite3.connect("")) as database:
        # As bytes, because a path need not be text.
        database.execute(
            "CREATE TABLE found (folder, path, PRIMARY KEY (folder, path)) WITHOUT ROWID"
        )
        rows = ((is_folder, os.fsencode(path)) for path, is_folder in found)
        database.executemany("INSERT OR IGNORE INTO found VALUES (?, ?)", rows)
        for is_folder, path in database.execute(
            "SELECT folder, path FROM found ORDER BY folder, path"
        ):
            yield os.fsdecode(path), bool(is_folder)
