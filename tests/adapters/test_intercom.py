"""The intercom adapter keeps every promise on the call-point bus, and speech goes both ways."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway._codecs import g711
from gateway.adapters.intercom import Intercom
from gateway.core.actions import Answer, Hangup, Key, SetOutput, Unkey
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Duplex
from gateway.core.events import (
    DigitPressed,
    EndpointChanged,
    FloorReleased,
    FloorRequested,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegOffered,
    LegRinging,
    Quality,
)
from gateway.errors import DeviceError, Unsupported
from gateway.lab.intercom_bus import CallPoint, CallPointBus, sealed, tone
from gateway.media.engine import Engine
from gateway.testing import PROMISES, Scenario, TestHost, check_adapter, until
from gateway.testing.audio import level_at, read_wav, write_wav
from gateway.testing.audio import tone as samples
from gateway.typed import ConfigErrors

STATIONS = {"km3": {"address": 3, "calls": "600", "number": "103"}, "km4": {"address": 4}}


def steady(samples: Sequence[int], hz: float) -> float:
    """Level of a frequency, as the middle of all pieces of 100 ms: a slipped block is no tone."""
    pieces = [samples[at : at + 800] for at in range(0, len(samples) - 799, 800)]
    return statistics.median(level_at(piece, hz) for piece in pieces)


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine(max_streams=8, ports=(31300, 31399), realtime=False)
    await made.start()
    yield made
    await made.stop()


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[CallPointBus]:
    async with CallPointBus(CallPoint(3), CallPoint(4)) as bus:
        yield bus


@contextlib.asynccontextmanager
async def running(
    bus: CallPointBus, engine: Any = None, **config: Any
) -> AsyncIterator[tuple[TestHost, Any]]:
    host = TestHost("intercom", engine=engine)
    adapter = host.make(
        Intercom, {"port": bus.path, "stations": STATIONS, "reopen_s": 0.2, **config}
    )
    async with host.running():
        for name in STATIONS if "stations" not in config else ():
            await until(lambda name=name: _up(host, name))
        yield host, adapter


def _up(host: TestHost, name: str) -> bool:
    return host.endpoints[f"intercom/{name}"].condition is Condition.UP


async def test_promises(engine: Engine) -> None:
    async def answer(adapter: Any, bus: CallPointBus) -> None:
        await until(lambda: bus.stations[3].state == "ringing")
        bus.stations[3].answer()

    scenario = Scenario(
        name="intercom",
        dial="intercom/km3",
        world=world,
        configure=lambda bus: {"port": bus.path},
        offer=lambda adapter, bus: bus.stations[4].call("600"),
        answer=answer,
        garbage=lambda adapter, bus: bus.write(b"\xaa\x55\x03\x81\x01\x01\x00\xff\xffnonsense"),
        engine=engine,
    )
    report = await check_adapter(Intercom, {"stations": STATIONS}, scenario)
    assert report.kept == list(PROMISES)


async def test_a_station_calls_talks_in_turns_and_hangs_up(engine: Engine, tmp_path: Path) -> None:
    station = CallPoint(3, microphone=tone(1000))
    spoken = write_wav(tmp_path / "spoken.wav", samples(440, 6.0, dbm0=-10))
    async with CallPointBus(station, CallPoint(4)) as bus, running(bus, engine) as (host, adapter):
        station.call()
        offered = await host.wait_for(LegOffered)
        assert (offered.endpoint, offered.called, offered.calling) == (
            "intercom/km3", "600", "103",
        )  # fmt: skip
        leg = offered.leg
        adapter.answer(Answer(leg=leg))
        await host.wait_for(LegAnswered, leg=leg)
        assert station.state == "talking"
        stream = host.stream(leg)
        stream.play_file(str(spoken))
        await asyncio.sleep(0.3)
        assert not station.heard, "the gateway speaks without being keyed"

        adapter.key(Key(leg=leg))
        await asyncio.sleep(1.5)
        adapter.unkey(Unkey(leg=leg))
        await asyncio.sleep(0.1)
        n_heard = len(station.heard)
        assert n_heard == pytest.approx(12000, abs=1600)
        heard = memoryview(g711.decode_ulaw(bytes(station.heard[1600:9600]))).cast("h")
        assert steady(heard, 440) == pytest.approx(-10, abs=1)
        assert steady(heard, 1000) < -40

        stream.record(str(tmp_path / "got.wav"))
        station.press()
        await host.wait_for(FloorRequested, leg=leg)
        await asyncio.sleep(1.5)
        station.release()
        await host.wait_for(FloorReleased, leg=leg)
        stream.stop_record()
        await host.recorded(tmp_path / "got.wav")
        assert len(station.heard) == n_heard
        got = read_wav(tmp_path / "got.wav")[0][0][1600:9600]
        # A peak of 8000 is -9.1 dBm0.
        assert steady(got, 1000) == pytest.approx(-9.1, abs=1)
        assert steady(got, 440) < -40

        station.digit("5")
        await host.wait_for(DigitPressed, leg=leg, digit="5")
        station.hang_up()
        ended = await host.wait_for(LegEnded, leg=leg)
        assert ended.cause is Cause.NORMAL
        assert len(host.of(LegOffered)) == len(host.of(DigitPressed)) == 1
        assert host.counters["checksum"] == host.counters["noise"] == 0
    assert host.refused == []


async def test_full_duplex_hears_and_is_heard_at_once(engine: Engine, tmp_path: Path) -> None:
    station = CallPoint(3, full_duplex=True, microphone=tone(700))
    stations = {"km3": {"address": 3, "duplex": "full"}}
    spoken = write_wav(tmp_path / "spoken.wav", samples(1300, 6.0, dbm0=-10))
    async with (
        CallPointBus(station) as bus,
        running(bus, engine, stations=stations, baud=230400) as (host, _),
    ):
        assert host.endpoints["intercom/km3"].duplex is Duplex.FULL
        leg = host.dial("intercom/km3")
        await host.wait_for(LegRinging, leg=leg)
        station.answer()
        await host.wait_for(LegAnswered, leg=leg)
        host.stream(leg).play_file(str(spoken))
        host.stream(leg).record(str(tmp_path / "got.wav"))
        await asyncio.sleep(2.0)
        host.stream(leg).stop_record()
        await host.recorded(tmp_path / "got.wav")
        got = read_wav(tmp_path / "got.wav")[0][0][3200:11200]
        heard = memoryview(g711.decode_ulaw(bytes(station.heard[3200:11200]))).cast("h")
        assert steady(got, 700) == pytest.approx(-9.1, abs=1)
        assert steady(got, 1300) < -40
        assert steady(heard, 1300) == pytest.approx(-10, abs=1)
        assert steady(heard, 700) < -40


async def test_a_page_is_heard_by_its_group_and_by_nobody_in_a_call(
    engine: Engine, tmp_path: Path
) -> None:
    near, far, other = CallPoint(3, groups=frozenset({240})), CallPoint(4), CallPoint(5)
    near2 = CallPoint(6, groups=frozenset({240}), state="talking")
    spoken = write_wav(tmp_path / "spoken.wav", samples(440, 3.0, dbm0=-10))
    async with (
        CallPointBus(near, far, other, near2) as bus,
        running(bus, engine, zones={"portal": {"address": 240}, "all": {"address": 255}}) as (
            host, _,
        ),
    ):  # fmt: skip
        assert host.endpoints["intercom/portal"].duplex is Duplex.LISTEN
        leg = host.dial("intercom/portal")
        await host.wait_for(LegAnswered, leg=leg)
        # The line has room for one conversation.
        second = host.dial("intercom/km4")
        assert host.of(LegEnded, leg=second)[0].cause is Cause.NO_CIRCUIT
        host.stream(leg).play_file(str(spoken))
        await asyncio.sleep(1.5)
        host.adapter.hangup(Hangup(leg=leg))
        heard = memoryview(g711.decode_ulaw(bytes(near.heard[1600:9600]))).cast("h")
        assert steady(heard, 440) == pytest.approx(-10, abs=1)
        assert not far.heard
        assert not other.heard
        assert not near2.heard


async def test_outputs_are_switched_pulsed_and_put_to_rest() -> None:
    station = CallPoint(3)
    async with CallPointBus(station, CallPoint(4)) as bus:
        async with running(bus) as (host, adapter):
            for value, pulse_ms, expected in ((1.0, 0, 1), (0.0, 0, 0), (1.0, 150, 1)):
                adapter.set_output(
                    SetOutput(
                        endpoint="intercom/km3", output="relay", value=value, pulse_ms=pulse_ms
                    )
                )
                await until(lambda expected=expected: station.outputs.get(1) == expected)
            begin = host.now()
            await until(lambda: station.outputs[1] == 0)
            assert host.now() - begin < 2.0
            with pytest.raises(Unsupported):
                adapter.set_output(SetOutput(endpoint="intercom/km3", output="x", value=1))
            with pytest.raises(Unsupported):
                adapter.set_output(SetOutput(endpoint="intercom/bus", output="relay", value=1))
            adapter.set_output(SetOutput(endpoint="intercom/km3", output="lamp", value=1))
            await until(lambda: station.outputs.get(2) == 1)
            stopped = host.now()
        await until(lambda: station.outputs[2] == 0)
        assert asyncio.get_running_loop().time() - stopped < 2.0
        assert station.released == 0, "the watchdog did it, not the adapter"


async def test_contacts_and_a_talk_key_are_inputs() -> None:
    station = CallPoint(3)
    async with CallPointBus(station, CallPoint(4)) as bus, running(bus) as (host, _):
        station.contacts = 2
        await host.wait_for(InputChanged, endpoint="intercom/km3", input="b", value=1.0)
        station.press()
        await host.wait_for(InputChanged, endpoint="intercom/km3", input="ptt", value=1.0)
        assert len(host.of(InputChanged, endpoint="intercom/km3", input="b", value=1.0)) == 1


async def test_of_polls_only_those_with_another_answer_are_kept() -> None:
    station = CallPoint(3)
    async with CallPointBus(station, CallPoint(4)) as bus, running(bus) as (host, adapter):
        wires, sent = host.exchange.wires, adapter._lines[0].link.counts
        await until(lambda: sent["sent"] >= 40, "polls go round")
        # An answer that comes too late is none, and is kept.
        assert len(wires) < sent["sent"] / 2
        before = len(wires)
        station.contacts = 2
        await host.wait_for(InputChanged, endpoint="intercom/km3", input="b", value=1.0)
        fresh = wires.entries()[before:]
        told = [(entry.outward, bytes(entry.data)[2:4]) for entry in fresh]  # type: ignore[arg-type]
        assert (True, b"\x03\x01") in told
        assert (False, b"\x03\x81") in told


async def test_nobody_answers_refuses_or_is_there() -> None:
    mute, sulky = CallPoint(3), CallPoint(4, refuses=True)
    async with CallPointBus(mute, sulky) as bus, running(bus) as (host, adapter):
        leg = host.dial("intercom/km4")
        assert (await host.wait_for(LegEnded, leg=leg)).cause is Cause.REJECTED
        mute.mute = True
        leg = host.dial("intercom/km3")
        assert (await host.wait_for(LegEnded, leg=leg)).cause is Cause.NO_RESPONSE
        await until(lambda: not _up(host, "km3"))
        assert "not heard of" in host.endpoints["intercom/km3"].reason
        stale = host.of(InputChanged, endpoint="intercom/km3", quality=Quality.STALE)
        assert {event.input for event in stale} == {"ptt", "hook", "a", "b"}
        leg = host.dial("intercom/km3")
        assert (await host.wait_for(LegEnded, leg=leg)).cause is Cause.OUT_OF_ORDER
        with pytest.raises(DeviceError):
            adapter.set_output(SetOutput(endpoint="intercom/km3", output="relay", value=1))
        mute.mute = False
        await until(lambda: _up(host, "km3"))
        # The caller may give up while it rings, and so may the one who is called.
        leg = host.dial("intercom/km3")
        await host.wait_for(LegRinging, leg=leg)
        mute.hang_up()
        assert (await host.wait_for(LegEnded, leg=leg)).cause is Cause.REJECTED
        mute.call("9")
        offered = await host.wait_for(LegOffered)
        assert offered.called == "9"
        mute.hang_up()
        assert (await host.wait_for(LegEnded, leg=offered.leg)).cause is Cause.CANCELLED


async def test_a_flooding_station_is_cut_off_and_the_other_keeps_talking() -> None:
    station, other = CallPoint(3), CallPoint(4)
    async with CallPointBus(station, other) as bus, running(bus) as (host, _):
        leg = host.dial("intercom/km4")
        await host.wait_for(LegRinging, leg=leg)
        other.answer()
        await host.wait_for(LegAnswered, leg=leg)
        n = 0
        async with asyncio.timeout(30.0):
            # Until it is too much: how fast we are is the machine's doing.
            while _up(host, "km3"):
                for _ in range(10):
                    n += 1
                    bus.write(sealed(bytes((3, 0x83, n % 255 + 1, 1, 0))))
                await asyncio.sleep(0.001)
        assert host.endpoints["intercom/km3"].reason == "floods the bus"
        assert host.counters["flood"] == 1
        assert host.of(InputChanged, endpoint="intercom/bus", input="flood", value=1.0)
        assert leg in host.legs
        assert _up(host, "km4")
        assert len(host.of(LegOffered)) == 1
        await until(lambda: _up(host, "km3"))


@pytest.mark.parametrize(
    ("data", "kind", "input_"),
    [
        (b"\x00\xff" * 50, "noise", "noise"),
        (b"\xaa\x55\x03\x81\x01\x01\x00\xff\xff", "checksum", "noise"),
        (b"\xaa\x55\x03\x81", "half", "noise"),
        (sealed(bytes((3, 0x99, 1, 1, 0))), "unknown_frame", "noise"),
        (sealed(bytes((77, 0x81, 1, 1, 0))), "unknown_station", "strangers"),
        (sealed(bytes((3, 0x01, 1, 0))), "unknown_frame", "noise"),
    ],
)
async def test_rubbish_is_an_event_a_line_and_a_count(data: bytes, kind: str, input_: str) -> None:
    async with world() as bus, running(bus) as (host, _):
        bus.write(data)
        await host.wait_for(InputChanged, endpoint="intercom/bus", input=input_, value=1.0)
        bus.write(data)
        await until(lambda: host.counters[kind] >= 2)
        lines = [facts for _, event, facts in host.logged.lines if event == "trouble on the bus"]
        assert len(lines) == 1, "a line for each would fill the disk"
        leg = host.dial("intercom/km3")
        await host.wait_for(LegRinging, leg=leg)


async def test_our_own_octets_come_back() -> None:
    async with world() as bus:
        bus.echo = True
        async with running(bus, echo=True) as (host, _):
            leg = host.dial("intercom/km3")
            await host.wait_for(LegRinging, leg=leg)
            assert host.counters["collision"] == host.counters["echo"] == 0


async def test_a_line_that_breaks_and_returns() -> None:
    station = CallPoint(3)
    async with CallPointBus(station, CallPoint(4)) as bus, running(bus) as (host, adapter):
        adapter.set_output(SetOutput(endpoint="intercom/km3", output="relay", value=1))
        await until(lambda: station.outputs.get(1) == 1)
        leg = host.dial("intercom/km3")
        await host.wait_for(LegRinging, leg=leg)
        begin = host.now()
        bus.unplug()
        ended = await host.wait_for(LegEnded, leg=leg)
        assert ended.cause is Cause.ADAPTER_LOST
        assert host.now() - begin < 2.0
        await until(lambda: station.outputs[1] == 0)
        assert station.released_at - begin < 2.0
        for name in ("bus", "km3", "km4"):
            assert host.endpoints[f"intercom/{name}"].condition is Condition.DOWN
            assert host.endpoints[f"intercom/{name}"].reason
        await asyncio.sleep(0.5)
        bus.plug()
        await until(lambda: all(_up(host, name) for name in ("bus", "km3", "km4")))
        assert station.outputs[1] == 0
        assert host.counters["line_lost"] == host.counters["reopened"] == 1
        events = [event for _, event, _ in host.logged.lines]
        assert events.count("the bus is gone") == events.count("the bus is back") == 1
        assert host.of(EndpointChanged) or host.endpoints


async def test_a_noisy_line_invents_nothing_and_a_call_goes_on() -> None:
    station = CallPoint(3)
    chance = random.Random(11)
    async with CallPointBus(station, CallPoint(4)) as bus, running(bus) as (host, _):
        leg = host.dial("intercom/km3")
        await host.wait_for(LegRinging, leg=leg)
        station.answer()
        await host.wait_for(LegAnswered, leg=leg)
        for _ in range(100):
            bus.write(chance.randbytes(chance.randrange(1, 60)))
            bus.write(b"\xaa\x55" + chance.randbytes(8))
            await asyncio.sleep(0.005)
        await until(lambda: host.counters["noise"] and host.counters["checksum"])
        assert not host.of(LegOffered)
        assert leg in host.legs
        station.hang_up()
        assert (await host.wait_for(LegEnded, leg=leg)).cause is Cause.NORMAL


async def test_a_line_that_is_not_there_is_said() -> None:
    host = TestHost("intercom")
    host.make(Intercom, {"port": "/dev/no-such-port", "stations": STATIONS})
    with pytest.raises(DeviceError, match=r"/dev/no-such-port.*plugged in"):
        async with host.running():
            pass


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"stations": {"a": {"address": 300}}}, "not one of callpoint"),
        ({"stations": {"a": {"address": 255}}}, "not one of callpoint"),
        ({"zones": {"a": {"address": 3}}}, "not one of callpoint"),
        ({"stations": {"a": {"address": 3}, "b": {"address": "3"}}}, "same address"),
        ({"stations": {"bus": {"address": 3}}}, "the line itself"),
        ({"stations": {"a": {"address": 3, "duplex": "full"}}}, "230400"),
        ({"stations": {"a": {"address": 3, "audio": "fxs-1"}}}, "write bus, none"),
        ({"profile": "kokom"}, "known: acdp"),
        ({"profile": "/no/such.toml"}, "cannot read"),
        ({"profile": "fermax", "zones": {"z": {"address": 1}}}, "no command for zones"),
        ({"profile": "fermax", "stations": {"a": {"address": 1, "audio": "bus"}}}, "no audio"),
    ],
)
def test_a_wrong_configuration_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigErrors, match=words):
        TestHost("intercom").make(Intercom, {"port": "/dev/null", **config})
