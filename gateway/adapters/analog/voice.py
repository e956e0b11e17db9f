"""Voice after ringback: tells by its rhythm that somebody answered a call.

Ringback comes and goes as the country's plan says; a voice does not. What breaks the rhythm counts
only after `SETTLE_S`, so that a busy tone that follows ringback is recognised as one before.
"""

from __future__ import annotations

from typing import Final

SOUND_DBM0: Final = -42.0
SETTLE_S: Final = 3.0
_SLACK_S: Final = 0.25
_SHORTEST_S: Final = 0.15


class VoiceAfterRingback:
    """Driven by `level`, some ten times a second, from the first ringback on."""

    def __init__(self, ringback_ms: tuple[int, ...]) -> None:
        """ringback_ms: on, off, on, off ... of the ringback tone."""
        self._on = [ms / 1000 for ms in ringback_ms[::2]]
        self._off = [ms / 1000 for ms in ringback_ms[1::2]]
        self._sounds: bool | None = None
        self._since = 0.0
        self._whole = False
        """The present run was heard from its beginning."""
        self._odd_at: float | None = None
        self._sound_after = 0.0

    def level(self, dbm0: float, now: float) -> bool:
        """Take the level since the last call; True once it was a voice."""
        sounds = dbm0 > SOUND_DBM0
        if self._sounds is None or sounds != self._sounds:
            if self._sounds is not None and self._whole:
                self._judge(now)
            self._whole, self._sounds, self._since = self._sounds is not None, sounds, now
        elif sounds and now - self._since > max(self._on) + 2 * _SLACK_S:
            self._odd_at = self._odd_at or now  # no ringback sounds for so long
        if self._odd_at is None:
            self._sound_after = 0.0
            return False
        if sounds:
            self._sound_after += 0.1
        return now - self._odd_at >= SETTLE_S and self._sound_after >= 0.3

    def _judge(self, now: float) -> None:
        lasted = now - self._since
        wanted = self._on if self._sounds else self._off
        if any(abs(lasted - due) <= _SLACK_S + 0.1 * due for due in wanted):
            if self._sounds and self._odd_at is not None and lasted > 0.8:
                self._odd_at = None  # it rings on: what broke the rhythm was noise
        elif lasted >= _SHORTEST_S:
            self._odd_at = self._odd_at or now
