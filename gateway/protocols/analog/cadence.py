"""Cadences: how ringing and tones alternate; and the hook switch, which is one too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway.protocols.analog.signals import Signal

# Ringing on, off ... in milliseconds (ITU-T E.180 supplement 2 and national plans).
RING_CADENCES: Final[dict[str, tuple[int, ...]]] = {
    "us": (2000, 4000),
    "uk": (400, 200, 400, 2000),
    "au": (400, 200, 400, 2000),
    "nz": (400, 200, 400, 2000),
    "in": (400, 200, 400, 2000),
    "za": (400, 200, 400, 2000),
    "sg": (400, 200, 400, 2000),
    "cn": (1000, 4000),
    "de": (1000, 4000),
    "fi": (1000, 4000),
    "nl": (1000, 4000),
    "it": (1000, 4000),
    "br": (1000, 4000),
    "ru": (1000, 4000),
    "at": (1000, 5000),
    "fr": (1500, 3500),
    "es": (1500, 3000),
    "jp": (1000, 2000),
}


@dataclass(slots=True)
class CadenceMatcher:
    """Whether a tone comes and goes as a profile says. Driven by ``edge``.

    A busy tone counts when its on and off times are right ``cycles`` times running: one wrong
    time, such as speech has, starts the count anew.
    """

    cadence_ms: tuple[int, ...]
    """On, off, on, off ... of one cycle."""
    cycles: int = 3
    tolerance: float = 0.15
    slack_ms: float = 30.0
    """What a detector's blocks add to or take from each time."""
    _at: float | None = field(default=None, init=False)
    _on: bool = field(default=False, init=False)
    _place: int | None = field(default=None, init=False)
    _right: int = field(default=0, init=False)

    def edge(self, on: bool, now: float) -> bool:
        """The tone began (``on``) or ended; True when enough cycles have matched."""
        if self._at is None or on == self._on:
            self._at, self._on = now, on
            return False
        lasted, was_on = (now - self._at) * 1000, self._on
        self._at, self._on = now, on
        if self._place is not None and self._fits(self._place, lasted):
            self._advance()
        else:
            # Any place of the cadence that fits may be where we came in.
            self._right, self._place = 0, None
            for place in range(0 if was_on else 1, len(self.cadence_ms), 2):
                if self._fits(place, lasted):
                    self._place = place
                    self._advance()
                    break
        return self._right >= self.cycles * len(self.cadence_ms)

    def _advance(self) -> None:
        assert self._place is not None
        self._right += 1
        self._place = (self._place + 1) % len(self.cadence_ms)

    def _fits(self, place: int, lasted_ms: float) -> bool:
        due = self.cadence_ms[place]
        return abs(lasted_ms - due) <= due * self.tolerance + self.slack_ms

    def reset(self) -> None:
        """Forget: local DTMF or a conference was heard instead."""
        self._at, self._place, self._right = None, None, 0


@dataclass(slots=True)
class HookSwitch:
    """A raw loop contact to hook signals, for backends that do not do it themselves.

    Driven by ``loop`` and ``tick``; both return what happened, in order. Pulse digits are strings,
    everything else a ``Signal``.
    """

    glitch_ms: float = 15.0
    """A break shorter than this is a bouncing contact."""
    pulse_max_ms: float = 120.0
    """A break up to this is one pulse of a dial (break times are 33 to 100 ms)."""
    flash_min_ms: float = 200.0
    flash_max_ms: float = 700.0
    """A longer break is a hang-up; one between pulse and flash is ignored."""
    digit_ms: float = 250.0
    """Closed for this long ends a digit."""
    closed: bool = field(default=False, init=False)
    up: bool = field(default=False, init=False)
    """Lifted, as reported."""
    _since: float = field(default=0.0, init=False)
    _pulses: int = field(default=0, init=False)

    def loop(self, closed: bool, now: float) -> list[Signal | str]:
        """The loop was closed or opened."""
        found = self.tick(now)
        if closed == self.closed:
            return found
        lasted_ms = (now - self._since) * 1000
        self.closed, self._since = closed, now
        if not closed or not self.up:
            return found
        if self.glitch_ms <= lasted_ms <= self.pulse_max_ms:
            self._pulses += 1
            if self._pulses == 1:
                found.append(Signal.PULSE_STARTED)
        elif self.flash_min_ms <= lasted_ms <= self.flash_max_ms:
            found.append(Signal.FLASHED)
        return found

    def next_timeout(self) -> float | None:
        """When ``tick`` has something to say."""
        if self.closed and not self.up:
            return self._since + self.glitch_ms / 1000
        if self.closed and self._pulses:
            return self._since + self.digit_ms / 1000
        if not self.closed and self.up:
            return self._since + self.flash_max_ms / 1000
        return None

    def tick(self, now: float) -> list[Signal | str]:
        """Time went on."""
        due = self.next_timeout()
        if due is None or now < due:
            return []
        if self.closed and not self.up:
            self.up, self._pulses = True, 0
            return [Signal.LIFTED]
        pulses, self._pulses = self._pulses, 0
        if self.closed:
            # ten pulses are a 0; eleven and twelve are how some dials send * and #
            return ["?1234567890*#"[pulses]] if pulses <= 12 else []
        self.up = False
        return [Signal.HUNG_UP]
