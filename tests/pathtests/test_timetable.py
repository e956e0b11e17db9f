"""When tests are due: by the clock of the place, every so often, within hours, and again later."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.events import PathTestKind
from gateway.pathtests import ScheduledTest
from gateway.pathtests.timetable import FIRST_S, LATE_S, Timetable

BERLIN = "Europe/Berlin"


def wall(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(BERLIN)).timestamp()


def scheduled(**fields: Any) -> ScheduledTest:
    return ScheduledTest(**({"endpoint": "fxs/1", "kind": PathTestKind.LOOP} | fields))


def test_at_times_of_the_week() -> None:
    test = scheduled(at=("Mon-Fri 03:00",))
    table = Timetable([test], BERLIN, wall("2026-03-06 12:00"))  # a Friday
    assert table.next_due == wall("2026-03-09 03:00")
    assert table.take(wall("2026-03-09 02:59:59")) == []
    assert table.take(wall("2026-03-09 03:00:01")) == [(test, "")]
    assert table.next_due == wall("2026-03-10 03:00")


def test_the_clocks_go_forward() -> None:
    table = Timetable([scheduled(at=("02:30",))], BERLIN, wall("2026-03-28 12:00"))
    assert table.next_due == wall("2026-03-29 03:30")


def test_every_so_often_goes_on_over_a_restart() -> None:
    test, begin = scheduled(every_s=86400.0), wall("2026-03-06 12:00")
    assert Timetable([test], BERLIN, begin).next_due == begin + FIRST_S
    table = Timetable([test], BERLIN, begin, last={test.name: begin - 3600.0})
    assert table.next_due == begin - 3600.0 + 86400.0
    # What was missed meanwhile is done soon, but what is tested has to come up first.
    table = Timetable([test], BERLIN, begin, last={test.name: begin - 90000.0})
    assert table.next_due == begin + FIRST_S


def test_only_within_its_hours() -> None:
    test = scheduled(every_s=3600.0, hours="22:00-05:00")
    table = Timetable([test], BERLIN, wall("2026-03-06 12:00"))
    assert wall("2026-03-06 22:00") <= table.next_due < wall("2026-03-06 22:05")  # type: ignore[operator]
    late = scheduled(at=("Mon 12:00", "Tue 23:00"), hours="22:00-05:00")
    table = Timetable([late], BERLIN, wall("2026-03-08 12:00"))
    assert table.next_due == wall("2026-03-10 23:00")


def test_what_was_put_off_is_tried_again_for_that_endpoint() -> None:
    test = scheduled(endpoint="fxs/*", at=("03:00",), retry_s=300.0)
    now = wall("2026-03-09 03:00")
    table = Timetable([test], BERLIN, now - 60.0)
    table.take(now)
    assert table.put_off(test, "fxs/2", now) == now + 300.0
    assert table.next_due == now + 300.0
    assert table.take(now + 299.0) == []
    assert table.take(now + 300.0) == [(test, "fxs/2")]
    assert table.next_due == wall("2026-03-10 03:00")


def test_no_retry_after_its_hours_or_beyond_the_next_time() -> None:
    now = wall("2026-03-09 03:00")
    night = scheduled(at=("03:00",), hours="02:00-03:01")
    table = Timetable([night], BERLIN, now - 60.0)
    table.take(now)
    assert table.put_off(night, "fxs/1", now) is None
    often = scheduled(every_s=60.0)
    table = Timetable([often], BERLIN, now)
    table.take(now + FIRST_S)
    assert table.put_off(often, "fxs/1", now + FIRST_S) is None


def test_what_was_slept_over_waits_for_the_next_time() -> None:
    test = scheduled(at=("03:00",))
    table = Timetable([test], BERLIN, wall("2026-03-09 02:00"))
    assert table.take(wall("2026-03-09 03:00") + LATE_S + 1) == []
    assert table.next_due == wall("2026-03-10 03:00")


@given(st.lists(st.floats(0, 20000), min_size=1, max_size=40))
def test_no_time_is_taken_twice(steps: list[float]) -> None:
    test, now = scheduled(every_s=3600.0), 1_700_000_000.0
    table, taken = Timetable([test], BERLIN, now), []
    for step in steps:
        now += step
        taken += [now] * len(table.take(now))
    assert all(b - a >= 3600.0 - 1e-6 for a, b in pairwise(taken))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "either at"),
        ({"at": ("03:00",), "every_s": 60.0}, "either at"),
        ({"every_s": 5.0}, "at least 60"),
        ({"at": ("Mo 3 Uhr",)}, "write it like"),
        ({"at": ("03:00",), "hours": "always"}, "hours"),
        ({"at": ("03:00",), "endpoint": "fxs"}, "network/local"),
        ({"at": ("03:00",), "listen": "fxs/2"}, "only an acoustic test"),
        ({"at": ("03:00",), "kind": PathTestKind.TONE, "expect": "open"}, "only a loop test"),
    ],
)
def test_mistakes_are_named(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        scheduled(**fields)


def test_a_section_reads_as_it_is_written() -> None:
    data = {"endpoint": "fxs/*", "kind": "loop", "every_s": 3600, "limits": {"min_erl_db": 9}}
    test = msgspec.convert(data, ScheduledTest)
    assert (test.pattern, test.name, test.limits.min_erl_db) == (True, "fxs/* loop", 9.0)
