"""Impairments: silence, clipping and missing audio, judged from a stream's counters now and then.

No clock and no I/O: `Judge.look` is given the counters and the time, once a second or so. Each
impairment begins and ends by a rule of its own, so that it does not come and go.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from gateway.core.events import Impairment
from gateway.media.shaping import level_dbm0, mean_square

LOUDER_DB: Final = 3.0
"""Silence ends so much above the level at which it begins."""
FEW_FRAMES: Final = 10
"""Clipped frames of 20 ms that a single shout may have."""

_Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]


class Supervision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[supervision]``: when the audio of an answered leg counts as impaired. 0 s: never."""

    silence_s: _Seconds = 30.0
    """Audio arrives, and nothing in it is louder than `silence_dbm0` for so long."""
    silence_dbm0: Annotated[float, msgspec.Meta(ge=-80, le=-30)] = -60.0
    """Mean of a second. A full-scale sine, 0 dBFS, is +3.14 dBm0: -60 dBm0 is -63.14 dBFS."""
    clipping_s: _Seconds = 5.0
    """The last so many seconds are looked at."""
    clipping_percent: Annotated[float, msgspec.Meta(gt=0, le=100)] = 10.0
    """Share of what is not silent in them that has its tops cut off."""
    one_way_s: _Seconds = 5.0
    """Nothing arrives for so long, and no comfort noise was announced."""
    alarms: tuple[Impairment, ...] = ()
    """Which raise an alarm of ``gateway/audio`` as well, for routes: kind ``audio``."""


class Meter(NamedTuple):
    """What a judge looks at. Sums since the stream was opened."""

    arrived: int
    """Packets or blocks."""
    frames: int
    """Of 20 ms that could be looked at."""
    active: int
    """Of them above -60 dBm0."""
    clipped: int
    n_samples: int
    squares: float
    noise: bool
    """The far end said that it is silent (RFC 3389)."""
    expected: bool
    """It may send: no hold, no one-way direction."""


class Change(NamedTuple):
    """An impairment began or ended."""

    impairment: Impairment
    began: bool
    seconds: float
    """For how long it has been, or was."""
    level_dbm0: float | None = None
    percent: float | None = None


class Judge:
    """Of one stream. Driven by `look`."""

    __slots__ = ("_clips", "_last", "_missing_s", "_quiet", "_silent_s", "_since", "_told")

    def __init__(self) -> None:
        self._last: Meter | None = None
        self._told = 0.0
        """When it looked last."""
        self._silent_s = 0.0
        self._quiet = (0.0, 0)
        """Squares and number of the silent samples."""
        self._missing_s = 0.0
        self._clips: deque[tuple[float, int, int]] = deque()
        """Of each look: seconds, active frames, clipped ones."""
        self._since: dict[Impairment, float] = {}
        """What is impaired now."""

    @property
    def present(self) -> frozenset[Impairment]:
        """What is impaired now."""
        return frozenset(self._since)

    def look(
        self, meter: Meter, now: float, judged: frozenset[Impairment], rules: Supervision
    ) -> list[Change]:
        """What began or ended. judged: what there is a reason to expect of the leg at present."""
        last, self._last = self._last, meter
        passed, self._told = now - self._told, now
        if last is None or meter.frames < last.frames or meter.arrived < last.arrived:
            # The first look, or another stream took its place.
            self._forget()
            return self._end(frozenset(self._since), now)
        if not meter.expected:
            judged = frozenset()
        changes = self._end(frozenset(self._since) - judged, now)
        if Impairment.ONE_WAY in judged and rules.one_way_s:
            changes += self._one_way(last, meter, passed, now, rules)
        else:
            self._missing_s = 0.0
        if Impairment.SILENCE in judged and rules.silence_s:
            changes += self._silence(last, meter, passed, now, rules)
        else:
            self._silent_s, self._quiet = 0.0, (0.0, 0)
        if Impairment.CLIPPING in judged and rules.clipping_s:
            changes += self._clipping(last, meter, passed, now, rules)
        else:
            self._clips.clear()
        return changes

    def _forget(self) -> None:
        self._silent_s = self._missing_s = 0.0
        self._quiet = (0.0, 0)
        self._clips.clear()

    def _one_way(
        self, last: Meter, meter: Meter, passed: float, now: float, rules: Supervision
    ) -> list[Change]:
        if meter.arrived != last.arrived or meter.frames != last.frames or meter.noise:
            self._missing_s = 0.0
            return self._end({Impairment.ONE_WAY}, now)
        self._missing_s += passed
        if self._missing_s < rules.one_way_s:
            return []
        return self._begin(Impairment.ONE_WAY, now, self._missing_s)

    def _silence(
        self, last: Meter, meter: Meter, passed: float, now: float, rules: Supervision
    ) -> list[Change]:
        n_samples = meter.n_samples - last.n_samples
        if meter.noise:
            # Silent on purpose, and said so.
            self._silent_s, self._quiet = 0.0, (0.0, 0)
            return self._end({Impairment.SILENCE}, now)
        if meter.frames == last.frames or not n_samples:
            return []
        squares = meter.squares - last.squares
        if squares < mean_square(rules.silence_dbm0) * n_samples:
            self._silent_s += passed
            self._quiet = (self._quiet[0] + squares, self._quiet[1] + n_samples)
        elif squares >= mean_square(rules.silence_dbm0 + LOUDER_DB) * n_samples:
            self._silent_s, self._quiet = 0.0, (0.0, 0)
            return self._end({Impairment.SILENCE}, now)
        if self._silent_s < rules.silence_s:
            return []
        return self._begin(Impairment.SILENCE, now, self._silent_s, level_dbm0(*self._quiet))

    def _clipping(
        self, last: Meter, meter: Meter, passed: float, now: float, rules: Supervision
    ) -> list[Change]:
        clips = self._clips
        clips.append((passed, meter.active - last.active, meter.clipped - last.clipped))
        seconds = sum(look[0] for look in clips)
        while len(clips) > 1 and seconds - clips[0][0] >= rules.clipping_s:
            seconds -= clips.popleft()[0]
        active = sum(look[1] for look in clips)
        clipped = sum(look[2] for look in clips)
        percent = 100.0 * clipped / active if active else 0.0
        if percent < rules.clipping_percent / 2:
            return self._end({Impairment.CLIPPING}, now)
        enough = seconds >= rules.clipping_s and clipped >= FEW_FRAMES
        if percent < rules.clipping_percent or not enough:
            return []
        n_samples = meter.n_samples - last.n_samples
        level = level_dbm0(meter.squares - last.squares, n_samples)
        return self._begin(Impairment.CLIPPING, now, seconds, level, percent)

    def _begin(
        self,
        what: Impairment,
        now: float,
        seconds: float,
        level_dbm0: float | None = None,
        percent: float | None = None,
    ) -> list[Change]:
        if what in self._since:
            return []
        self._since[what] = now - seconds
        return [Change(what, True, seconds, level_dbm0, percent)]

    def _end(self, which: Any, now: float) -> list[Change]:
        if not self._since:
            # Each leg of each call is looked at each second, and hardly ever anything is wrong.
            return []
        return [
            Change(what, False, now - self._since.pop(what))
            for what in Impairment
            if what in which and what in self._since
        ]
