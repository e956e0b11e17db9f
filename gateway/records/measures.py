"""Measures: how well demands were met, computed from call records.

The definitions and formulas, and which variants were chosen, are in ``docs/measures.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum

import msgspec

from gateway.errors import UsageError
from gateway.records.tables import CallRecord, Kind, Outcome

QUARTER_HOUR = 900
HOUR = 3600
DAY = 86_400


class Variant(StrEnum):
    """What the calls answered in time are divided by."""

    OFFERED = "offered"
    """All offered calls."""
    LESS_SHORT = "less-short"
    """Offered calls without those abandoned within the short-abandon threshold."""
    ANSWERED = "answered"
    """Answered calls only."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to group and what the thresholds are."""

    by: tuple[str, ...] = ()
    """Any of ``network``, ``route``, ``endpoint``, ``box``, ``kind``; empty: all together."""
    interval: int | None = None
    """`QUARTER_HOUR`, `HOUR` or `DAY` of the demand; None: the whole period."""
    zone: tzinfo = UTC
    """In which intervals begin."""
    service_level_s: float = 20.0
    variant: Variant = Variant.LESS_SHORT
    short_abandon_s: float = 5.0
    """An abandoned call that waited no longer than this is a short one."""
    wrap_up_s: Mapping[str, float] = {}
    """After-call work by route; the key ``*`` is for all others, 0 if it is missing."""
    resolution_h: float = 24.0
    """A call is resolved when its caller does not call again within this many hours."""
    kinds: tuple[str, ...] = (Kind.CALL, Kind.ALARM, Kind.REQUESTED)
    """What is counted; a page is no demand for an answer."""


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """Measures of one group of calls. A ratio of nothing is None, never 0 or 1."""

    group: dict[str, str]
    begin: float
    """Beginning of the interval, seconds since 1970."""
    end: float
    offered: int
    answered: int
    abandoned: int
    short_abandoned: int
    """Of the abandoned."""
    failed: int
    """Offered, but neither answered nor given up: refused, no answer, cut off."""
    answer_rate: float | None
    """Answered / offered."""
    abandon_rate: float | None
    """Abandoned / offered."""
    wait_avg_s: float | None
    """Of the answered calls, from the first human demand to the first human answer."""
    wait_p90_s: float | None
    """Nearest rank."""
    wait_max_s: float | None
    abandon_wait_avg_s: float | None
    """How long those who gave up had waited."""
    in_time: int
    """Answered within `service_level_s`."""
    service_level: float | None
    aht_s: float | None
    """Average handle time: (talk + hold + wrap-up) / answered."""
    talk_avg_s: float | None
    held_avg_s: float | None
    calls_per_hour: float | None
    """Offered per hour of the interval."""
    resolution_base: int
    """Answered calls whose `resolution_h` have passed, and that tell who called."""
    resolution_rate: float | None
    """Of those: not followed by another call of the same caller in time."""


def nearest_rank(values: Sequence[float], percent: float) -> float | None:
    """The smallest value that at least `percent` % of the values do not exceed; None of none.

    Raises `UsageError` unless 0 < percent <= 100.
    """
    if not 0 < percent <= 100:
        raise UsageError(f"a percentile of {percent} does not exist (more than 0, at most 100)")
    if not values:
        return None
    ordered = sorted(values)
    # Rounded first: 0.9 * 10 must not become rank 10 by binary fractions.
    return ordered[max(1, math.ceil(round(percent * len(ordered) / 100, 9))) - 1]


def measure(
    records: Iterable[CallRecord],
    *,
    since: float,
    until: float,
    options: Options | None = None,
) -> list[Measures]:
    """Measures of the calls demanded in [since, until), one for each group that has calls.

    Give also the calls up to `resolution_h` after `until`, if there are: they only tell whether
    earlier ones were resolved. since, until: seconds since 1970, not in the future.
    Ordered by interval, then group. Raises `UsageError` for an unknown grouping or an empty period.
    """
    options = options or Options()
    for name in options.by:
        if name not in ("network", "route", "endpoint", "box", "kind"):
            raise UsageError(f"cannot group by {name!r} (network, route, endpoint, box or kind)")
    if not since < until:
        raise UsageError(f"the period from {since} to {until} is empty")
    counted = [record for record in records if record.kind in options.kinds]
    latest = max((record.demanded_at for record in counted), default=until)
    resolved = _resolved(counted, options, max(until, latest))
    groups: dict[tuple[float, tuple[str, ...]], list[CallRecord]] = {}
    bounds: dict[float, float] = {}
    for record in counted:
        if not since <= record.demanded_at < until:
            continue
        begin, end = _interval(record.demanded_at, since, until, options)
        bounds[begin] = end
        names = tuple(str(getattr(record, name)) for name in options.by)
        groups.setdefault((begin, names), []).append(record)
    return [
        _measure(
            dict(zip(options.by, names, strict=True)),
            max(begin, since),
            min(bounds[begin], until),
            found,
            resolved,
            options,
        )
        for (begin, names), found in sorted(groups.items(), key=lambda item: item[0])
    ]


def _measure(
    group: dict[str, str],
    begin: float,
    end: float,
    records: list[CallRecord],
    resolved: Mapping[str, bool],
    options: Options,
) -> Measures:
    answered = [record for record in records if record.outcome == Outcome.ANSWERED]
    abandoned = [record for record in records if record.outcome == Outcome.ABANDONED]
    short = sum(record.wait_s <= options.short_abandon_s for record in abandoned)
    waits = [record.wait_s for record in answered]
    in_time = sum(wait <= options.service_level_s for wait in waits)
    base = {
        Variant.OFFERED: len(records),
        Variant.LESS_SHORT: len(records) - short,
        Variant.ANSWERED: len(answered),
    }[options.variant]
    other = options.wrap_up_s.get("*", 0.0)
    handle = [
        record.talk_s + record.held_s + options.wrap_up_s.get(record.route, other)
        for record in answered
    ]
    outcomes = [resolved[record.id] for record in answered if record.id in resolved]
    return Measures(
        group=group,
        begin=begin,
        end=end,
        offered=len(records),
        answered=len(answered),
        abandoned=len(abandoned),
        short_abandoned=short,
        failed=len(records) - len(answered) - len(abandoned),
        answer_rate=_ratio(len(answered), len(records)),
        abandon_rate=_ratio(len(abandoned), len(records)),
        wait_avg_s=_average(waits),
        wait_p90_s=nearest_rank(waits, 90),
        wait_max_s=max(waits, default=None),
        abandon_wait_avg_s=_average([record.wait_s for record in abandoned]),
        in_time=in_time,
        service_level=_ratio(in_time, base),
        aht_s=_average(handle),
        talk_avg_s=_average([record.talk_s for record in answered]),
        held_avg_s=_average([record.held_s for record in answered]),
        calls_per_hour=_ratio(len(records) * 3600.0, end - begin),
        resolution_base=len(outcomes),
        resolution_rate=_ratio(sum(outcomes), len(outcomes)),
    )


def _resolved(records: list[CallRecord], options: Options, known_until: float) -> dict[str, bool]:
    """For each answered call that can be judged: whether its caller did not call again."""
    window = options.resolution_h * 3600.0
    callers: dict[str, list[CallRecord]] = {}
    for record in records:
        # A trunk is no caller: behind one endpoint are many people, told apart by their number.
        caller = record.calling or record.endpoint
        if caller:
            callers.setdefault(caller, []).append(record)
    found: dict[str, bool] = {}
    for of_caller in callers.values():
        of_caller.sort(key=lambda record: (record.demanded_at, record.id))
        for n, record in enumerate(of_caller):
            if record.outcome != Outcome.ANSWERED:
                continue
            following = of_caller[n + 1].demanded_at if n + 1 < len(of_caller) else math.inf
            if following <= record.ended_at + window:
                found[record.id] = False
            elif record.ended_at + window <= known_until:
                found[record.id] = True
    return found


def _interval(at: float, since: float, until: float, options: Options) -> tuple[float, float]:
    if options.interval is None:
        return since, until
    local = datetime.fromtimestamp(at, options.zone)
    starts: dict[int, Callable[[datetime], datetime]] = {
        QUARTER_HOUR: lambda t: t.replace(minute=t.minute // 15 * 15, second=0, microsecond=0),
        HOUR: lambda t: t.replace(minute=0, second=0, microsecond=0),
        DAY: lambda t: t.replace(hour=0, minute=0, second=0, microsecond=0, fold=0),
    }
    if options.interval not in starts:
        raise UsageError(f"an interval of {options.interval} s is not known (900, 3600 or 86400)")
    begin = starts[options.interval](local)
    if options.interval == DAY:
        # A day has 23 or 25 hours when daylight saving begins or ends.
        noon = begin.replace(hour=12) + timedelta(days=1)
        return begin.timestamp(), starts[DAY](noon).timestamp()
    return begin.timestamp(), begin.timestamp() + options.interval


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _average(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
