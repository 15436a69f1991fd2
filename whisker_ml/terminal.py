"""What a command shows on a terminal: progress bars, and no lines of other libraries."""

import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import IO, Any

from absl import logging as absl_logging

LONG_S = 2.0  # of work, from which on a progress bar is worth its line

# Standard error belongs to the whole process.
_one_at_a_time = threading.Lock()


@contextmanager
def foreign_lines_kept_back() -> Iterator[None]:
    """Drops what is written to standard error in the block, by C++ too, and warnings of libraries.

    Where the block fails, what was written is shown. Where absl's verbosity is INFO or more,
    nothing is dropped.
    """
    verbosity = absl_logging.get_verbosity()
    if verbosity >= absl_logging.INFO:
        yield
        return
    with (
        _one_at_a_time,
        warnings.catch_warnings(action="ignore"),
        tempfile.TemporaryFile() as lines,
    ):
        sys.stderr.flush()
        standard_error = os.dup(2)
        os.dup2(lines.fileno(), 2)
        absl_logging.set_verbosity(min(verbosity, absl_logging.ERROR))
        try:
            yield
        except BaseException:
            lines.seek(0)
            os.write(standard_error, lines.read())
            raise
        finally:
            absl_logging.set_verbosity(verbosity)
            os.dup2(standard_error, 2)
            os.close(standard_error)


def progress(counted: Iterable[Any] | None = None, **options: Any) -> Any:
    """Makes a progress bar: on a terminal, where it leaves nothing behind, and never in a log.

    Args:
        counted: what is gone through; None: the bar goes on by its `update`.
        options: of tqdm.
    """
    from tqdm import tqdm

    with suppress(OSError):  # no terminal
        # tqdm shows nothing on a terminal that does not know its size, and says that it is 0.
        if not all(os.get_terminal_size(2)):
            columns, rows = shutil.get_terminal_size()
            # As tqdm does: a line that fills the last column may wrap.
            options |= {"ncols": columns - 1, "nrows": rows}
    return tqdm(counted, disable=None, leave=False, **options)


# Also those that change the direction of what follows, or end a line.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def escaped(text: str) -> str:
    """Shows control characters as they would be written in Python: no name of a file, class or
    model moves the cursor of a terminal, or looks like another line of a log.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class LogLine(logging.Formatter):
    """Lays a log record out as one line; a traceback has lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Gives the line."""
        return escaped(super().formatMessage(record))


def print_line(text: str, stream: IO[str]) -> None:
    """Prints a line at once; a progress bar steps aside for it."""
    tqdm = sys.modules.get("tqdm")
    with tqdm.tqdm.external_write_mode() if tqdm else nullcontext():
        print(text, file=stream, flush=True)
