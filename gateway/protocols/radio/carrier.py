"""Carrier: when a received signal counts as somebody who speaks.

IDLE --on for debounce_s--> ACTIVE --off--> HANG --hang_s--> IDLE
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CarrierTiming:
    """Times of a carrier detector, in seconds."""

    debounce_s: float = 0.03
    """A shorter signal is noise."""
    hang_s: float = 0.2
    """A shorter gap is a flutter, not the end."""
    turnaround_s: float = 0.2
    """After we transmitted, the receiver's own recovery is not a signal."""


class Carrier:
    """Driven by `signal`, `transmitting` and `poll`; `open` and `busy` are the outcome."""

    def __init__(self, timing: CarrierTiming, *, heed_while_transmitting: bool = False) -> None:
        self.timing = timing
        self.open = False
        """Whether what is received may be heard: there is a signal now."""
        self.busy = False
        """Whether somebody has the channel, flutter included."""
        self._raw = False
        self._due: float | None = None
        self._heed = heed_while_transmitting
        self._deaf = False
        self._deaf_until: float | None = None

    def signal(self, on: bool, now: float) -> None:
        """What the detector says."""
        if on != self._raw:
            self._raw = on
            self._turn(now)

    def transmitting(self, on: bool, now: float) -> None:
        """Our own transmitter: what a simplex receiver hears of it does not count."""
        if self._heed or on == self._deaf:
            return
        self._deaf = on
        self._deaf_until = None if on else now + self.timing.turnaround_s
        if on:
            self.open = self.busy = False
            self._due = None
        else:
            self.poll(now)

    def poll(self, now: float) -> None:
        """Time has passed."""
        if self._deaf_until is not None and now >= self._deaf_until:
            self._deaf_until = None
            self._turn(now)
        if self._due is not None and now >= self._due:
            self._due = None
            if self._raw:
                self.open = self.busy = True
            else:
                self.busy = False

    def next_timeout(self) -> float | None:
        """When `poll` is due."""
        found = [due for due in (self._due, self._deaf_until) if due is not None]
        return min(found, default=None)

    def _turn(self, now: float) -> None:
        if self._deaf or self._deaf_until is not None:
            return
        if self._raw:
            if self.busy:
                self.open, self._due = True, None
            else:
                self._due = now + self.timing.debounce_s
        else:
            self.open = False
            self._due = now + self.timing.hang_s if self.busy else None
        self.poll(now)
