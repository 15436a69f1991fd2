"""Which version was live before, whatever a kill left in the history."""

import pytest

from serving.store.state import parse_history, previous, until
from whisker_ml.errors import StorageError


@pytest.mark.parametrize(
    ("entries", "live", "there", "expected"),
    [
        ([], None, [1], None),
        ([1], 1, [1], None),
        ([1, 2, 3], 3, [1, 2, 3], 2),
        ([1, 2, 3], 3, [1, 3], 1),  # 2 was pruned
        (
            [1, 2, 3],
            2,
            [1, 2, 3],
            1,
        ),  # a promotion of 3 was killed before models.config was written
        ([1, 2], 3, [1, 2, 3], 2),  # so was a rollback from 3 to 2
        ([1, 2, 1], 1, [1, 2], 2),
        ([1, 2, 1, 3], 1, [1, 2, 3], 2),
        ([1, 2], 7, [1, 2, 7], 2),  # somebody else wrote models.config
        ([5], 5, [1, 5], None),
    ],
)
def test_previous_is_what_was_live_before_the_live_version_and_still_exists(
    entries: list[int], live: int | None, there: list[int], expected: int | None
) -> None:
    assert previous(entries, live, there) == expected


def test_entries_behind_the_live_version_are_dropped_before_the_next_is_added() -> None:
    assert until([1, 2, 3], 2) == [1, 2]
    assert until([1, 2], 7) == [1, 2, 7]
    assert until([1, 2], None) == [1, 2]


def test_a_history_is_read_as_it_was_written_and_a_missing_one_is_empty() -> None:
    assert parse_history(b"[3, 1]", "h") == [3, 1]
    assert parse_history(b"", "h") == []


@pytest.mark.parametrize("content", [b"[1, ", b"{}", b'["1"]', b"[true]", b"\xff", b"[" * 100_000])
def test_a_history_that_is_no_list_of_numbers_is_one_clear_line(content: bytes) -> None:
    with pytest.raises(
        StorageError,
        match=r"^h is not a list of versions: remove it; the store then no longer knows",
    ):
        parse_history(content, "h")
