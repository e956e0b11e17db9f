"""Calendar: ordinary weeks, other days, clock changes, and what was missed."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UsageError
from gateway.protocols.calendar import Bell, Calendar, Ring, days_of

BERLIN = ZoneInfo("Europe/Berlin")


def wall(text: str, zone: ZoneInfo = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def shown(calendar: Calendar, rings: list[Ring]) -> list[str]:
    return [f"{calendar.local(ring.at):%a %m-%d %H:%M} {ring.bell}" for ring in rings]


def test_the_next_ten_of_an_ordinary_week() -> None:
    bells = [Bell("lesson", ["Mon-Fri 08:00", "Sat,Sun 10:00"]), Bell("noon", ["12:00"])]
    calendar = Calendar("Europe/Berlin", bells)
    # 2026-03-05 is a Thursday.
    assert shown(calendar, calendar.upcoming(wall("2026-03-05T08:00"))) == [
        "Thu 03-05 12:00 noon", "Fri 03-06 08:00 lesson", "Fri 03-06 12:00 noon",
        "Sat 03-07 10:00 lesson", "Sat 03-07 12:00 noon", "Sun 03-08 10:00 lesson",
        "Sun 03-08 12:00 noon", "Mon 03-09 08:00 lesson", "Mon 03-09 12:00 noon",
        "Tue 03-10 08:00 lesson",
    ]  # fmt: skip


def test_holidays_day_types_and_exceptions() -> None:
    lesson = Bell(
        "lesson", ["Mon-Fri 08:00"], on={"short": ["09:00", "Fri 09:30"], "holiday": []},
        skip=["2026-03-04"], extra=["2026-03-04 07:00", "2026-03-07 11:15:30"],
    )  # fmt: skip
    alarm_test = Bell("test", ["Mon 12:00"], on={"holiday": ["Mon 12:00"]})
    calendar = Calendar(
        "Europe/Berlin", [lesson, alarm_test],
        holidays=["2026-03-09/2026-03-10"], days={"2026-03-06": "short"},
    )  # fmt: skip
    assert shown(calendar, calendar.upcoming(wall("2026-03-03T08:00"), 8)) == [
        "Wed 03-04 07:00 lesson",  # instead of eight o'clock
        "Thu 03-05 08:00 lesson",
        "Fri 03-06 09:00 lesson", "Fri 03-06 09:30 lesson",  # a short day
        "Sat 03-07 11:15 lesson",
        "Mon 03-09 12:00 test",  # holidays, but the test takes place
        "Wed 03-11 08:00 lesson", "Thu 03-12 08:00 lesson",
    ]  # fmt: skip


def test_when_the_clocks_go_forward_every_bell_rings_once() -> None:
    """02:00 to 03:00 does not exist on 2026-03-29 in Berlin."""
    calendar = Calendar(
        "Europe/Berlin", [Bell("night", ["02:30"]), Bell("late", ["03:30", "02:30"])]
    )
    rings = calendar.upcoming(wall("2026-03-29T00:00"), 4)
    assert shown(calendar, rings[:2]) == ["Sun 03-29 03:30 late", "Sun 03-29 03:30 night"]
    assert shown(calendar, rings[2:]) == ["Mon 03-30 02:30 late", "Mon 03-30 02:30 night"]
    # In UTC, counted by hand: 01:30.
    assert rings[0].at == datetime(2026, 3, 29, 1, 30, tzinfo=ZoneInfo("UTC")).timestamp()


def test_when_the_clocks_go_back_it_rings_the_first_time_only() -> None:
    """02:00 to 03:00 comes twice on 2026-10-25 in Berlin."""
    calendar = Calendar("Europe/Berlin", [Bell("night", ["02:30"])])
    first, second = calendar.upcoming(wall("2026-10-25T00:00"), 2)
    assert first.at == datetime(2026, 10, 25, 0, 30, tzinfo=ZoneInfo("UTC")).timestamp()
    assert second.at - first.at == 25 * 3600


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe",
                                  "Asia/Kathmandu", "America/New_York", "UTC"])  # fmt: skip
def test_every_day_of_ten_years_has_its_bell_in_order(zone: str) -> None:
    """Also where the clocks change at midnight, or by half an hour."""
    calendar = Calendar(zone, [Bell("b", ["00:00", "00:30", "02:15", "23:59"])])
    for year in range(2012, 2022, 3):
        begin = wall(f"{year}-01-01T00:00", ZoneInfo(zone)) - 1
        rings = [ring for ring in calendar.after(begin) if ring.at < begin + 365 * 86400]
        assert [r.at for r in rings] == sorted({r.at for r in rings})
        # Sao Paulo had no midnight on one day of a year: 00:00 and 00:30 are 01:00 and 01:30.
        assert len(rings) == 4 * 365


def test_due_tells_late_from_missed() -> None:
    calendar = Calendar("UTC", [Bell("b", ["08:00", "08:01", "09:00"])])
    utc = ZoneInfo("UTC")
    now, missed = calendar.due(
        wall("2026-03-05T07:59", utc), wall("2026-03-05T08:01:10", utc), late_s=30
    )
    assert [ring.at for ring in now] == [wall("2026-03-05T08:01", utc)]
    assert [ring.at for ring in missed] == [wall("2026-03-05T08:00", utc)]
    begin, end = wall("2026-03-05T08:01", utc), wall("2026-03-05T08:02", utc)
    assert calendar.due(begin, end, late_s=30) == (
        [], [],
    )  # fmt: skip
    # Years later there is no end of missed bells; the latest are told.
    now, missed = calendar.due(0.0, wall("2026-03-05T08:10", utc), late_s=30, at_most=5)
    assert now == []
    assert len(missed) == 5
    assert missed[-1].at == wall("2026-03-05T08:01", utc)


@given(
    st.floats(1.6e9, 2.0e9),
    st.lists(st.floats(0.5, 200_000), min_size=1, max_size=30),
)
def test_however_often_it_is_looked_each_ring_is_due_once(begin: float, steps: list[float]) -> None:
    calendar = Calendar(
        "Europe/Berlin", [Bell("a", ["Mon-Fri 02:30", "12:00"]), Bell("b", ["0:00"])]
    )
    seen: list[Ring] = []
    at = begin
    for step in steps:
        now, missed = calendar.due(at, at + step, late_s=30, at_most=10_000)
        seen += [*missed, *now]
        at += step
    assert seen == [ring for ring in calendar.after(begin) if ring.at <= at]


def test_a_timetable_that_never_rings_again_ends() -> None:
    assert Calendar("UTC", [Bell("b", extra=["2020-01-01 08:00"])]).upcoming(1.7e9) == []


def test_leap_day() -> None:
    assert [str(day) for day in days_of("2028-02-28/2028-03-01")] == [
        "2028-02-28", "2028-02-29", "2028-03-01",
    ]  # fmt: skip
    assert days_of("2026-12-31/2027-01-01")[1] - days_of("2026-12-31")[0] == timedelta(days=1)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Bell("b", ["Mon-Fri"]), "08:00"),
        (lambda: Bell("b", ["Mon-Fri 25:00"]), "25:00"),
        (lambda: Bell("b", ["Mo 08:00"]), "mo"),
        (lambda: Bell("b", ["Mon Tue 08:00"]), "write it like"),
        (lambda: Bell("b", skip=["24.12.2026"]), "2026-12-24"),
        (lambda: Bell("b", skip=["2026-02-30"]), "2026-02-30"),
        (lambda: Bell("b", extra=["2026-03-02"]), "2026-03-02"),
        (lambda: Calendar("Berlin", []), "Berlin"),
        (lambda: Calendar("UTC", [], holidays=["2026-12-24/2026-12-23"]), "ends before"),
        (lambda: Calendar("UTC", [Bell("b", on={"shrt": ["08:00"]})]), "shrt"),
    ],
)
def test_mistakes_are_named(make, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        make()


@given(st.text(max_size=30))
def test_garbage(text: str) -> None:
    for make in (
        lambda: Bell("b", [text]),
        lambda: Bell("b", skip=[text]),
        lambda: Bell("b", extra=[text]),
        lambda: Calendar(text, []),
        lambda: Calendar("UTC", [], days={text: "x"}),
    ):
        try:
            make()
        except UsageError:
            pass
