"""Timers that a test can turn by hand: a heap of deadlines, no clock.

``now`` is seconds on whatever monotonic clock the owner uses.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import msgspec

Action = Callable[[float], None]
"""Called with ``now`` when the timer is due."""


class TimerValues(msgspec.Struct, frozen=True):
    """RFC 3261 table 4, seconds; the others are derived as the table says."""

    t1: float = 0.5
    """Round-trip time estimate."""
    t2: float = 4.0
    """Longest interval between retransmissions of non-INVITE requests and INVITE responses."""
    t4: float = 5.0
    """Longest time a message stays in the network."""

    @property
    def timeout(self) -> float:
        """Timers B, F, H, J, L, M: 64 times T1."""
        return 64 * self.t1


class Timer:
    """One deadline; `stop` forgets it."""

    __slots__ = ("action", "due")

    def __init__(self, due: float, action: Action) -> None:
        self.due = due
        self.action: Action | None = action

    def stop(self) -> None:
        # The action refers to the transaction: dropping it frees the transaction now, although
        # the heap's entry stays until it is due or swept.
        self.action = None


class Timers:
    """All deadlines of one agent."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0
        self._sweep_at = 1024

    def __len__(self) -> int:
        """Timers that are running."""
        return sum(entry[2].action is not None for entry in self._heap)

    def start(self, due: float, action: Action) -> Timer:
        timer = Timer(due, action)
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, timer))
        if len(self._heap) > self._sweep_at:
            # Most timers are stopped before they are due; without sweeping they would pile up.
            self._heap = [entry for entry in self._heap if entry[2].action is not None]
            heapq.heapify(self._heap)
            self._sweep_at = max(1024, 2 * len(self._heap))
        return timer

    def next_due(self) -> float | None:
        heap = self._heap
        while heap and heap[0][2].action is None:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def run(self, now: float) -> int:
        """Fire what is due, in order; returns how many.

        Timers started while firing wait for the next call, so a retransmission that is overdue
        by hours (a suspended process) is sent once and not once per missed interval.
        """
        due: list[Timer] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            due.append(heapq.heappop(heap)[2])
        fired = 0
        for timer in due:
            action = timer.action
            if action is not None:
                timer.action = None
                fired += 1
                action(now)
        return fired
