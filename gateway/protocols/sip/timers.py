"""Timers that a test can turn by hand: a heap of deadlines, no clock.

``now`` is seconds on whatever monotonic clock the owner uses.
"""

from __future__ import annotations

import msgspec

from gateway.protocols.sip._timers import Timer, Timers

__all__ = ["Timer", "TimerValues", "Timers"]


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
