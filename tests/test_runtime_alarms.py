"""Alarms through a whole gateway: written first, carried on by the next run, never drowned."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway import inbox, listening, runtime, troubles
from gateway.config import GatewaySection, JournalSection
from gateway.core.actions import (
    CloseAlarm,
    Dial,
    OpenAlarm,
    Record,
)
from gateway.core.causes import Cause
from gateway.core.events import (
    AcknowledgeRequested,
    AlarmCleared,
    AlarmRaised,
    InputChanged,
    LegAnswered,
    LegEnded,
    Severity,
)
from gateway.core.routes import Route, Trigger
from gateway.media.engine import Engine
from gateway.media.streams import NullSpec, RecordEnded
from gateway.records.database import Database
from gateway.records.tables import CallRecord
from gateway.reload import Reloader
from gateway.replay.player import Player
from gateway.replay.tape import Tape
from tests.runtime_rig import FIRE, TO_B, Rig, raise_fire, written
from tests.small_disk import SmallDisk


async def test_an_alarm_is_on_disk_before_anybody_is_called(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FIRE)
    on_disk: list[str] = []
    async with rig.running():
        rig.far.on_dial = lambda action: on_disk.extend(
            type(e.body).__name__ for e in written(tmp_path)
        )
        raise_fire(rig)
        await rig.see(Dial)
        await rig.see(OpenAlarm)
    assert "AlarmRaised" in on_disk


async def test_a_dead_disk_does_not_silence_an_alarm(tmp_path: Path) -> None:
    blocked = tmp_path / "journal-is-a-file"
    blocked.write_text("")
    section_ = JournalSection(directory=str(blocked))
    rig = Rig(tmp_path, FIRE, journal=section_)
    async with rig.running():
        storage = await rig.see(AlarmRaised, endpoint="gateway/journal")
        assert storage.kind == "fault"
        assert "journal" in storage.text
        raise_fire(rig)
        await rig.see(Dial, endpoint="far/a")


def _incomplete(rig: Rig) -> list[str]:
    return [line for line in rig.log.of("error") if line.startswith("recording is incomplete")]


async def _call(rig: Rig) -> str:
    """Begin a call that is recorded; the leg that is."""
    n = len(rig.far.all(Dial))
    leg = rig.far.offer()
    await rig.until(lambda: len(rig.far.all(Dial)) > n)
    other = rig.far.all(Dial)[-1].leg
    for each in (leg, other):
        rig.host.open_stream(each, NullSpec())
    rig.host.emit(LegAnswered(leg=other))
    await rig.until(lambda: len(rig.bodies(Record)) > n)
    return leg


async def test_recordings_of_a_full_disk_are_an_alarm_until_one_is_whole(
    tmp_path: Path, small_disk: SmallDisk
) -> None:
    folder = small_disk.path / "recordings"
    box = GatewaySection(name="box", data_dir=str(tmp_path), drain_s=1, recordings_dir=str(folder))
    route = msgspec.structs.replace(TO_B, record=True)
    rig = Rig(tmp_path, route, engine=Engine(max_streams=8, realtime=False), gateway=box)
    async with rig.running():
        ballast = small_disk.fill()
        for n in (1, 2):
            leg = await _call(rig)
            # Nothing but the hang-up ends the recording.
            rig.host.emit(LegEnded(leg=leg, cause=Cause.NORMAL))
            await rig.until(lambda n=n: len(_incomplete(rig)) == n)
        raised = await rig.see(AlarmRaised, endpoint="gateway/recordings")
        assert "No space left" in raised.text
        ballast.unlink()
        leg = await _call(rig)
        await rig.until(lambda: any(each.stat().st_size > 44 for each in folder.glob("*.wav")))
        assert not rig.bodies(AlarmCleared)
        rig.host.emit(LegEnded(leg=leg, cause=Cause.NORMAL))
        await rig.see(AlarmCleared, endpoint="gateway/recordings")
        assert len(rig.bodies(AlarmRaised, endpoint="gateway/recordings")) == 1
        # The records of the calls say which recordings lack something, and why.
        await rig.until(lambda: len(_calls(rig)) == 3)
        partial = [each.partial for each in _calls(rig)]
        assert ["No space left" in each for each in partial] == [True, True, False]
        database = Database(rig.gateway.configuration.records_url, read_only=True)
        legs = {each.recording: each.partial for each in database.legs() if each.recording}
        database.close()
        assert sorted(legs.values()) == sorted(partial)
        # Once is not for ever.
        small_disk.fill()
        leg = await _call(rig)
        rig.host.emit(LegEnded(leg=leg, cause=Cause.NORMAL))
        await rig.until(lambda: len(rig.bodies(AlarmRaised, endpoint="gateway/recordings")) == 2)


def _calls(rig: Rig) -> list[CallRecord]:
    """Records of calls, oldest first."""
    database = Database(rig.gateway.configuration.records_url, read_only=True)
    try:
        return sorted(database.calls(), key=lambda each: each.demanded_at)
    finally:
        database.close()


def _told(rig: Rig, **fields: Any) -> None:
    for told in rig.engine.on_recorded:
        told(RecordEnded(path="/a.wav", duration_s=3.0, **fields))


async def test_a_recording_with_holes_is_not_whole(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FIRE)
    async with rig.running():
        _told(rig, dropped_s=0.5)
        raised = await rig.see(AlarmRaised, endpoint="gateway/recordings")
        assert "the disk is too slow" in raised.text
        _told(rig, error="No space left on device")
        _told(rig)
        await rig.see(AlarmCleared, endpoint="gateway/recordings")
        assert len(rig.bodies(AlarmRaised, endpoint="gateway/recordings")) == 1


async def test_an_alarm_in_its_middle_is_carried_on_by_the_next_run(tmp_path: Path) -> None:
    first = Rig(tmp_path, FIRE)
    async with first.running():
        raise_fire(first)
        await first.see(Dial)
        await first.until(lambda: any(type(e.body) is OpenAlarm for e in written(tmp_path)))
    second = Rig(tmp_path, FIRE)
    async with second.running():
        carried = await second.see(AlarmRaised, alarm="zone 1")
        assert carried.trace == first.bodies(AlarmRaised)[0].trace
        await second.see(Dial, endpoint="far/a")


async def test_all_alarms_of_a_panel_are_carried_on_when_it_tells_some_of_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zones = [f"zone {n}" for n in range(6)]

    def tell(rig: Rig, zone: str) -> None:
        gateway = rig.gateway
        alarm = AlarmRaised(
            endpoint="far/panel", alarm=zone, kind="fire", trace=gateway.mint_id(),
            raised_at=gateway.now(),
        )  # fmt: skip
        gateway.accept(alarm, None)

    first = Rig(tmp_path, FIRE)
    async with first.running():
        for zone in zones:
            tell(first, zone)
        for zone in zones:
            await first.see(OpenAlarm, alarm=zone)
        await first.until(
            lambda: sum(type(e.body) is OpenAlarm for e in written(tmp_path)) == len(zones)
        )
    second = Rig(tmp_path, FIRE)
    inbox_ = second.gateway.inbox
    begin = inbox_.carry_on

    def begin_behind_others(told: Any) -> None:
        # A broker brings these again just before: the last two wait behind the one ahead of them.
        for zone in zones[3:]:
            tell(second, zone)
        begin(told)

    monkeypatch.setattr(inbox_, "carry_on", begin_behind_others)
    async with second.running():
        for zone in zones:
            await second.see(OpenAlarm, alarm=zone)
        assert len(second.bodies(AlarmRaised)) == len(zones), "each once"
        await second.until(lambda: not inbox_._held and not inbox_._n_held)


async def test_what_was_heard_of_a_call_is_over_with_the_run(tmp_path: Path) -> None:
    alarm = {"endpoint": listening.PLACE, "alarm": "far/a one-way"}
    first = Rig(tmp_path)
    async with first.running():
        raised = AlarmRaised(kind="audio", trace=first.gateway.mint_id(), raised_at=0.0, **alarm)
        first.gateway.accept(raised, None)
        await first.until(lambda: any(type(e.body) is AlarmRaised for e in written(tmp_path)))
    second = Rig(tmp_path)
    async with second.running():
        await second.see(AlarmCleared, **alarm)
        assert not second.bodies(AlarmRaised)
    third = Rig(tmp_path)
    async with third.running():
        assert not third.bodies(AlarmCleared), "the journal knows"


async def test_events_behind_a_held_alarm_keep_their_order(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FIRE)
    async with rig.running():
        raise_fire(rig)
        for value in range(3):
            rig.host.emit(InputChanged(endpoint="far/panel", input="x", value=value))
        await rig.until(lambda: len(rig.bodies(InputChanged)) == 3)
    kinds = [type(e.body) for e in rig.seen if isinstance(e.body, AlarmRaised | InputChanged)]
    assert kinds == [AlarmRaised, InputChanged, InputChanged, InputChanged]


async def test_what_waits_behind_an_alarm_is_not_left_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "ALARM_JOURNAL_S", 60.0)
    rig = Rig(tmp_path, FIRE)
    write = rig.gateway.write_down

    def slow(*alarm: Any) -> tuple[str, Future[None]]:
        return write(*alarm)[0], Future()

    monkeypatch.setattr(rig.gateway, "write_down", slow)
    async with rig.running():
        raise_fire(rig)
        rig.host.emit(InputChanged(endpoint="far/panel", input="x", value=1.0))
        rig.host.emit(AlarmCleared(endpoint="far/panel", alarm="zone 1"))
    kinds = [type(each.body) for each in written(tmp_path)]
    assert [kinds.count(each) for each in (AlarmRaised, InputChanged, AlarmCleared)] == [1, 1, 1]


PUMP = Route(name="pump", on=Trigger.INPUT, input="level", above=3.0, targets=("far/a",))
BUTTON = Route(
    name="button", on=Trigger.INPUT, input="call", above=0.5, targets=("far/a",), acknowledge="1"
)


def _set(rig: Rig, input_: str, value: float, **fields: Any) -> None:
    rig.host.emit(InputChanged(endpoint="far/panel", input=input_, value=value, **fields))


async def test_an_input_that_begins_an_alarm_is_on_disk_before_anybody_is_called(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, PUMP)
    on_disk: list[Any] = []
    async with rig.running():
        rig.far.on_dial = lambda action: on_disk.extend(e.body for e in written(tmp_path))
        _set(rig, "level", 2.0)
        _set(rig, "level", 3.5)
        _set(rig, "level", 4.0)  # above still: no alarm of its own
        await rig.see(Dial)
        await rig.until(lambda: len(rig.bodies(InputChanged)) == 3)
        values = [(each.value, each.raised_at is not None) for each in rig.bodies(InputChanged)]
    assert values[:2] == [(2.0, False), (3.5, True)]
    begun = [each for each in on_disk if isinstance(each, InputChanged) and each.raised_at]
    assert [each.value for each in begun] == [3.5]
    assert begun[0].trace == rig.bodies(OpenAlarm)[0].trace


@pytest.mark.parametrize("again", [None, 3.5, 1.0])
async def test_an_alarm_of_an_input_is_carried_on_by_the_next_run(
    tmp_path: Path, again: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Rig(tmp_path, PUMP)
    async with first.running():
        _set(first, "level", 3.5)
        await first.see(Dial)
        await first.until(lambda: any(type(e.body) is OpenAlarm for e in written(tmp_path)))
        trace = first.bodies(OpenAlarm)[0].trace
    second = Rig(tmp_path, PUMP)
    monkeypatch.setattr(runtime, "RESUME_S", 0.2)
    if again is not None:
        told = second.gateway.inbox.carry

        def tell_again(alarms: Any) -> None:
            told(alarms)
            # As an adapter does that is quicker than the others.
            second.gateway.accept(
                InputChanged(endpoint="far/panel", input="level", value=again), None
            )

        monkeypatch.setattr(second.gateway.inbox, "carry", tell_again)
    async with second.running():
        opened = await second.see(OpenAlarm, alarm="level")
        assert opened.trace == trace
        if again == 1.0:
            # The level has gone down while nobody looked: told, and over.
            closed = await second.see(CloseAlarm, alarm="level")
            assert closed.outcome == "cleared"
        else:
            await second.see(Dial, endpoint="far/a")
            assert len(second.bodies(OpenAlarm)) == 1
    third = Rig(tmp_path, PUMP)
    async with third.running():
        if again == 1.0:
            await asyncio.sleep(0.05)
            assert third.bodies(OpenAlarm) == []


async def test_a_button_that_was_let_go_is_carried_on_all_the_same(tmp_path: Path) -> None:
    first = Rig(tmp_path, BUTTON)
    async with first.running():
        _set(first, "call", 1.0)
        _set(first, "call", 0.0)
        await first.see(Dial)
        await first.until(lambda: any(type(e.body) is OpenAlarm for e in written(tmp_path)))
    second = Rig(tmp_path, BUTTON)
    async with second.running():
        await second.see(Dial, endpoint="far/a")
        second.gateway.emit(AcknowledgeRequested(endpoint="far/panel", alarm="call", by="me"))
        await second.see(CloseAlarm, outcome="acknowledged")
        await second.until(lambda: any(type(e.body) is CloseAlarm for e in written(tmp_path)))
    third = Rig(tmp_path, BUTTON)
    async with third.running():
        await asyncio.sleep(0.05)
        assert third.bodies(Dial) == []


async def test_an_alarm_of_an_input_whose_route_is_gone_is_over(tmp_path: Path) -> None:
    first = Rig(tmp_path, PUMP)
    async with first.running():
        _set(first, "level", 3.5)
        await first.see(Dial)
        await first.until(lambda: any(type(e.body) is OpenAlarm for e in written(tmp_path)))
    second = Rig(tmp_path)
    async with second.running():
        closed = await second.see(CloseAlarm, alarm="level")
        assert closed.outcome == "unrouted"
        await second.until(lambda: any(type(e.body) is CloseAlarm for e in written(tmp_path)))
    # Also when the route is back one day.
    third = Rig(tmp_path, PUMP)
    async with third.running():
        await third.until(lambda: not third.gateway.inbox._carried)
        await asyncio.sleep(0.05)
        assert third.bodies(Dial) == []
    outcomes = [Player(run).play() for run in Tape(tmp_path / "journal").runs()]
    assert [outcome.difference for outcome in outcomes] == [None, None, None, None]


async def test_an_alarm_that_no_route_took_is_given_to_new_routes(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with rig.running():
        raise_fire(rig)
        await rig.see(AlarmRaised, alarm="zone 1")
        await rig.until(lambda: rig.gateway.switchboard.alarms)
        configuration = msgspec.structs.replace(rig.gateway.configuration, routes=(FIRE,))
        assert (await Reloader(rig.gateway).apply(configuration)).applied
        dialled = await rig.see(Dial, endpoint="far/a")
        assert dialled.trace == rig.bodies(AlarmRaised)[0].trace
    # What the reload did is in the journal where a replay finds it.
    outcomes = [Player(run).play() for run in Tape(tmp_path / "journal").runs()]
    assert [outcome.difference for outcome in outcomes] == [None, None]


async def test_a_flood_of_alarms_drops_the_least_severe_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, FIRE)
    async with rig.running():
        monkeypatch.setattr(inbox, "ALARMS", 10)
        monkeypatch.setattr(inbox, "HELD", 5)
        monkeypatch.setattr(troubles, "FLOOD_S", 0.0)
        for number in range(40):
            severity = Severity(1 + number % 4)
            rig.host.emit(
                AlarmRaised(
                    endpoint="far/panel", alarm=f"{severity.name} {number}", severity=severity,
                    trace="t", raised_at=rig.gateway.now(),
                )
            )  # fmt: skip
        flood = await rig.see(AlarmRaised, endpoint="gateway/alarms")
        assert flood.alarm == "flood"
        await rig.see(AlarmCleared, endpoint="gateway/alarms")
        taken = [each.alarm for each in rig.bodies(AlarmRaised, endpoint="far/panel")]
        # Ten of each severity came; all of the highest were kept.
        assert [name for name in taken if name.startswith("CRITICAL")] == [
            f"CRITICAL {number}" for number in range(3, 40, 4)
        ]
        assert rig.gateway.counters["alarms_dropped"] == 40 - len(taken) > 0
        assert rig.gateway.counters["alarms_not_awaited"] > 0


@pytest.mark.parametrize("standing", [True, False])
async def test_an_input_that_is_acknowledged_stays_so_while_it_stands(
    tmp_path: Path, standing: bool
) -> None:
    first = Rig(tmp_path, PUMP)
    async with first.running():
        _set(first, "level", 3.5)
        await first.see(Dial)
        first.gateway.emit(AcknowledgeRequested(endpoint="far/panel", alarm="level", by="me"))
        await first.see(CloseAlarm, outcome="acknowledged")
        _set(first, "level", 4.0)
        await first.until(lambda: len(first.bodies(InputChanged)) == 2)
    second = Rig(tmp_path, PUMP)
    async with second.running():
        _set(second, "level", 3.7, standing=standing)
        if standing:
            closed = await second.see(CloseAlarm, alarm="level")
            assert (closed.outcome, closed.by) == ("acknowledged", "me")
            assert second.bodies(Dial) == []
            _set(second, "level", 1.0)
            _set(second, "level", 5.0)
        await second.see(Dial, endpoint="far/a")
    outcomes = [Player(run).play() for run in Tape(tmp_path / "journal").runs()]
    assert [outcome.difference for outcome in outcomes] == [None] * len(outcomes)


async def test_an_input_that_became_a_matter_for_another_route_is_told(tmp_path: Path) -> None:
    flood = Route(
        name="flood", on=Trigger.INPUT, input="level", above=9.0, targets=("far/b:112",)
    )  # fmt: skip
    first = Rig(tmp_path, flood, PUMP)
    async with first.running():
        _set(first, "level", 3.5)
        await first.see(Dial, endpoint="far/a")
        first.gateway.emit(AcknowledgeRequested(endpoint="far/panel", alarm="level", by="me"))
        await first.see(CloseAlarm, outcome="acknowledged")
    second = Rig(tmp_path, flood, PUMP)
    async with second.running():
        _set(second, "level", 9.5, standing=True)
        await second.see(Dial, endpoint="far/b")


@pytest.mark.parametrize("kind", ["fire", "fault"])
async def test_another_kind_of_alarm_is_told(tmp_path: Path, kind: str) -> None:
    def raise_(rig: Rig, kind: str, *, standing: bool) -> None:
        rig.host.emit(
            AlarmRaised(
                endpoint="far/panel", alarm="1", kind=kind, severity=Severity.MAJOR,
                trace=rig.host.new_trace(), raised_at=rig.host.now(), standing=standing,
            )
        )  # fmt: skip

    first = Rig(tmp_path, FIRE)
    async with first.running():
        raise_(first, "fault", standing=False)
        await first.see(Dial)
        first.gateway.emit(AcknowledgeRequested(endpoint="far/panel", alarm="1", by="me"))
        await first.see(CloseAlarm, outcome="acknowledged")
    second = Rig(tmp_path, FIRE)
    async with second.running():
        # Once by what the journal knows, and once by what the switchboard does.
        raise_(second, "fault", standing=True)
        await second.see(CloseAlarm, outcome="acknowledged")
        assert second.bodies(Dial) == []
        raise_(second, kind, standing=True)
        if kind == "fire":
            await second.see(Dial)
        else:
            await second.until(lambda: len(second.bodies(CloseAlarm)) == 2)
            assert second.bodies(Dial) == []
    third = Rig(tmp_path, FIRE)
    if kind == "fault":
        async with third.running():
            raise_(third, "fire", standing=True)
            await third.see(Dial)
