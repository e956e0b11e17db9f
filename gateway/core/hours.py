"""Opening hours: ``Mon-Fri 08:00-18:00, Sat 09:00-12:00`` in a time zone."""

from __future__ import annotations

import re
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.errors import UsageError

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_PART = re.compile(
    r"(?:(?P<first>[a-z]{3})(?:-(?P<last>[a-z]{3}))?\s*)?"
    r"(?:(?P<h1>\d{1,2}):(?P<m1>\d\d)-(?P<h2>\d{1,2}):(?P<m2>\d\d))?\Z"
)
_DAY_MINUTES = 24 * 60


class Hours:
    """A weekly pattern. A span whose end is not after its begin runs over midnight."""

    def __init__(self, text: str, zone: str = "UTC") -> None:
        """Raises `UsageError` when the text or the zone is not understood."""
        self.text = text
        try:
            self.zone = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise UsageError(f"time zone {zone!r} is not known (try Europe/Berlin)") from None
        self._spans: list[tuple[frozenset[int], int, int]] = []
        for part in (piece.strip().lower() for piece in text.split(",")):
            if not part:
                continue
            self._spans.append(self._parse(part))

    def _parse(self, part: str) -> tuple[frozenset[int], int, int]:
        found = _PART.match(part)
        if not found or not (found["first"] or found["h1"]):
            raise UsageError(f"hours {part!r}: write them like 'Mon-Fri 08:00-18:00'")
        days = frozenset(range(7))
        if found["first"]:
            for name in (found["first"], found["last"]):
                if name and name not in _DAYS:
                    raise UsageError(f"hours {part!r}: {name!r} is none of {', '.join(_DAYS)}")
            first = _DAYS.index(found["first"])
            last = _DAYS.index(found["last"] or found["first"])
            days = frozenset((first + step) % 7 for step in range((last - first) % 7 + 1))
        if not found["h1"]:
            return days, 0, _DAY_MINUTES
        begin = int(found["h1"]) * 60 + int(found["m1"])
        end = int(found["h2"]) * 60 + int(found["m2"])
        if max(begin, end) > _DAY_MINUTES or int(found["m1"]) > 59 or int(found["m2"]) > 59:
            raise UsageError(f"hours {part!r}: the day ends at 24:00")
        return days, begin, end

    def contains(self, wall: float) -> bool:
        """Whether `wall` (seconds since 1970, UTC) is inside; no spans at all: always."""
        if not self._spans:
            return True
        local = datetime.fromtimestamp(wall, self.zone)
        minute, today = local.hour * 60 + local.minute, local.weekday()
        for days, begin, end in self._spans:
            if begin < end:
                if today in days and begin <= minute < end:
                    return True
            elif (today in days and minute >= begin) or ((today - 1) % 7 in days and minute < end):
                return True
        return False
