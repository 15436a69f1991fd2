"""Which versions were live, in order: a list of numbers, newest last.

It is written before models.config, so that a kill in between leaves an entry that never was live:
what models.config says decides, and entries behind the last mention of the live version count for
nothing.
"""

import json
from collections.abc import Collection, Sequence

from whisker_ml.errors import StorageError

HISTORY_FILE = ".live.json"


def parse(content: bytes, place: str) -> list[int]:
    """Reads a history; an empty content is an empty one.

    Raises:
        StorageError: it is no list of numbers.
    """
    try:
        entries = json.loads(content or b"[]")
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list) or not all(type(entry) is int for entry in entries):
        raise StorageError(
            f"{place} is no list of versions: remove it; what was live before is then unknown"
        )
    return entries


def render(entries: Sequence[int]) -> bytes:
    """Writes what `parse` reads."""
    return json.dumps(list(entries)).encode()


def until(entries: Sequence[int], live: int | None) -> list[int]:
    """Gives the entries up to and with the last mention of the live version, which is added where
    there is none.
    """
    kept = list(entries)
    if live is None:
        return kept
    while live in kept and kept[-1] != live:
        kept.pop()
    return kept if live in kept else [*kept, live]


def previous(entries: Sequence[int], live: int | None, there: Collection[int]) -> int | None:
    """Gives the version that was live before the present one.

    Args:
        entries: the history.
        live: the present one; None where nothing is live.
        there: versions that still exist; others are passed over.
    """
    before = (entry for entry in reversed(until(entries, live)) if entry != live and entry in there)
    return next(before, None)
