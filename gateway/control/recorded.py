"""Recorded: what the records answer to a question. Reads a database: for a thread."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, TypeVar

from gateway.control.questions import RecordsQuery, StatsQuery
from gateway.errors import UsageError
from gateway.records import CallRecord, Database, LegRecord, Measures, Options, measure
from gateway.records.measures import DAY, HOUR, QUARTER_HOUR

_T = TypeVar("_T", CallRecord, LegRecord)

INTERVALS: Final = {"": None, "quarter": QUARTER_HOUR, "hour": HOUR, "day": DAY}
STATS_ROWS: Final = 500_000
"""Calls that one question may look at."""


def calls(database: Database, query: RecordsQuery) -> list[CallRecord]:
    """Call records, newest first. Raises `UsageError`."""
    if query.call:
        raise UsageError("parameter call is for leg records; use trace")
    found = database.calls(
        since=query.since, until=query.until, trace=query.trace,
        limit=None if query.endpoint else query.limit,
    )  # fmt: skip
    return _fitting(found, query)


def legs(database: Database, query: RecordsQuery) -> list[LegRecord]:
    """Leg records, newest first."""
    found = database.legs(
        since=query.since, until=query.until, call=query.call, trace=query.trace,
        limit=None if query.endpoint else query.limit,
    )  # fmt: skip
    return _fitting(found, query)


def stats(database: Database, query: StatsQuery) -> list[Measures]:
    """Measures of each group. Raises `UsageError`."""
    fields: dict[str, Any] = {
        "by": tuple(part.strip() for part in query.by.split(",") if part.strip()),
        "interval": INTERVALS[query.interval],
        "service_level_s": query.service_level_s,
        "short_abandon_s": query.short_abandon_s,
        "variant": query.variant,
    }
    if query.kinds:
        fields["kinds"] = tuple(part.strip() for part in query.kinds.split(","))
    options = Options(**fields)
    # Later calls tell whether the earlier ones were resolved.
    until = query.until + options.resolution_h * 3600.0
    found = list(database.calls(since=query.since, until=until, limit=STATS_ROWS))
    if len(found) == STATS_ROWS:
        raise UsageError(f"more than {STATS_ROWS} calls: ask for a shorter period")
    return measure(found, since=query.since, until=query.until, options=options)


def _fitting(records: Iterable[_T], query: RecordsQuery) -> list[_T]:
    fits = (
        record
        for record in records
        if not query.endpoint or fnmatch.fnmatchcase(record.endpoint, query.endpoint)
    )
    return list(islice(fits, query.limit))
