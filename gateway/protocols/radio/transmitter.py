"""Transmitter: when the line is keyed and when audio goes on the air.

    IDLE -> KEYING -> LEAD_IN -> ON_AIR -> DRAIN -> TAIL -> IDLE
                 time-out: -> PENALTY -> IDLE

Only a request keys it, never audio; a request is a lease that lapses.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

KEYING_S: Final = 2.0
"""How long the line may take to confirm that it is keyed."""


class Phase(StrEnum):
    """What the transmitter is doing."""

    IDLE = "idle"
    KEYING = "keying"
    """The line is asked for and has not confirmed."""
    LEAD_IN = "lead-in"
    """Keyed; audio waits until the far receivers have opened."""
    ON_AIR = "on-air"
    DRAIN = "drain"
    """Released; what was said before goes out."""
    TAIL = "tail"
    """Carrier without audio, for the sound card's delay and for tone squelch to close."""
    PENALTY = "penalty"
    """It transmitted for too long: blocked until released, and some time after that."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of a transmitter, in seconds."""

    lead_in_s: float = 0.2
    tail_s: float = 0.0
    drain_s: float = 2.0
    """Longest wait for audio that is still to go out."""
    time_out_s: float = 180.0
    penalty_s: float = 5.0
    reset_s: float = 0.0
    """Pause that resets the time-out; after a shorter one it goes on counting."""
    lease_s: float = 1.5
    """A request that is not renewed for so long counts as released."""


class Transmitter:
    """Driven by `request`, `release`, by what the line says (`keyed`, `unkeyed`), by the audio
    (`drained`), and by `poll` at `next_timeout`. `line` and `phase` say what to do."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.phase = Phase.IDLE
        self.timed_out = 0
        """How often the time-out struck."""
        self._asked_until = float("-inf")
        self._released = True
        self._due: float | None = None
        self._keyed_at: float | None = None
        self._spent_s = 0.0
        self._rested_at = float("-inf")

    @property
    def line(self) -> bool:
        """Whether the key line is to be closed."""
        return self.phase not in (Phase.IDLE, Phase.PENALTY)

    @property
    def speaking(self) -> bool:
        """Whether audio goes on the air."""
        return self.phase in (Phase.ON_AIR, Phase.DRAIN)

    @property
    def listening(self) -> bool:
        """Whether audio for the air is kept: what is said before the lead-in is over too."""
        return not self._released and self.phase in (Phase.KEYING, Phase.LEAD_IN, Phase.ON_AIR)

    def request(self, now: float) -> None:
        """Somebody wants to be heard; again before the lease lapses."""
        self._asked_until = now + self.timing.lease_s
        self._released = False
        if self.phase is Phase.IDLE:
            if now - self._rested_at >= self.timing.reset_s:
                self._spent_s = 0.0
            self._enter(Phase.KEYING, now + KEYING_S)
        elif self.phase in (Phase.DRAIN, Phase.TAIL):
            self._enter(Phase.ON_AIR)
        elif self.phase is Phase.PENALTY:
            self._due = None

    def release(self, now: float) -> None:
        """Nobody wants to be heard any more; what was said still goes out."""
        if self._released:
            return
        self._released = True
        if self.phase is Phase.KEYING:
            # Nothing was promised yet: a carrier without speech helps nobody.
            self._rest(now)
        elif self.phase is Phase.ON_AIR:
            self._enter(Phase.DRAIN, now + self.timing.drain_s)
        elif self.phase is Phase.PENALTY:
            self._due = now + self.timing.penalty_s

    def keyed(self, now: float) -> None:
        """The line confirms: the transmitter is on."""
        if self.phase is Phase.KEYING:
            self._keyed_at = now
            self._enter(Phase.LEAD_IN, now + self.timing.lead_in_s)
            self.poll(now)

    def unkeyed(self, now: float) -> None:
        """The line is off, whoever did that; the next request keys it again."""
        if self.line:
            self._rest(now)
            self._released = True

    def drained(self, now: float) -> None:
        """All audio is out."""
        if self.phase is Phase.DRAIN:
            self._enter(Phase.TAIL, now + self.timing.tail_s)
            self.poll(now)

    def stop(self, now: float) -> None:
        """Off at once, and off until whoever speaks now has let go."""
        if self.line:
            self._rest(now)
        if not self._released:
            self._enter(Phase.PENALTY)

    def poll(self, now: float) -> None:
        """Time has passed."""
        if not self._released and now >= self._asked_until:
            self.release(now)
        if self._over(now) <= 0:
            self.timed_out += 1
            self._rest(now)
            self._enter(Phase.PENALTY, now + self.timing.penalty_s if self._released else None)
        while self._due is not None and now >= self._due:
            due = self._due
            if self.phase is Phase.LEAD_IN:
                self._enter(Phase.ON_AIR)
                if self._released:
                    self._enter(Phase.DRAIN, due + self.timing.drain_s)
            elif self.phase is Phase.DRAIN:
                self._enter(Phase.TAIL, due + self.timing.tail_s)
            elif self.phase is Phase.PENALTY:
                self._spent_s = 0.0
                self._enter(Phase.IDLE)
            else:
                self._rest(now)

    def next_timeout(self) -> float | None:
        """When `poll` is due."""
        found = [] if self._due is None else [self._due]
        if not self._released:
            found.append(self._asked_until)
        if self._keyed_at is not None and self.line:
            found.append(self._keyed_at + self.timing.time_out_s - self._spent_s)
        return min(found, default=None)

    def _over(self, now: float) -> float:
        if self._keyed_at is None or not self.line:
            return 1.0
        return self._keyed_at + self.timing.time_out_s - self._spent_s - now

    def _rest(self, now: float) -> None:
        if self._keyed_at is not None:
            self._spent_s += now - self._keyed_at
            self._keyed_at = None
            self._rested_at = now
        self._enter(Phase.IDLE)

    def _enter(self, phase: Phase, due: float | None = None) -> None:
        self.phase, self._due = phase, due
