"""A version of a model on its way from start to end, and which one moves next."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from serving.server.servable import Servable
from serving.server.status import StatusError


class State(IntEnum):
    """States of a version; the numbers are ModelVersionStatus.State's."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass
class Version:
    """What the manager knows of a version.

    Attributes:
        model: name of the model.
        number: of the version.
        path: its folder.
        state: see there.
        aspired: whether it should be loaded.
        error: why the last attempt to load it failed.
        servable: the loaded model, from AVAILABLE until it is closed.
        handles: requests that hold `servable`.
        attempts: loads so far.
        retry_at: no attempt before this time of the manager's clock, in seconds.
    """

    model: str
    number: int
    path: str
    state: State = State.START
    aspired: bool = True
    error: StatusError | None = None
    servable: Servable | None = None
    handles: int = 0
    attempts: int = 0
    retry_at: float = 0

    def __str__(self) -> str:
        return f"{{name: {self.model} version: {self.number}}}"


def aspire(
    known: dict[int, Version],
    model: str,
    chosen: Mapping[int, str],
    retry_before: float = float("-inf"),
) -> None:
    """Notes which versions of a model should be loaded from now on.

    Args:
        known: number to version, those unloaded included; new ones are put into it.
        model: its name.
        chosen: number to path.
        retry_before: versions that have failed for good, and whose `retry_at` is before this time,
            begin anew.
    """
    for version in known.values():
        leaving = not version.aspired and version.state >= State.UNLOADING
        version.aspired = version.number in chosen and not leaving
    for number, path in chosen.items():
        # A version that comes back after it was gone is loaded afresh; one that failed and stayed
        # is not by itself.
        ended = number in known and known[number].state == State.END
        if number not in known or (
            ended and (not known[number].aspired or known[number].retry_at < retry_before)
        ):
            known[number] = Version(model, number, path)


def next_action(versions: list[Version], now: float) -> Version | None:
    """Chooses what to unload (not aspired) or load (aspired) next, so that the model stays
    available.

    AvailabilityPreservingPolicy: a version that nobody wants any more goes only when a wanted one
    answers, when none is wanted at all, or when another unwanted one still answers.
    """
    stale = [
        version for version in versions if not version.aspired and version.state == State.AVAILABLE
    ]
    wanted = [version for version in versions if version.aspired]
    if stale and (
        not wanted or len(stale) > 1 or any(version.state == State.AVAILABLE for version in wanted)
    ):
        return min(stale, key=lambda version: version.number)
    due = [
        one for one in wanted if one.state in (State.START, State.LOADING) and now >= one.retry_at
    ]
    return max(due, key=lambda version: version.number, default=None)
