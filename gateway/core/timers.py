"""Deadlines of the switchboard: a heap that is told the time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Final

_SWEEP: Final = 1000
"""Cancelled deadlines are not looked for among fewer."""


class Timer:
    """A deadline that can be cancelled."""

    __slots__ = ("act", "due")

    def __init__(self, due: float, act: Callable[[], None]) -> None:
        self.due = due
        self.act: Callable[[], None] | None = act

    def cancel(self) -> None:
        """Never fire; harmless when it has fired."""
        self.act = None


class Timers:
    """All deadlines, earliest first; equal ones in the order they were set."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._sweep_at = _SWEEP

    def at(self, due: float, act: Callable[[], None]) -> Timer:
        """Call `act` when the time `due` has come."""
        timer = Timer(due, act)
        if len(self._heap) >= self._sweep_at:
            # Most deadlines are cancelled long before they come.
            self._heap = [entry for entry in self._heap if entry[2].act is not None]
            heapq.heapify(self._heap)
            self._sweep_at = max(_SWEEP, 2 * len(self._heap))
        heapq.heappush(self._heap, (due, next(self._order), timer))
        return timer

    def next_due(self) -> float | None:
        """When the earliest deadline is; None without any."""
        while self._heap and self._heap[0][2].act is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Timer | None:
        """Take the earliest timer that is due, if one is."""
        due = self.next_due()
        if due is None or due > now:
            return None
        return heapq.heappop(self._heap)[2]
