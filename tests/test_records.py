"""Recorder and recovery: one record for each leg and call, whatever happens in between."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.actions import Action, Dial, Hangup, Note, OpenAlarm, Record
from gateway.core.causes import Cause
from gateway.core.envelope import Envelope
from gateway.core.events import (
    AlarmRaised,
    CallRequested,
    Event,
    LegAnswered,
    LegEnded,
    LegHeld,
    LegOffered,
    LegRetrieved,
    LegRinging,
    Priority,
    Severity,
)
from gateway.core.ids import Ids
from gateway.media.streams import StreamStats
from gateway.records import CallRecord, LegRecord, Recorder, Unfinished
from gateway.records.ops import Beat, Forget, PutCall, PutLeg, PutOpen, StoreOp
from gateway.records.recovery import Recovery

WALL = 1_700_000_000.0
IDS = Ids()


class Tables:
    """What a database would hold after the operations."""

    def __init__(self) -> None:
        self.legs: dict[str, LegRecord] = {}
        self.calls: dict[str, CallRecord] = {}
        self.open: dict[str, PutOpen] = {}
        self.beat: Beat | None = None

    def put(self, ops: tuple[StoreOp, ...]) -> None:
        for op in ops:
            match op:
                case PutLeg(record=leg, replace=replace):
                    if replace or leg.id not in self.legs:
                        self.legs[leg.id] = leg
                case PutCall(record=call, replace=replace):
                    if replace or call.id not in self.calls:
                        self.calls[call.id] = call
                case PutOpen(id=key):
                    self.open[key] = op
                case Forget(id=key):
                    self.open.pop(key, None)
                case Beat():
                    self.beat = op

    def leg(self, name: str) -> LegRecord:
        (found,) = (leg for leg in self.legs.values() if leg.leg == name)
        return found

    def call(self) -> CallRecord:
        (found,) = self.calls.values()
        return found

    def unfinished(self) -> Unfinished:
        beat = self.beat or Beat(box="b", run="", at=0.0, mono=0.0)
        states = {key: op.data for key, op in self.open.items()}
        return Unfinished(run=beat.run, at=beat.at, mono=beat.mono, calls=states)


class Bus:
    """A recorder and the clocks around it."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.recorder = Recorder("b", self.tables.put, run="run-1")
        self.now = 1000.0
        self.step = 0.0
        self.log: list[Envelope] = []

    @property
    def at(self) -> float:
        return WALL + self.now + self.step

    def put(
        self, body: Event | Action, *, after: float = 0.0, call: str = "", trace: str = ""
    ) -> None:
        self.now += after
        event = body if isinstance(body, Event) else None
        envelope = Envelope(
            id=IDS.uuid7(self.at), box="b", at=self.at, mono=self.now, trace=trace, call=call,
            event=event, action=None if event is not None else body,  # type: ignore[arg-type]
        )  # fmt: skip
        self.log.append(envelope)
        self.recorder.receive(envelope)

    def offer(self, leg: str, *, trace: str = "t", waited: float = 0.0, **more: Any) -> None:
        self.put(
            LegOffered(
                leg=leg,
                endpoint=leg.partition("#")[0],
                trace=trace,
                demanded_at=self.now - waited,
                **more,
            )
        )

    def dial(self, leg: str, *, trace: str = "t", call: str = "c", **more: Any) -> None:
        endpoint = leg.partition("#")[0]
        self.put(Dial(leg=leg, endpoint=endpoint, trace=trace, call=call, **more), call=call)


def ended(leg: str, cause: Cause = Cause.NORMAL, detail: str = "") -> LegEnded:
    return LegEnded(leg=leg, cause=cause, detail=detail)


def test_a_call_from_a_trunk_to_a_telephone() -> None:
    bus = Bus()
    bus.offer("sip/telco#1", waited=3.0, calling="555", called="100", priority=Priority.PRIORITY)
    bus.put(Note(text="route day", route="day", leg="sip/telco#1", call="c"), call="c")
    bus.dial("fxs/1#2", number="", calling="555")
    bus.put(LegRinging(leg="fxs/1#2"), after=1)
    bus.put(LegAnswered(leg="fxs/1#2"), after=4)
    bus.put(LegAnswered(leg="sip/telco#1"), after=0.5)
    bus.put(LegHeld(leg="fxs/1#2"), after=10)
    bus.put(LegRetrieved(leg="fxs/1#2"), after=7)
    bus.put(Record(leg="sip/telco#1", file="a.wav"))
    stats = StreamStats(
        codec="PCMU", packets_received=900, packets_sent=950, packets_lost=100, jitter_ms=4.5,
        level_in_dbm0=-20.0,
    )  # fmt: skip
    bus.recorder.media("sip/telco#1", stats)
    bus.put(ended("sip/telco#1", detail="BYE"), after=20)
    bus.put(Hangup(leg="fxs/1#2", cause=Cause.NORMAL))
    bus.put(ended("fxs/1#2"), after=1)
    leg = bus.tables.leg("sip/telco#1")
    t0 = WALL + 1000.0
    assert (leg.demanded_at, leg.offered_at, leg.ringing_at) == (t0 - 3, t0, None)
    assert (leg.answered_at, leg.ended_at) == (t0 + 5.5, t0 + 42.5)
    assert (leg.wait_s, leg.talk_s, leg.held_s) == (8.5, 37.0, 0.0)
    assert (leg.network, leg.direction, leg.route, leg.priority) == ("sip", "in", "day", 1)
    assert (leg.cause, leg.q850, leg.detail, leg.released) == ("normal", 16, "BYE", "far")
    assert (leg.loss_percent, leg.jitter_ms, leg.recording) == (10.0, 4.5, "a.wav")
    assert leg.level_dbm0 == pytest.approx(-20.0)
    other = bus.tables.leg("fxs/1#2")
    assert (other.ringing_at, other.answered_at) == (t0 + 1, t0 + 5)
    assert (other.wait_s, other.talk_s, other.held_s) == (8.0, 31.5, 7.0)
    assert (other.direction, other.released, other.call) == ("out", "gateway", leg.call)
    call = bus.tables.call()
    assert (call.id, call.call, call.legs, call.kind) == (leg.call, "c", 2, "call")
    assert (call.outcome, call.answered_by, call.route) == ("answered", "fxs/1", "day")
    assert (call.wait_s, call.talk_s, call.held_s) == (8.0, 31.5, 7.0)
    assert (call.calling, call.called, call.endpoint) == ("555", "100", "sip/telco")
    assert not bus.tables.open


def test_what_the_caller_gave_up_is_abandoned_and_what_we_refused_failed() -> None:
    for cause, hangup, outcome in [
        (Cause.CANCELLED, None, "abandoned"),
        (Cause.NORMAL, None, "abandoned"),
        (Cause.NORMAL, Cause.NO_ANSWER, "failed"),
        (Cause.ADAPTER_LOST, None, "failed"),
    ]:
        bus = Bus()
        bus.offer("fxs/1#1")
        bus.dial("sip/a#2")
        if hangup:
            bus.put(Hangup(leg="fxs/1#1", cause=hangup, detail="30 s"), after=30)
        bus.put(ended("fxs/1#1", cause), after=2)
        bus.put(ended("sip/a#2"), after=1)
        assert bus.tables.call().outcome == outcome
        leg = bus.tables.leg("fxs/1#1")
        assert leg.cause == (hangup or cause).value
        assert leg.detail == ("30 s" if hangup else "")
        assert bus.tables.call().cause == leg.cause


def test_no_route_still_is_a_demand() -> None:
    bus = Bus()
    bus.offer("fxs/1#1", called="0815")
    bus.put(Hangup(leg="fxs/1#1", cause=Cause.UNALLOCATED, detail="no route matched 0815"))
    bus.put(ended("fxs/1#1", Cause.UNALLOCATED))
    call = bus.tables.call()
    assert (call.call, call.outcome, call.cause, call.called) == (
        "", "failed", "unallocated", "0815",
    )  # fmt: skip


def test_an_alarm_is_waited_for_from_its_beginning_until_a_human_answers() -> None:
    bus = Bus()
    raised = AlarmRaised(endpoint="mqtt/panel", alarm="fire", trace="t", raised_at=bus.now - 5)
    bus.put(raised)
    bus.put(OpenAlarm(endpoint="mqtt/panel", alarm="fire", route="fire", trace="t"))
    bus.dial("page/hall#1", call="page", one_way=True, auto_answer=True)
    bus.put(LegAnswered(leg="page/hall#1"), after=1)
    bus.dial("sip/guard-1#2", call="guard")
    bus.put(Hangup(leg="sip/guard-1#2", cause=Cause.NO_ANSWER), after=30)
    bus.put(ended("sip/guard-1#2"))
    # Nobody is on the call now, and yet it is the same call.
    bus.dial("sip/guard-2#3", call="guard")
    bus.put(LegAnswered(leg="sip/guard-2#3"), after=10)
    bus.put(ended("sip/guard-2#3"), after=15)
    bus.put(ended("page/hall#1"), after=1)
    guard, page = sorted(bus.tables.calls.values(), key=lambda call: call.call)
    assert (guard.kind, guard.endpoint, guard.network, guard.route) == (
        "alarm", "mqtt/panel", "mqtt", "fire",
    )  # fmt: skip
    assert (guard.wait_s, guard.talk_s, guard.outcome) == (46.0, 15.0, "answered")
    assert (guard.answered_by, guard.legs) == ("sip/guard-2", 2)
    assert (page.kind, page.outcome, page.wait_s) == ("page", "answered", 6.0)


def test_a_requested_call_is_answered_by_its_target() -> None:
    bus = Bus()
    bus.put(CallRequested(origin="sip/desk", target="fxs/1", trace="t"))
    bus.dial("sip/desk#1")
    bus.put(LegAnswered(leg="sip/desk#1"), after=3)
    bus.dial("fxs/1#2")
    bus.put(ended("sip/desk#1"), after=9)
    bus.put(Hangup(leg="fxs/1#2", cause=Cause.CANCELLED))
    bus.put(ended("fxs/1#2"))
    call = bus.tables.call()
    assert (call.kind, call.endpoint, call.outcome, call.wait_s) == (
        "requested", "sip/desk", "abandoned", 12.0,
    )  # fmt: skip


def test_without_anybody_called_the_gateway_answers() -> None:
    bus = Bus()
    bus.offer("fxs/1#1")
    bus.put(LegAnswered(leg="fxs/1#1"), after=2)
    bus.put(ended("fxs/1#1"), after=8)
    call = bus.tables.call()
    assert (call.outcome, call.wait_s, call.talk_s) == ("answered", 2.0, 8.0)


def test_media_after_the_end_and_of_two_streams_is_added() -> None:
    bus = Bus()
    bus.offer("sip/a#1")
    bus.recorder.media("sip/a#1", StreamStats(codec="PCMA", packets_received=10), stream=1)
    bus.recorder.media("sip/a#1", StreamStats(codec="PCMA", packets_received=30), stream=1)
    bus.put(ended("sip/a#1"))
    bus.recorder.media("sip/a#1", StreamStats(codec="G722", packets_received=5), stream=2)
    leg = bus.tables.leg("sip/a#1")
    assert (leg.codec, leg.packets_received, leg.level_dbm0) == ("PCMA,G722", 35, None)
    bus.recorder.media("sip/zz#9", StreamStats())
    assert bus.recorder.counters.unknown == 1


def test_what_is_over_is_forgotten_soon_but_for_alarms() -> None:
    bus = Bus()
    bus.offer("sip/a#1", trace="call")
    bus.put(ended("sip/a#1"))
    alarm = AlarmRaised(
        endpoint="mqtt/p", alarm="smoke", kind="fire", severity=Severity.MAJOR, trace="alarm",
        raised_at=bus.now,
    )  # fmt: skip
    bus.put(alarm, trace="alarm")
    bus.dial("sip/guard#1", trace="alarm", call="alert")
    bus.put(ended("sip/guard#1", Cause.NO_ANSWER), after=1)
    bus.recorder.tick(bus.now + 60.0, bus.at + 60.0)
    # Nobody sends counters of them any more.
    for leg in ("sip/a#1", "sip/guard#1"):
        bus.recorder.media(leg, StreamStats(codec="PCMA", packets_received=1))
    assert bus.recorder.counters.unknown == 2
    # The alarm's next person still belongs to it.
    bus.now += 60.0
    bus.dial("sip/guard#2", trace="alarm", call="alert")
    bus.put(ended("sip/guard#2", Cause.NO_ANSWER), after=1)
    found = {record.kind: record.legs for record in bus.tables.calls.values()}
    assert found == {"call": 1, "alarm": 2}


def test_a_call_that_a_person_began_takes_more_legs_for_a_short_while() -> None:
    bus = Bus()
    bus.offer("sip/a#1", trace="call")
    bus.dial("sip/b#1", trace="call", call="c")
    for leg in ("sip/a#1", "sip/b#1"):
        bus.put(ended(leg))
    for after, records in ((20.0, [3]), (40.0, [1, 3])):
        bus.now += after
        bus.recorder.tick(bus.now, bus.at)
        bus.dial("sip/c#1", trace="call", call="c")
        bus.put(ended("sip/c#1"))
        assert sorted(record.legs for record in bus.tables.calls.values()) == records


def test_a_run_that_crashed_leaves_no_call_to_the_next() -> None:
    bus = Bus()
    bus.offer("sip/a#1", trace="call")
    bus.dial("sip/b#1", trace="call", call="c")
    for leg in ("sip/a#1", "sip/b#1"):
        bus.put(ended(leg), after=1)
    first, bus.log = bus.log, []
    bus.recorder = Recorder("b", bus.tables.put, run="run-2")
    bus.dial("sip/c#1", trace="call", call="c")
    bus.put(ended("sip/c#1"), after=1)
    tables = Tables()
    Recovery("b", tables.put).finish(Unfinished(), [None, *first, None, *bus.log])
    assert [record.legs for record in tables.calls.values()] == [2, 1]


def test_events_of_strangers_and_repeated_ends_change_nothing() -> None:
    bus = Bus()
    bus.put(LegAnswered(leg="x/1#1"))
    bus.put(ended("x/1#1"))
    bus.offer("x/1#2")
    bus.put(ended("x/1#2", Cause.BUSY), after=1)
    bus.put(ended("x/1#2", Cause.NORMAL), after=1)
    assert [leg.cause for leg in bus.tables.legs.values()] == ["busy"]
    assert bus.recorder.counters.unknown == 3


def test_hostile_text_is_made_storable() -> None:
    bus = Bus()
    odd = "\0" + b"\xff".decode("utf-8", "surrogateescape") + "x" * 1000
    bus.offer("sip/a#1", calling=odd, called=odd)
    bus.put(ended("sip/a#1", detail=odd))
    leg = bus.tables.leg("sip/a#1")
    for text in (leg.calling, leg.called, leg.detail):
        assert "\0" not in text
        assert len(text.encode()) < 300


LEG = st.fixed_dictionaries(
    {
        "start": st.integers(0, 60),
        "ring": st.none() | st.integers(0, 20),
        "answer": st.none() | st.integers(0, 40),
        "holds": st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=3),
        "length": st.integers(0, 90),
        "cause": st.sampled_from([Cause.NORMAL, Cause.BUSY, Cause.CANCELLED]),
        "inbound": st.booleans(),
        "call": st.integers(0, 3),
    }
)


def history(legs: list[dict[str, Any]]) -> list[tuple[float, int, Event | Action]]:
    """Timed events; the sequence number keeps each leg's own order."""
    found: list[tuple[float, int, Event | Action]] = []
    for n, leg in enumerate(legs):
        name, t, end = f"sip/{n}#{n}", float(leg["start"]), float(leg["start"] + leg["length"])
        trace, call = f"t{leg['call']}-{n}", f"c{leg['call']}"
        if leg["inbound"]:
            found.append(
                (t, n * 100, LegOffered(leg=name, endpoint=f"sip/{n}", trace=trace, demanded_at=t))
            )
        else:
            found.append((t, n * 100, Dial(leg=name, endpoint=f"sip/{n}", trace=trace, call=call)))
        k = 1
        if leg["ring"] is not None and t + leg["ring"] <= end:
            found.append((t + leg["ring"], n * 100 + k, LegRinging(leg=name)))
        if leg["answer"] is not None and t + leg["answer"] <= end:
            t += leg["answer"]
            found.append((t, n * 100 + 2, LegAnswered(leg=name)))
            k = 3
            for gap, hold in leg["holds"]:
                if t + gap + hold <= end:
                    found.append((t + gap, n * 100 + k, LegHeld(leg=name)))
                    t += gap + hold
                    found.append((t, n * 100 + k + 1, LegRetrieved(leg=name)))
                    k += 2
        found.append((end, n * 100 + 99, ended(name, leg["cause"])))
    return sorted(found, key=lambda item: item[:2])


@settings(max_examples=150, deadline=None)
@given(
    legs=st.lists(LEG, min_size=1, max_size=8),
    steps=st.lists(st.tuples(st.integers(0, 60), st.sampled_from([3600.0, -7200.0, 3e8]))),
)
def test_any_history_gives_one_record_a_leg_with_true_durations(
    legs: list[dict[str, Any]], steps: list[tuple[int, float]]
) -> None:
    bus = Bus()
    begin = bus.now
    for time, _, body in history(legs):
        if isinstance(body, LegOffered):
            body = LegOffered(
                leg=body.leg,
                endpoint=body.endpoint,
                trace=body.trace,
                demanded_at=begin + body.demanded_at,
            )
        bus.now = begin + time
        # The wall clock is set while calls are up; durations must not notice.
        bus.step = sum(step for when, step in steps if when <= time)
        bus.put(body)
        bus.recorder.tick(bus.now, bus.at)
    tables = bus.tables
    assert sorted(leg.leg for leg in tables.legs.values()) == sorted(
        f"sip/{n}#{n}" for n in range(len(legs))
    )
    assert not tables.open
    assert bus.recorder.open_legs == 0
    assert {leg.call for leg in tables.legs.values()} == set(tables.calls)
    assert sum(call.legs for call in tables.calls.values()) == len(legs)
    for n, plan in enumerate(legs):
        leg = tables.leg(f"sip/{n}#{n}")
        answered = plan["answer"] is not None and plan["answer"] <= plan["length"]
        held, t = 0, plan["answer"] if answered else 0
        for gap, hold in plan["holds"] if answered else []:
            if t + gap + hold <= plan["length"]:
                t, held = t + gap + hold, held + hold
        talk = plan["length"] - plan["answer"] - held if answered else 0
        assert leg.ended_at - leg.offered_at == pytest.approx(plan["length"], abs=1e-5)
        assert leg.talk_s == pytest.approx(talk, abs=1e-6)
        assert leg.held_s == pytest.approx(held, abs=1e-6)
        assert (leg.answered_at is not None) == answered
        times = [leg.demanded_at, leg.offered_at, leg.answered_at or leg.offered_at, leg.ended_at]
        assert times == sorted(times)
        assert leg.cause == plan["cause"].value


@settings(max_examples=150, deadline=None)
@given(
    legs=st.lists(LEG, min_size=1, max_size=8),
    cut=st.integers(0, 60),
    lost=st.integers(0, 30),
    from_journal=st.booleans(),
    twice=st.booleans(),
)
def test_a_crash_at_any_event_leaves_one_record_a_leg(
    legs: list[dict[str, Any]], cut: int, lost: int, from_journal: bool, twice: bool
) -> None:
    """The database is `lost` operations behind when the gateway dies after `cut` events."""
    bus = Bus()
    puts: list[tuple[StoreOp, ...]] = []
    bus.recorder._sink = puts.append
    begin = bus.now
    for time, _, body in history(legs)[:cut]:
        while bus.now + 1 <= begin + time:
            bus.now += 1
            bus.recorder.tick(bus.now, bus.at)
        bus.now = begin + time
        bus.put(body)
    if not from_journal:
        # The database alone is up to date once a second.
        bus.recorder.tick(bus.now, bus.at)
    tables = bus.tables
    for ops in puts[: len(puts) - lost] if from_journal else puts:
        tables.put(ops)
    before = dict(tables.legs)
    for _ in range(1 + twice):
        recovery = Recovery("b", tables.put)
        recovery.finish(tables.unfinished(), bus.log if from_journal else ())
    begun = {e.body.leg for e in bus.log if isinstance(e.body, LegOffered | Dial)}
    over = {e.body.leg: e.mono for e in bus.log if isinstance(e.body, LegEnded)}
    assert sorted(leg.leg for leg in tables.legs.values()) == sorted(begun)
    assert not tables.open
    for leg in tables.legs.values():
        mono = leg.ended_at - WALL
        if leg.leg in over:
            assert leg.cause != "crashed"
            assert mono == pytest.approx(over[leg.leg], abs=1e-5)
        else:
            assert leg.cause == "crashed"
            assert bus.now - 5.0 <= mono <= bus.now + 1e-5
        if leg.id in before:
            assert before[leg.id] == leg
    assert {leg.call for leg in tables.legs.values()} == set(tables.calls)


def test_recovery_leaves_a_stored_record_with_its_media_alone() -> None:
    bus = Bus()
    bus.offer("sip/a#1")
    bus.recorder.media("sip/a#1", StreamStats(packets_received=77))
    bus.put(ended("sip/a#1"), after=5)
    Recovery("b", bus.tables.put).finish(bus.tables.unfinished(), bus.log)
    assert bus.tables.leg("sip/a#1").packets_received == 77


def test_two_crashed_runs_are_kept_apart() -> None:
    bus = Bus()
    bus.offer("fxs/1#1", trace="a")
    bus.put(LegAnswered(leg="fxs/1#1"), after=2)
    bus.now += 1000
    first, bus.log = bus.log, []
    bus.recorder = Recorder("b", bus.tables.put, run="run-2")
    bus.offer("fxs/1#1", trace="b")
    bus.put(LegAnswered(leg="fxs/1#1"), after=3)
    tables = Tables()
    tail = [None, *first, None, *bus.log]
    assert Recovery("b", tables.put).finish(Unfinished(), tail) == 2
    assert sorted(leg.ended_at - leg.offered_at for leg in tables.legs.values()) == [2.0, 3.0]


def test_a_state_of_another_version_is_forgotten() -> None:
    tables = Tables()
    tables.open["x"] = PutOpen(id="x", box="b", run="r", data='{"strange": 1}')
    assert Recovery("b", tables.put).finish(tables.unfinished(), ()) == 0
    assert not tables.open
