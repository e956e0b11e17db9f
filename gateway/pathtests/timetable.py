"""Timetable: which tests are due. It knows no clock: wall time is passed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from gateway.core.hours import Hours
from gateway.pathtests.section import ScheduledTest
from gateway.protocols.calendar import Bell, Calendar

FIRST_S: Final = 60.0
"""A test that is repeated every so often, and that nobody knows when it was last, is due so soon
after the start: what is to be tested has to come up first."""
STEP_S: Final = 300.0
"""How closely is looked for the beginning of the hours."""
LATE_S: Final = 3600.0
"""What was due longer ago, because the box slept or its clock jumped, waits for the next time."""


class _Entry:
    def __init__(self, test: ScheduledTest, zone: str) -> None:
        self.test = test
        self.hours = Hours(test.hours, zone)
        self.calendar = Calendar(zone, [Bell(test.name, test.at)]) if test.at else None
        self.due = 0.0
        self.retries: dict[str, float] = {}
        """Endpoints for which it was put off, and when they are tried again."""

    def next(self, wall: float, last: float | None) -> float:
        """When it is due after `wall`, `last` being when it was carried out."""
        if self.calendar is not None:
            return next(
                (ring.at for ring in self.calendar.after(wall) if self.hours.contains(ring.at)),
                float("inf"),
            )
        due = wall + FIRST_S if last is None else max(last + self.test.every_s, wall + FIRST_S)
        for _ in range(round(8 * 86400 / STEP_S)):
            if self.hours.contains(due):
                return due
            due += STEP_S
        return float("inf")


class Timetable:
    """All tests of a configuration. Driven by `take` and told of what was `put_off`."""

    def __init__(
        self,
        tests: Iterable[ScheduledTest],
        zone: str,
        wall: float,
        *,
        last: Mapping[str, float] | None = None,
    ) -> None:
        """last: by name of the test, when it was carried out last. Raises `UsageError`."""
        self._entries = {test.name: _Entry(test, zone) for test in tests}
        for name, entry in self._entries.items():
            entry.due = entry.next(wall, (last or {}).get(name))

    @property
    def next_due(self) -> float | None:
        """When something is due; None without tests."""
        times = [entry.due for entry in self._entries.values()]
        times += [at for entry in self._entries.values() for at in entry.retries.values()]
        return min(times, default=None)

    def take(self, wall: float) -> list[tuple[ScheduledTest, str]]:
        """The tests that are due now, each with the endpoint it is only retried for, or nothing."""
        found: list[tuple[ScheduledTest, str]] = []
        for entry in self._entries.values():
            if entry.due <= wall:
                if wall - entry.due <= LATE_S:
                    entry.retries.clear()
                    found.append((entry.test, ""))
                entry.due = entry.next(wall, wall)
                continue
            for endpoint in [place for place, at in entry.retries.items() if at <= wall]:
                del entry.retries[endpoint]
                found.append((entry.test, endpoint))
        return found

    def put_off(self, test: ScheduledTest, endpoint: str, wall: float) -> float | None:
        """Try it again later; when, None when not before it is due anyway or its hours are over."""
        entry = self._entries.get(test.name)
        if entry is None or entry.test is not test:
            return None
        again = wall + test.retry_s
        if again >= entry.due or not entry.hours.contains(again):
            return None
        entry.retries[endpoint] = again
        return again
