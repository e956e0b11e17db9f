"""The running gateway: real switchboard, journal and records; adapters that do as they are told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sqlite3
from pathlib import Path

import pytest

from gateway import dispatch, inbox
from gateway.adapters.loopback import Loopback, Port
from gateway.config import JournalSection
from gateway.core.actions import (
    Answer,
    Command,
    Dial,
    Hangup,
    Key,
    Unkey,
)
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.events import (
    AdapterLost,
    AdapterReady,
    CallRequested,
    CommandFinished,
    DigitPressed,
    EndpointChanged,
    FloorReleased,
    FloorRequested,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegOffered,
    LegRinging,
    StopRequested,
)
from gateway.core.routes import PanelCommand, Route
from gateway.errors import DeviceError, PeerError, Unsupported
from gateway.media.streams import NullSpec, StreamStats
from gateway.runtime import Gateway
from gateway.testing import until
from gateway.testing.clock import run_turned
from tests.fresh import descriptors
from tests.runtime_rig import TO_B, Obedient, Rig, section, written


async def test_a_call_from_end_to_end_and_its_traces(tmp_path: Path) -> None:
    ports = {"one": Port(number="1"), "two": Port(number="2")}
    adapters = {"loopback": section("loopback", Loopback, Loopback.Config(ports=ports))}
    rig = Rig(tmp_path, adapters=adapters)
    async with rig.running():
        caller = rig.far.call("one", "2")
        await rig.see(LegAnswered, leg=caller)
        callee = rig.bodies(Dial)[0].leg
        (members,) = rig.engine.bridges.values()
        assert set(members) == {
            rig.gateway.patchbay.stream(caller), rig.gateway.patchbay.stream(callee)
        }  # fmt: skip
        rig.gateway.patchbay.stream(callee).counters = StreamStats(packets_received=77)
        rig.far.hangup(Hangup(leg=caller))
        await rig.see(LegEnded, leg=callee)
        assert rig.engine.bridges == {}
        assert all(stream.closed for stream in rig.engine.streams)
        assert rig.gateway.switchboard.next_timeout() is None, "nobody waits for it any more"
    events = [e for e in written(tmp_path) if e.event and e.call]
    assert {e.trace for e in events} == {rig.bodies(LegOffered)[0].trace}
    assert [type(e.body).__name__ for e in events] == [
        "LegOffered", "LegRinging", "LegAnswered", "LegAnswered", "LegEnded", "LegEnded",
    ]  # fmt: skip
    with contextlib.closing(sqlite3.connect(tmp_path / "records.sqlite")) as db:
        legs = db.execute("select leg, packets_received from legs order by leg").fetchall()
    assert legs == [(caller, 0), (callee, 77)]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (DeviceError("no line"), Cause.OUT_OF_ORDER),
        (PeerError("nonsense"), Cause.PROTOCOL_ERROR),
        (Unsupported("cannot"), Cause.FACILITY_REJECTED),
        (ZeroDivisionError("oops"), Cause.TEMPORARY_FAILURE),
    ],
)
async def test_a_dial_that_raises_is_a_leg_that_ended(
    tmp_path: Path, error: Exception, cause: Cause
) -> None:
    rig = Rig(tmp_path, TO_B)
    async with rig.running():
        rig.far.raises[Dial] = error
        caller = rig.far.offer()
        ended = await rig.see(LegEnded, leg="far/b#1")
        assert ended.cause is cause
        assert str(error) in ended.detail
        await rig.see(LegEnded, leg=caller)
        assert bool(rig.log.of("error")) is isinstance(error, ZeroDivisionError)
    assert rig.gateway.legs == {}


@pytest.mark.parametrize("action", [Answer, Hangup])
async def test_other_actions_that_raise_do_not_leave_a_leg_hanging(
    tmp_path: Path, action: type
) -> None:
    rig = Rig(tmp_path, TO_B)
    async with rig.running():
        rig.far.raises[action] = RuntimeError("broken")
        caller = rig.far.offer()
        await rig.see(Dial)
        rig.far.host.emit(LegAnswered(leg="far/b#1"))
        if action is Hangup:
            await rig.see(LegAnswered, leg=caller)
            rig.far.host.emit(LegEnded(leg=caller, cause=Cause.NORMAL))
        await rig.see(LegEnded, leg=caller)
        await rig.see(LegEnded, leg="far/b#1")
    assert rig.gateway.legs == {}


async def test_only_one_end_and_only_ones_own_legs(tmp_path: Path) -> None:
    others = {"far": section("far", Obedient), "loopback": section("loopback", Loopback)}
    rig = Rig(tmp_path, TO_B, adapters=others)
    async with rig.running():
        host = rig.host
        leg = rig.far.offer()
        host.emit(LegEnded(leg=leg, cause=Cause.NORMAL))
        host.emit(LegEnded(leg=leg, cause=Cause.BUSY))
        host.emit(DigitPressed(leg=leg, digit="5"))
        host.emit(LegRinging(leg="loopback/echo#1"))
        host.emit(InputChanged(endpoint="loopback/echo", input="x", value=1))
        host.set_endpoint(Endpoint(id="loopback/echo", label="stolen"))
        host.emit(AdapterLost(adapter="loopback", reason="lie"))
        await rig.see(LegEnded)
        await asyncio.sleep(0)
        assert [event.cause for event in rig.bodies(LegEnded, leg=leg)] == [Cause.NORMAL]
        assert host.counters == {"ended_twice": 1, "after_end": 1, "foreign_events": 4}
        assert rig.gateway.places["loopback/echo"][0].label == "loopback echo"
        assert rig.bodies(AdapterLost) == []


async def test_a_dial_to_an_adapter_that_is_down(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TO_B)
    rig.far.fails_at_start = DeviceError("no such device")
    async with rig.running():
        await rig.see(AdapterLost)
        rig.gateway.accept(CallRequested(origin="far/a", target="far/b:1", trace="t"), None)
        lost = rig.bodies(EndpointChanged)[-1].endpoint
        assert (lost.condition, lost.reason) == (Condition.DOWN, "no such device")
    assert rig.far.got == []


def test_a_lost_adapter_ends_its_legs_and_comes_back_later_each_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TO_B)

    async def main() -> None:
        async with rig.running():
            caller = rig.far.offer()
            await rig.see(Dial)
            rig.far.host.emit(LegAnswered(leg="far/b#1"))
            rig.far.host.open_stream("far/b#1", NullSpec())
            await rig.see(LegAnswered, leg=caller)
            safe = rig.far.safe
            rig.far.fails_at_start = DeviceError("still unplugged")
            rig.far.breaks.set_exception(DeviceError("unplugged"))
            await rig.see(AdapterLost, reason="unplugged")
            assert rig.far.safe > safe
            for leg in (caller, "far/b#1"):
                assert (await rig.see(LegEnded, leg=leg)).cause is Cause.ADAPTER_LOST
            assert rig.engine.streams[0].closed
            assert rig.gateway.places["far/a"][0].condition is Condition.DOWN
            # On the turned clock: ten attempts, none earlier than 1 s, none later than 60 s.
            await rig.until(lambda: len(rig.far.started) == 11, within_s=1000, step_s=0.5)
            rig.far.fails_at_start = None
            await rig.until(lambda: len(rig.bodies(AdapterReady)) == 2, within_s=100, step_s=0.5)
            assert rig.gateway.places["far/a"][0].condition is Condition.UP

    run_turned(main())
    waits = [b - a for a, b in zip(rig.far.started, rig.far.started[1:], strict=False)]
    assert all(1.0 <= wait <= 60.1 for wait in waits)
    assert waits[0] < 2.0
    assert waits[-1] > 50.0
    assert all(later > 0.9 * earlier for earlier, later in itertools.pairwise(waits))
    lost = [line for line in rig.log.of("warning") if line.startswith("adapter lost")]
    back = [line for line in rig.log.of("info") if line.startswith("adapter is back")]
    assert (len(lost), len(back)) == (1, 1)


@pytest.mark.parametrize("way", ["returns", "raises", "its task raises"])
async def test_every_way_to_end_counts_as_lost(tmp_path: Path, way: str) -> None:
    rig = Rig(tmp_path)
    async with rig.running():
        if way == "returns":
            rig.far.breaks.set_result(None)
        elif way == "raises":
            rig.far.breaks.set_exception(KeyError("bug"))
        else:

            async def fail() -> None:
                raise DeviceError("the reader broke")

            rig.host.create_task(fail(), name="reader")
        lost = await rig.see(AdapterLost)
    assert lost.reason == {
        "returns": "run returned",
        "raises": "KeyError: 'bug'",
        "its task raises": "the reader broke",
    }[way]  # fmt: skip


async def test_a_lease_is_renewed_while_the_floor_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "RENEW_S", 0.01)
    rig = Rig(tmp_path, Route(name="radio", called="5", targets=("far/radio",)))
    async with rig.running():
        caller = rig.far.offer(called="5")
        await rig.see(Dial)
        rig.host.emit(LegAnswered(leg="far/radio#1"))
        await rig.see(LegAnswered, leg=caller)
        rig.host.emit(FloorRequested(leg=caller))
        await rig.until(lambda: len(rig.far.all(Key)) >= 5)
        assert len(rig.bodies(Key)) == 1  # renewals are not news
        rig.host.emit(FloorReleased(leg=caller))
        await rig.see(Unkey)
        n = len(rig.far.all(Key))
        await asyncio.sleep(0.05)
        assert len(rig.far.all(Key)) == n


async def test_pins_are_not_written_down(tmp_path: Path) -> None:
    route = Route(
        name="arm",
        called="8",
        command=PanelCommand(endpoint="far/panel", verb="ARM_AWAY", pass_code=True),
        pins={"guard": "47110815"},
    )
    rig = Rig(tmp_path, route, journal=JournalSection(keep_digits=True))
    async with rig.running():
        caller = rig.far.offer(called="8")
        await rig.see(LegAnswered, leg=caller)
        for digit in "47110815#":
            rig.host.emit(DigitPressed(leg=caller, digit=digit))
        await rig.see(Command)
        assert rig.far.all(Command)[0].code == "47110815"
        rig.host.emit(CommandFinished(command=rig.far.all(Command)[0].command, ok=True))
    assert {event.digit for event in rig.bodies(DigitPressed)} == {"?"}
    written = b"".join(file.read_bytes() for file in (tmp_path / "journal").iterdir())
    assert b"DigitPressed" in written
    assert b"47110815" not in written


async def test_a_full_queue_refuses_calls_and_drops_what_only_describes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, TO_B)
    async with rig.running():
        monkeypatch.setattr(inbox, "QUEUE", 10)
        monkeypatch.setattr(inbox, "INPUTS", 20)
        leg = rig.far.offer()
        for value in range(100):
            rig.host.emit(InputChanged(endpoint="far/panel", input="x", value=value))
        late = rig.far.offer()
        rig.host.emit(LegEnded(leg=leg, cause=Cause.CANCELLED))
        assert rig.far.all(Hangup)[0].cause is Cause.CONGESTION
        await rig.see(LegEnded, leg=leg)
        assert rig.bodies(LegOffered, leg=late) == []
        assert rig.gateway.counters["calls_refused_overload"] == 1
        assert rig.gateway.counters["events_dropped"] == 81
        assert late not in rig.gateway.legs


async def test_a_fault_in_the_switchboard_costs_one_call_only(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TO_B)
    async with rig.running():
        healthy = rig.far.offer()
        await rig.see(Dial)
        rig.gateway.switchboard.table = None  # type: ignore[assignment]
        broken = rig.far.offer()
        ended = await rig.see(LegEnded, leg=broken)
        assert ended.cause is Cause.TEMPORARY_FAILURE
        assert rig.gateway.counters["switchboard_failed"] == 1
        assert healthy in rig.gateway.legs
        rig.host.emit(LegAnswered(leg="far/b#1"))
        await rig.see(LegAnswered, leg=healthy)


async def test_commands_to_nowhere_are_answered(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.far.raises[Command] = Unsupported("no")
    async with rig.running():
        for n, endpoint in enumerate(("far/panel", "far/nowhere")):
            rig.gateway.turns.carry_out(
                Command(command=str(n), endpoint=endpoint, verb="ARM_AWAY"), 0.0, 0.0
            )
            assert (await rig.see(CommandFinished, command=str(n))).ok is False


async def test_stopping_lets_calls_finish_and_then_ends_them(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TO_B)
    async with rig.running():
        caller = rig.far.offer()
        await rig.see(Dial)
        rig.far.host.emit(LegAnswered(leg="far/b#1"))
        await rig.see(LegAnswered, leg=caller)
        rig.gateway.stop()
        await rig.see(StopRequested)
        refused = rig.far.offer()
        await rig.see(LegEnded, leg=refused)
        assert caller in rig.gateway.legs
        await asyncio.wait({rig.task}, timeout=30)
        assert rig.task.done()
    assert (await rig.see(LegEnded, leg=caller)).cause is Cause.SHUTDOWN
    assert rig.far.safe >= 1


async def test_outputs_are_safe_also_when_the_loop_of_ours_crashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)

    async def crash(self: Gateway) -> None:
        raise MemoryError("simulated")

    monkeypatch.setattr(Gateway, "_beat", crash)
    with pytest.raises(MemoryError):
        async with rig.running():
            await asyncio.wait({rig.task}, timeout=30)
    assert rig.far.safe >= 1


async def test_sigterm_ends_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with rig.running():
        rig.gateway.handle_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait({rig.task}, timeout=30)
        assert rig.task.done()


async def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        systemd.setblocking(False)
        said: list[str] = []

        def hear() -> int:
            with contextlib.suppress(BlockingIOError):
                while True:
                    said.append(systemd.recv(100).decode())
            return said.count("WATCHDOG=1")

        async with Rig(tmp_path).running():
            await until(lambda: hear() >= 4, "it feeds the dog")
        hear()
    assert "READY=1" in said
    assert said[-1] == "STOPPING=1" or said[-2:] == ["STOPPING=1", "WATCHDOG=1"]


async def test_a_slow_subscriber_loses_the_oldest(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with rig.running():
        feed = rig.host.subscribe(maximum=3)
        for value in range(10):
            rig.host.emit(InputChanged(endpoint="far/panel", input="x", value=value))
        await rig.until(lambda: len(rig.bodies(InputChanged)) == 10)
        feed.close()
        assert [envelope.body.value async for envelope in feed] == [7, 8, 9]
        assert feed.dropped == 7


async def test_emit_from_another_thread(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with rig.running():
        event = InputChanged(endpoint="far/panel", input="x", value=1)
        await asyncio.to_thread(rig.host.emit_threadsafe, event)
        await rig.see(InputChanged)


def test_nothing_is_opened_by_the_constructor(tmp_path: Path) -> None:
    before = descriptors(tidy=True)
    rig = Rig(tmp_path)
    assert descriptors() == before
    assert rig
    assert list(tmp_path.iterdir()) == []
