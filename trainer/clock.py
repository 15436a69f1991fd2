"""How long each part of a run takes."""

import time


class Clock:
    """Seconds between its stops, by the name of what has ended."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def stop(self, stage: str) -> None:
        """Notes that a stage has ended."""
        now = time.perf_counter()
        self._seconds[stage] = now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        """Gives the seconds of each stage, and `total` until now."""
        return {**self._seconds, "total": time.perf_counter() - self._start}
