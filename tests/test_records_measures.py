"""Measures: against examples worked by hand, and against a second, naive computation."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import UsageError
from gateway.records import CallRecord, Options, Variant, measure
from gateway.records.measures import DAY, HOUR, QUARTER_HOUR, nearest_rank

T0 = datetime(2024, 3, 4, 10, 0, tzinfo=UTC).timestamp()


def call(n: int, at: float, outcome: str, wait: float, **more: Any) -> CallRecord:
    talk, held = more.pop("talk", 0.0), more.pop("held", 0.0)
    answered = outcome == "answered"
    fields: dict[str, Any] = {
        "id": f"{n:06}", "box": "b", "call": f"c{n}", "trace": f"t{n}", "kind": "call",
        "endpoint": f"sip/{n}", "network": "sip", "calling": "", "called": "", "route": "day",
        "priority": 0, "demanded_at": T0 + at, "answered_at": T0 + at + wait if answered else None,
        "ended_at": T0 + at + wait + talk + held, "wait_s": wait, "talk_s": talk, "held_s": held,
        "outcome": outcome, "cause": "normal", "q850": 16, "answered_by": "", "legs": 2,
    } | more  # fmt: skip
    return CallRecord(**fields)


HAND = [
    call(1, 0, "answered", 4.0, talk=60.0, held=0.0, calling="A"),
    call(2, 60, "answered", 10.0, talk=100.0, held=20.0, calling="B"),
    call(3, 120, "answered", 20.0, talk=40.0, calling="C"),
    call(4, 180, "answered", 50.0, talk=200.0, held=20.0, calling="D"),
    call(5, 240, "abandoned", 3.0, calling="A"),
    call(6, 300, "abandoned", 33.0, calling="E"),
    call(7, 360, "failed", 0.0, calling="F"),
    call(8, 1000, "answered", 6.0, talk=50.0, calling="B", network="fxs", route="night"),
    call(9, 1100, "answered", 1.0, kind="page"),
]


def test_by_hand() -> None:
    (m,) = measure(HAND, since=T0, until=T0 + 1800, options=Options(wrap_up_s={"day": 10.0}))
    # Eight calls (the page is none): five answered, two abandoned (one after 3 s), one failed.
    assert (m.offered, m.answered, m.abandoned, m.short_abandoned, m.failed) == (8, 5, 2, 1, 1)
    assert m.answer_rate == 0.625
    assert m.abandon_rate == 0.25
    # 4, 10, 20, 50, 6: sum 90; the 90th percentile of five is the fifth.
    assert (m.wait_avg_s, m.wait_p90_s, m.wait_max_s) == (18.0, 50.0, 50.0)
    assert m.abandon_wait_avg_s == 18.0
    # In 20 s: 4, 10, 20 and 6. Eight offered less one short one.
    assert m.in_time == 4
    assert m.service_level == pytest.approx(4 / 7)
    # Talk 60 + 100 + 40 + 200 + 50, hold 20 + 20, wrap-up four times 10.
    assert m.aht_s == pytest.approx((450 + 40 + 40) / 5)
    assert (m.talk_avg_s, m.held_avg_s) == (90.0, 8.0)
    assert m.calls_per_hour == 16.0
    # Nobody's day has passed; but A and B have called again already.
    assert (m.resolution_base, m.resolution_rate) == (2, 0.0)
    (later,) = measure(
        [*HAND, call(10, 90_000, "failed", 0.0)], since=T0, until=T0 + 1800, options=Options()
    )
    assert (later.resolution_base, later.resolution_rate) == (5, 0.6)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [(Variant.OFFERED, 4 / 8), (Variant.LESS_SHORT, 4 / 7), (Variant.ANSWERED, 4 / 5)],
)
def test_service_level_variants(variant: Variant, expected: float) -> None:
    (m,) = measure(HAND, since=T0, until=T0 + 1800, options=Options(variant=variant))
    assert m.service_level == pytest.approx(expected)


def test_groups_and_intervals() -> None:
    found = measure(
        HAND,
        since=T0,
        until=T0 + 1800,
        options=Options(by=("network", "route"), interval=QUARTER_HOUR),
    )
    assert [(m.group, m.begin - T0, m.end - T0, m.offered) for m in found] == [
        ({"network": "sip", "route": "day"}, 0, 900, 7),
        ({"network": "fxs", "route": "night"}, 900, 1800, 1),
    ]
    assert found[1].calls_per_hour == 4.0
    (hour,) = measure(HAND, since=T0 + 600, until=T0 + 1800, options=Options(interval=HOUR))
    # The part of the hour that was asked for.
    assert (hour.begin, hour.end, hour.offered) == (T0 + 600, T0 + 1800, 1)
    assert hour.calls_per_hour == 3.0


def test_a_day_is_a_day_where_people_live() -> None:
    zone = ZoneInfo("Europe/Berlin")
    # Summer time begins on 31 March 2024: that day has 23 hours.
    noon = datetime(2024, 3, 31, 12, tzinfo=zone).timestamp()
    (m,) = measure(
        [call(1, noon - T0, "answered", 1.0)],
        since=noon - 5 * DAY,
        until=noon + 5 * DAY,
        options=Options(interval=DAY, zone=zone),
    )
    assert datetime.fromtimestamp(m.begin, zone).isoformat() == "2024-03-31T00:00:00+01:00"
    assert datetime.fromtimestamp(m.end, zone).isoformat() == "2024-04-01T00:00:00+02:00"
    assert m.calls_per_hour == pytest.approx(1 / 23)


def test_ratios_of_nothing_are_none() -> None:
    (m,) = measure([call(1, 0, "abandoned", 2.0)], since=T0, until=T0 + 60)
    assert (m.answer_rate, m.abandon_rate) == (0.0, 1.0)
    assert (m.wait_avg_s, m.wait_p90_s, m.service_level, m.aht_s, m.resolution_rate) == (None,) * 5
    assert measure([], since=T0, until=T0 + 60) == []


def test_misuse_is_named() -> None:
    with pytest.raises(UsageError, match="colour"):
        measure(HAND, since=T0, until=T0 + 1, options=Options(by=("colour",)))
    with pytest.raises(UsageError, match="empty"):
        measure(HAND, since=T0, until=T0)
    with pytest.raises(UsageError, match="7"):
        measure(HAND, since=T0, until=T0 + 1, options=Options(interval=7))
    with pytest.raises(UsageError):
        nearest_rank([1.0], 0)


def test_nearest_rank_of_the_usual_example() -> None:
    values = [15.0, 20.0, 35.0, 40.0, 50.0]
    assert [nearest_rank(values, p) for p in (5, 30, 40, 50, 100)] == [15, 20, 20, 35, 50]
    assert nearest_rank([float(n) for n in range(1, 11)], 90) == 9.0
    assert nearest_rank([], 90) is None


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=50), percent=st.integers(1, 100))
def test_nearest_rank_is_the_smallest_that_enough_do_not_exceed(
    values: list[float], percent: int
) -> None:
    enough = [
        v for v in values if Fraction(sum(w <= v for w in values), len(values)) * 100 >= percent
    ]
    assert nearest_rank(values, percent) == min(enough)


CALLS = st.lists(
    st.tuples(
        st.integers(-3600, 200_000),
        st.sampled_from(["answered", "abandoned", "failed"]),
        st.integers(0, 60),
        st.integers(0, 300),
        st.integers(0, 60),
        st.sampled_from(["sip", "fxs"]),
        st.sampled_from(["day", "night"]),
        st.sampled_from(["", "A", "B", "C"]),
        st.sampled_from(["call", "alarm", "page"]),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(plans=CALLS, until=st.integers(1, 150_000), variant=st.sampled_from(list(Variant)))
def test_against_a_naive_computation(plans: list[Any], until: int, variant: Variant) -> None:
    records = [
        call(n, at, outcome, float(wait), talk=float(talk), held=float(held), network=network,
             route=route, calling=caller, kind=kind, endpoint=f"{network}/1")
        for n, (at, outcome, wait, talk, held, network, route, caller, kind) in enumerate(plans)
    ]  # fmt: skip
    options = Options(
        by=("route",), interval=HOUR, variant=variant, wrap_up_s={"day": 7.0}, resolution_h=2.0
    )
    found = {
        (m.begin, m.group["route"]): m
        for m in measure(records, since=T0, until=T0 + until, options=options)
    }
    seen = 0
    counted = [r for r in records if r.kind != "page"]
    known = max([T0 + until, *(r.demanded_at for r in counted)])
    for hour in range(math.ceil(until / 3600)):
        for route in ("day", "night"):
            low, high = T0 + hour * 3600, min(T0 + until, T0 + hour * 3600 + 3600)
            mine = [r for r in counted if r.route == route and low <= r.demanded_at < high]
            m = found.get((low, route))
            if not mine:
                assert m is None
                continue
            assert m is not None
            seen += 1
            ok = [r for r in mine if r.outcome == "answered"]
            gone = [r for r in mine if r.outcome == "abandoned"]
            short = [r for r in gone if r.wait_s <= 5]
            assert (m.offered, m.answered, m.abandoned) == (len(mine), len(ok), len(gone))
            assert (m.short_abandoned, m.failed) == (len(short), len(mine) - len(ok) - len(gone))
            assert m.calls_per_hour == pytest.approx(len(mine) / ((high - low) / 3600))
            fast = sum(1 for r in ok if r.wait_s <= 20)
            below = {"offered": len(mine), "answered": len(ok)}.get(
                variant.value, len(mine) - len(short)
            )
            assert m.service_level == (pytest.approx(fast / below) if below else None)
            if ok:
                waits = sorted(r.wait_s for r in ok)
                assert m.wait_avg_s == pytest.approx(sum(waits) / len(waits))
                assert m.wait_p90_s == waits[-(-9 * len(waits) // 10) - 1]
                assert m.wait_max_s == waits[-1]
                work = sum(r.ended_at - (r.answered_at or 0) for r in ok)
                work += 7 * len(ok) if route == "day" else 0
                assert m.aht_s == pytest.approx(work / len(ok), abs=1e-5)
            judged = good = 0
            for r in ok:
                who = r.calling or r.endpoint
                again = [
                    o for o in counted
                    if (o.calling or o.endpoint) == who
                    and (o.demanded_at, o.id) > (r.demanded_at, r.id)
                    and o.demanded_at <= r.ended_at + 7200
                ]  # fmt: skip
                if again or r.ended_at + 7200 <= known:
                    judged += 1
                    good += not again
            assert m.resolution_base == judged
            assert m.resolution_rate == (pytest.approx(good / judged) if judged else None)
    assert seen == len(found)
