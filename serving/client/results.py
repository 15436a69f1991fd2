"""The file that answers are kept in as they come, and that a run which was stopped goes on with."""

import csv
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TextIO

from serving.client.errors import ClientError
from serving.client.formats import FORMATS, Write, csv_titles
from serving.client.prediction import Prediction
from whisker_ml.errors import WhiskerError

FORMAT_BY_SUFFIX = {".csv": "csv", ".json": "json", ".jsonl": "json"}


class UnusableResults(WhiskerError):
    """The file is another one's, or cannot be read or written."""


class Results:
    """A file of rows, one a picture; see `open_results`.

    Attributes:
        kept: how many answers were there already.
    """

    def __init__(self, file: Path, write: Write, kept: sqlite3.Connection) -> None:
        self._file = file
        self._write = write
        self._kept = kept
        (self.kept,) = kept.execute("SELECT count(*) FROM kept").fetchone()

    def __contains__(self, path: str) -> bool:
        """Whether the picture was answered before."""
        return bool(
            self._kept.execute("SELECT 1 FROM kept WHERE path = ?", (os.fsencode(path),)).fetchone()
        )

    def write(self, path: str, outcome: Prediction | ClientError) -> None:
        """Adds a row, which is in the file when this returns."""
        with _errors(self._file):
            self._write(path, outcome)


@contextmanager
def open_results(file: Path, top: int | None) -> Iterator[Results]:
    """Opens a new file, or one of an earlier run, whose answers stay.

    Failures of the earlier run are taken out, as their pictures are asked again, and so is a last
    row that was torn.

    Args:
        file: its suffix, in `FORMAT_BY_SUFFIX`, decides what it holds.
        top: how many classes a row holds, as in `FORMATS`.

    Raises:
        UnusableResults: the file is there and holds something else, or it cannot be read or
            written.
    """
    form = FORMAT_BY_SUFFIX[file.suffix.lower()]
    beside = file.with_name(f"{file.name}.new")
    # Paths that are kept lie in a temporary database without a name: memory stays constant however
    # many there are.
    with closing(sqlite3.connect("")) as kept:
        kept.execute("CREATE TABLE kept (path PRIMARY KEY) WITHOUT ROWID")
        with _errors(file):
            # A path that is no UTF-8 is written as the bytes that it is. A row leaves for the file
            # when it ends.
            stream = beside.open(
                "w", encoding="utf-8", errors="surrogateescape", newline="\n", buffering=1
            )
        with stream:
            try:
                with _errors(file):
                    write = FORMATS[form](stream, top)
                    for path in _copy(file, stream, csv_titles(top) if form == "csv" else None):
                        kept.execute("INSERT OR IGNORE INTO kept VALUES (?)", (os.fsencode(path),))
                    os.fsync(stream.fileno())
                    beside.replace(file)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise
            yield Results(file, write, kept)


def _copy(file: Path, new: TextIO, titles: list[str] | None) -> Iterator[str]:
    """Copies the answers of an earlier file and gives their paths."""
    if not file.exists():
        return
    with file.open(encoding="utf-8", errors="surrogateescape", newline="\n") as old:
        # What a kill left of a line has no end.
        lines = (line for line in old if line.endswith("\n"))
        yield from (
            _copy_json(file, lines, new) if titles is None else _copy_csv(file, lines, new, titles)
        )


def _copy_csv(file: Path, lines: Iterator[str], new: TextIO, titles: list[str]) -> Iterator[str]:
    rows = csv.reader(lines)
    found = next(rows, titles)
    if found != titles:
        raise UnusableResults(
            f"{file}: has the columns {','.join(found)}, and this command writes"
            f" {','.join(titles)}; ask as before (--top), or name another file"
        )
    writer = csv.writer(new, lineterminator="\n")
    for row in rows:
        # A path may hold a line's end, and its row be torn there.
        if len(row) == len(titles) and not row[-1]:
            writer.writerow(row)
            yield row[0]


def _copy_json(file: Path, lines: Iterator[str], new: TextIO) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            path = row["path"]
        except (ValueError, TypeError, KeyError) as error:
            raise UnusableResults(
                f"{file}: line {number} is not one that this command writes; name another file"
            ) from error
        if "error" not in row:
            new.write(line)
            yield path


@contextmanager
def _errors(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnusableResults(f"{file}: cannot be read and written: {error.strerror}") from error
