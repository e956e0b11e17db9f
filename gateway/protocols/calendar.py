"""Calendar of bells: weekly times, days of another type, holidays; when each bell is next due.

Sans-IO: the wall time is passed in, in seconds since 1970 (UTC). Times of day are local. A local
time that does not exist, because the clocks go forward, is taken with the offset from before the
change (so 02:30 rings at 03:30); one that exists twice rings the first time only (RFC 5545 section
3.3.5). A bell never rings twice for one entry of its table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from gateway.errors import UsageError

HOLIDAY: Final = "holiday"
"""The type of a day in the list of holidays."""
HORIZON_DAYS: Final = 800
"""How far ahead is looked for the next ring: over a leap day."""

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME: Final = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?\Z")
_RANGE: Final = re.compile(r"([a-z]{3})(?:-([a-z]{3}))?\Z")
_DAY: Final = timedelta(days=1)


class Ring(msgspec.Struct, frozen=True, order=True):
    """One entry of the timetable."""

    at: float
    """Wall time, seconds since 1970 (UTC)."""
    bell: str


class Times:
    """Times of a week: ``Mon-Fri 08:00``, ``Sat,Sun 10:15:30``, ``09:45`` for every day."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Raises `UsageError` saying how to write a time."""
        self._days: list[set[time]] = [set() for _ in _DAYS]
        for text in texts:
            days, at = _weekly(text)
            for day in days:
                self._days[day].add(at)

    def on(self, day: date) -> set[time]:
        """The times of a day of the week."""
        return self._days[day.weekday()]


class Bell:
    """One bell's timetable."""

    def __init__(
        self,
        name: str,
        times: Iterable[str] = (),
        *,
        on: Mapping[str, Iterable[str]] | None = None,
        skip: Iterable[str] = (),
        extra: Iterable[str] = (),
    ) -> None:
        """times: on ordinary days. on: by type of day, instead. skip: dates without. extra: dates
        with a time, ``2026-03-02 10:00``, whatever else the day is.

        Raises `UsageError` naming what cannot be understood.
        """
        self.name = name
        self._times = Times(times)
        self._on = {kind: Times(texts) for kind, texts in (on or {}).items()}
        self._skip = frozenset(day for text in skip for day in days_of(text))
        self._extra: dict[date, set[time]] = {}
        for text in extra:
            day, _, at = text.strip().partition(" ")
            self._extra.setdefault(_date(day), set()).add(_time(at.strip(), text))

    @property
    def kinds(self) -> set[str]:
        """The types of day that it has times for."""
        return set(self._on)

    def on(self, day: date, kind: str) -> set[time]:
        """Its times on a day of a type; an ordinary day has none."""
        times: set[time] = set()
        if day not in self._skip:
            if not kind:
                times = self._times.on(day)
            elif kind in self._on:
                times = self._on[kind].on(day)
        return times | self._extra.get(day, set())


class Calendar:
    """All bells of a place."""

    def __init__(
        self,
        time_zone: str,
        bells: Iterable[Bell],
        *,
        holidays: Iterable[str] = (),
        days: Mapping[str, str] | None = None,
    ) -> None:
        """holidays: dates and ranges, ``2026-12-24/2027-01-06``. days: date or range to type of
        day; it goes before the holidays.

        Raises `UsageError` naming what cannot be understood.
        """
        try:
            self.zone = ZoneInfo(time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise UsageError(f"time zone {time_zone!r} is not known (try Europe/Berlin)") from None
        self._bells = tuple(bells)
        self._kinds = {day: HOLIDAY for text in holidays for day in days_of(text)}
        for text, kind in (days or {}).items():
            self._kinds |= dict.fromkeys(days_of(text), kind)
        known = {HOLIDAY, *self._kinds.values()}
        for bell in self._bells:
            for kind in sorted(bell.kinds - known):
                raise UsageError(f"bell {bell.name!r}: no day is of the type {kind!r}")

    def local(self, wall: float) -> datetime:
        """A wall time as people there read it."""
        return datetime.fromtimestamp(wall, self.zone)

    def kind(self, day: date) -> str:
        """The type of a day; empty for an ordinary one."""
        return self._kinds.get(day, "")

    def _on(self, day: date) -> list[Ring]:
        kind = self.kind(day)
        rings = {
            # A set, because 02:30 and 03:30 are the same moment when the clocks go forward.
            Ring(datetime.combine(day, at, self.zone).timestamp(), bell.name)
            for bell in self._bells
            for at in bell.on(day, kind)
        }
        return sorted(rings)

    def after(self, wall: float) -> Iterator[Ring]:
        """The rings later than `wall`, in order, as far as the horizon."""
        day = self.local(wall).date() - _DAY
        for _ in range(HORIZON_DAYS):
            yield from (ring for ring in self._on(day) if ring.at > wall)
            day += _DAY

    def upcoming(self, wall: float, n: int = 10) -> list[Ring]:
        """The next `n` rings later than `wall`."""
        return [ring for ring, _ in zip(self.after(wall), range(n), strict=False)]

    def due(
        self, since: float, wall: float, *, late_s: float, at_most: int = 100
    ) -> tuple[list[Ring], list[Ring]]:
        """What became due later than `since` and not later than `wall`: to be rung now, and
        missed because that is longer ago than `late_s`. Of the missed, the `at_most` latest.
        """
        since = max(since, wall - 31 * 86400.0)
        now: list[Ring] = []
        missed: list[Ring] = []
        for ring in self.after(since):
            if ring.at > wall:
                break
            (now if wall - ring.at <= late_s else missed).append(ring)
        return now, missed[-at_most:]


def days_of(text: str) -> list[date]:
    """The days of ``2026-12-24`` or ``2026-12-24/2027-01-06``. Raises `UsageError`."""
    first, _, last = text.strip().partition("/")
    begin = _date(first)
    end = _date(last) if last else begin
    if not timedelta(0) <= end - begin <= timedelta(days=3660):
        raise UsageError(f"{text!r} ends before it begins, or more than ten years later")
    return [begin + n * _DAY for n in range((end - begin).days + 1)]


def _date(text: str) -> date:
    try:
        if len(text.strip()) != 10:
            raise ValueError
        return date.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(f"{text!r} is no date: write it like 2026-12-24") from None


def _time(text: str, whole: str) -> time:
    found = _TIME.match(text)
    try:
        if not found:
            raise ValueError
        return time(int(found[1]), int(found[2]), int(found[3] or 0))
    except ValueError:
        raise UsageError(f"{whole!r}: no time of day: write it like 08:00 or 08:00:30") from None


def _weekly(text: str) -> tuple[set[int], time]:
    words = text.lower().split()
    if not 1 <= len(words) <= 2:
        raise UsageError(f"{text!r}: write it like 'Mon-Fri 08:00' or '08:00'")
    at = _time(words[-1], text)
    if len(words) == 1:
        return set(range(7)), at
    days: set[int] = set()
    for part in words[0].split(","):
        found = _RANGE.match(part)
        if not found or any(name and name not in _DAYS for name in found.groups()):
            raise UsageError(f"{text!r}: {part!r} is none of {', '.join(_DAYS)}")
        first = _DAYS.index(found[1])
        last = _DAYS.index(found[2] or found[1])
        days |= {(first + step) % 7 for step in range((last - first) % 7 + 1)}
    return days, at
