"""Page keeps every promise; what it sends is what the receivers' makers publish."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.page import Page
from gateway.adapters.page.chimes import RATE, render
from gateway.config import ConfigErrors, convert
from gateway.core.actions import Hangup, SetOutput
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition
from gateway.core.envelope import Envelope
from gateway.core.events import (
    InputChanged,
    LegAnswered,
    LegEnded,
    PageDelivered,
    PageMember,
    Priority,
    Quality,
)
from gateway.errors import Unsupported
from gateway.media.engine import Engine
from gateway.media.streams import RtpSpec
from gateway.testing import PROMISES, Scenario, TestHost, check_adapter, until
from gateway.testing.audio import level_at, steady_level_at, tone, write_wav
from gateway.testing.clock import run_turned
from tests.adapters.page_stand import Listener, Poly, Rtp, decode, own_network

RTP = {"group": "239.0.1.1:5004"}
SPA = {"group": "239.0.1.2:5006", "dialect": "spa"}
POLY = {"dialect": "poly", "channel": 27}


def section(**zones: dict[str, Any]) -> dict[str, Any]:
    return {"interface": "127.0.0.1", "serial": "0a0b0c0d", "zones": zones}


@pytest.fixture
def network() -> Iterator[None]:
    with own_network():
        yield


@pytest.fixture
async def engine(network: None) -> AsyncIterator[Engine]:
    made = Engine(max_streams=8, ports=(31400, 31499), realtime=False)
    await made.start()
    yield made
    await made.stop()


def garbage(adapter: Any, _: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for junk in (b"", b"\x80", b"\x80\xc8\x00\x06" + bytes(24), bytes(300), b"\xff" * 1400):
            sock.sendto(junk, ("239.0.1.1", 5005))


@pytest.mark.parametrize("zone", [RTP, SPA, POLY], ids=["rtp", "spa", "poly"])
async def test_promises(engine: Engine, zone: dict[str, Any]) -> None:
    scenario = Scenario(dial="page/hall", answer=lambda *_: None, garbage=garbage, engine=engine)
    # The group that garbage is sent to.
    others = {} if zone is RTP else {"other": RTP}
    config = section(hall=zone, **others)
    report = await check_adapter(Page, config, scenario)
    # Nobody calls from a horn.
    assert set(report.kept) == set(PROMISES) - {"A12"}


async def page(
    engine: Engine, config: dict[str, Any], wav: Path, zone: str = "hall", seconds: float = 1.2,
    cause: Cause = Cause.NORMAL, **fields: Any,
) -> tuple[TestHost, LegEnded]:  # fmt: skip
    """Page a zone with what a file holds."""
    host = TestHost("page", engine=engine)
    host.make(Page, config)
    async with host.running():
        leg = host.dial(f"page/{zone}", **fields)
        await host.wait_for(LegAnswered, leg=leg)
        host.stream(leg).play_file(str(wav))
        await asyncio.sleep(seconds)
        host.adapter.hangup(Hangup(leg=leg, cause=cause))
        ended = await host.wait_for(LegEnded, leg=leg)
    return host, ended


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "spoken.wav", tone(1000, 5.0, dbm0=-12))


@pytest.mark.parametrize(("codec", "payload_type"), [("PCMU", 0), ("PCMA", 8), ("G722", 9)])
async def test_plain_rtp(engine: Engine, wav: Path, codec: str, payload_type: int) -> None:
    config = section(hall=RTP | {"codec": codec, "ttl": 7}) | {"dscp": 34}
    with Listener("239.0.1.1", 5004) as listener:
        _, ended = await page(engine, config, wav)
        packets = [Rtp.read(data) for data in listener.read()]
    assert (listener.tos >> 2, listener.ttl) == (34, 7)
    assert packets[0].marker == 1
    assert {packet.payload_type for packet in packets} == {payload_type}
    assert {len(packet.payload) for packet in packets} == {160}
    assert len({packet.ssrc for packet in packets}) == 1
    # 160 a packet, also for G.722: its RTP clock is 8000 Hz (RFC 3551 section 4.5.2).
    for before, after in itertools.pairwise(packets):
        assert (after.seq - before.seq) % 2**16 == 1
        step = (after.timestamp - before.timestamp) % 2**32
        # A test machine that stands still for 60 ms costs frames; the time line stays true.
        assert step == 160 or (engine.stats().skipped_ticks and step % 160 == 0)
    said = int(ended.detail.split(", ")[1].split()[0])
    # Counted just before the stream is closed.
    assert said <= len(packets) <= said + 3
    if codec != "G722":  # which ffmpeg decodes in tests/interop
        samples = decode(
            b"".join(packet.payload for packet in packets), "ul" if codec == "PCMU" else "al"
        )
        assert steady_level_at(samples[2400:8000], 1000) == pytest.approx(-12, abs=0.5)


async def test_poly_packets(engine: Engine, wav: Path) -> None:
    with Listener("224.0.1.116", 5001) as listener:
        _, ended = await page(engine, section(hall=POLY), wav, display="Gate 2, north side")
        packets = [Poly.read(data) for data in listener.read()]
    at = [when for when, _ in listener.seen]
    assert (listener.tos >> 2, listener.ttl) == (46, 1)
    assert {packet.serial.hex() for packet in packets} == {"0a0b0c0d"}
    assert {packet.channel for packet in packets} == {27}
    assert {packet.caller for packet in packets} == {b"Gate 2, north"}
    kinds = [packet.operation for packet in packets]
    audio = packets[31:-12]
    assert kinds == [0x0F] * 31 + [0x10] * len(audio) + [0xFF] * 12
    assert len(audio[0].audio) == 160
    for before, after in itertools.pairwise(audio):
        assert (after.count - before.count) % 2**32 == 160
        assert len(after.audio) == 320
        assert after.audio[:160] == before.audio[-160:]
    assert {(packet.codec, packet.flags) for packet in audio} == {(0, 0)}
    # 30 alerts and 11 ends 30 ms apart, frames 20 ms; a busy test machine may make it longer.
    assert 0.88 < at[30] - at[0] < 1.5
    assert 0.31 < at[-1] - at[-12] < 0.9
    assert at[-13] - at[31] == pytest.approx(0.02 * (len(audio) - 1), abs=0.1)
    assert at[-12] - at[-13] > 0.04
    samples = decode(b"".join(packet.audio[-160:] for packet in audio))
    assert steady_level_at(samples[2400:8000], 1000) == pytest.approx(-12, abs=0.5)
    # Half of the packets lost, every second one: the redundant frames are the very same audio.
    saved = decode(b"".join(packet.audio for packet in audio[2::2]))
    assert steady_level_at(saved[2400:8000], 1000) == pytest.approx(-12, abs=0.5)
    assert "longest gap" in ended.detail


async def test_poly_classes_have_their_channel_and_pre_emption_is_short(
    engine: Engine, wav: Path
) -> None:
    zone = POLY | {"codec": "PCMA", "classes": {"emergency": {"channel": 50, "gain_db": 6}}}
    with Listener("224.0.1.116", 5001) as listener:
        await page(
            engine, section(hall=zone), wav, cause=Cause.PREEMPTED, priority=Priority.EMERGENCY
        )
        packets = [Poly.read(data) for data in listener.read()]
    assert {packet.channel for packet in packets} == {50}
    assert [packet.operation for packet in packets][-4:] == [0x10, 0xFF, 0xFF, 0xFF]
    audio = [packet for packet in packets if packet.operation == 0x10]
    assert {packet.codec for packet in audio} == {8}
    samples = decode(b"".join(packet.audio[-160:] for packet in audio), "al")
    assert steady_level_at(samples[2400:8000], 1000) == pytest.approx(-6, abs=0.5)


async def test_spa_control_packets(engine: Engine, wav: Path) -> None:
    with (
        Listener("224.168.168.168", 6061) as control,
        Listener("239.0.1.2", 5006) as audio,
    ):
        await page(engine, section(hall=SPA), wav, seconds=0.4)
        packets = [struct.unpack(">II4sI", data) for data in control.read()]
        heard = audio.read()
    group = bytes((239, 0, 1, 2))
    identifier = packets[0][0]
    assert packets == [(identifier, command, group, 5006) for command in (6, 6, 7, 7)]
    at = [when for when, _ in control.seen]
    # Never closer together; how much later is the test machine's affair.
    assert 0.018 < at[1] - at[0] < 1.0
    assert 0.018 < at[3] - at[2] < 1.0
    assert {Rtp.read(data).payload_type for data in heard} == {0}


@pytest.mark.parametrize("zone", [SPA, POLY], ids=["spa", "poly"])
async def test_receivers_are_told_when_the_gateway_stops(
    engine: Engine, zone: dict[str, Any]
) -> None:
    group = ("224.168.168.168", 6061) if zone is SPA else ("224.0.1.116", 5001)
    host = TestHost("page", engine=engine)
    host.make(Page, section(hall=zone))
    with Listener(*group) as listener:
        async with host.running():
            await host.wait_for(LegAnswered, leg=host.dial("page/hall"))
        last = listener.read()[-1]
    assert last[0] == 0xFF if zone is POLY else struct.unpack(">II", last[:8])[1] == 7
    assert host.of(LegEnded)[0].cause is Cause.SHUTDOWN


@pytest.mark.parametrize("zone", [RTP, SPA, POLY], ids=["rtp", "spa", "poly"])
@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.3])
async def test_hung_up_before_it_is_answered(
    engine: Engine, zone: dict[str, Any], after_s: float
) -> None:
    host = TestHost("page", engine=engine)
    host.make(Page, section(hall=zone | {"chime": "gong"}))
    async with host.running():
        leg = host.dial("page/hall")
        if after_s:
            await asyncio.sleep(after_s)
        for _ in range(3):
            host.adapter.hangup(Hangup(leg=leg))
        await host.wait_for(LegEnded, leg=leg)
        assert host.of(LegAnswered) == []
        # The zone is free again.
        await host.wait_for(LegAnswered, leg=host.dial("page/hall"))
    assert host.refused == []


async def test_the_chime_is_heard_before_the_answer(engine: Engine, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "chime.wav", tone(700, 0.5))
    zones = {
        "script": RTP | {"chime": "600/400", "classes": {"urgent": {"chime": "900/400"},
                                                        "emergency": {"chime": ""}}},
        "file": RTP | {"group": "239.0.1.3:5008", "chime": str(file)},
    }  # fmt: skip
    host = TestHost("page", engine=engine)
    host.make(Page, section(**zones))
    async with host.running():
        for zone, port, priority, hz in (
            ("script", 5004, Priority.ROUTINE, 600), ("script", 5004, Priority.URGENT, 900),
            ("script", 5004, Priority.EMERGENCY, 0), ("file", 5008, Priority.ROUTINE, 700),
        ):  # fmt: skip
            group = host.endpoints[f"page/{zone}"].detail["group"].partition(":")[0]
            with Listener(group, port) as listener:
                leg = host.dial(f"page/{zone}", priority=priority)
                await host.wait_for(LegAnswered, leg=leg)
                heard = b"".join(Rtp.read(data).payload for data in listener.read())
                host.adapter.hangup(Hangup(leg=leg))
                await host.wait_for(LegEnded, leg=leg)
            if not hz:
                assert len(heard) <= 160 * 5
                continue
            samples = decode(heard)
            assert len(samples) >= 0.35 * 8000
            assert steady_level_at(samples[400:2800], hz) == pytest.approx(-10, abs=1.0)
    assert host.logged.lines
    assert all(line[0] == "info" for line in host.logged.lines)


async def test_without_its_chime_file_a_page_is_heard_all_the_same(engine: Engine) -> None:
    host = TestHost("page", engine=engine)
    host.make(Page, section(hall=RTP | {"chime": "/no/such/chime.wav"}))
    async with host.running():
        await host.wait_for(LegAnswered, leg=host.dial("page/hall"))
    assert host.counters["chime_failed"] == 1


async def test_a_zone_in_use_is_busy_and_an_endless_page_ends(engine: Engine) -> None:
    host = TestHost("page", engine=engine)
    host.make(Page, section(hall=RTP | {"max_s": 0.5}))
    async with host.running():
        first, second = host.dial("page/hall"), host.dial("page/hall")
        assert host.of(LegEnded, leg=second)[0].cause is Cause.BUSY
        ended = await host.wait_for(LegEnded, leg=first)
        assert ended.cause is Cause.TIMER_EXPIRED
        assert ended.detail.startswith("longer than 0.5 s")


async def test_a_zone_that_cannot_be_sent_to_is_down_and_says_why(engine: Engine) -> None:
    zones = {
        "hall": RTP, "lost": RTP | {"group": "239.0.1.4:5004", "interface": "192.0.2.1"},
        "cut": RTP | {"group": "239.0.1.5:5004", "link": "eth7"},
    }  # fmt: skip
    host = TestHost("page", engine=engine)
    host.make(Page, section(**zones))
    async with host.running():
        found = host.endpoints
        assert found["page/hall"].condition is Condition.UP
        assert found["page/lost"].condition is Condition.DOWN
        assert "192.0.2.1" in found["page/lost"].reason
        assert found["page/cut"].reason == "eth7 has no link"
        ended = await host.wait_for(LegEnded, leg=host.dial("page/lost"))
        assert ended.cause is Cause.RESOURCE_UNAVAILABLE
        assert "192.0.2.1" in ended.detail


# Receipts


def receiver_report(source: int, *, lost: int = 0, highest: int = 9) -> bytes:
    """RFC 3550 sections 6.4.2 and 6.5, written by hand."""
    report = struct.pack(">BBHII", 0x81, 201, 7, 0xCAFE, source)
    report += struct.pack(">IIIII", lost << 24, highest, 0, 0, 0)
    return report + struct.pack(">BBHI", 0x81, 202, 3, 0xCAFE) + b"\x01\x05phone\x00"


async def test_receivers_that_report_are_on_the_receipt(engine: Engine) -> None:
    members = {"127.0.0.21": "Hall north", "127.0.0.22": "Hall south", "127.0.0.23": "Gate"}
    host = TestHost("page", engine=engine)
    host.make(Page, section(hall=RTP | {"members": members}))
    async with host.running():
        with Listener("239.0.1.1", 5004) as listener:
            leg = host.dial("page/hall")
            await host.wait_for(LegAnswered, leg=leg)
            await until(listener.read, "the first packet")
            ssrc = Rtp.read(listener.seen[0][1]).ssrc
        for address, packet in (
            ("127.0.0.21", receiver_report(ssrc)),
            ("127.0.0.22", receiver_report(ssrc, lost=255)),  # it is there and hears nothing
            ("127.0.0.99", receiver_report(ssrc)),
        ):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((address, 0))
                sock.sendto(packet, ("239.0.1.1", 5005))
        await asyncio.sleep(0.2)
        host.adapter.hangup(Hangup(leg=leg))
        ended = await host.wait_for(LegEnded, leg=leg)
        shown = host.endpoints["page/hall"].detail["last page"]
    receipt = "played by Hall north, 127.0.0.99; no sign from Hall south, Gate"
    assert ended.detail.endswith(receipt)
    (delivered,) = host.of(PageDelivered, leg=leg)
    assert delivered.members == (
        PageMember(name="Hall north", by="rtcp", evidence="receiver report from 127.0.0.21"),
        PageMember(name="127.0.0.99", by="rtcp", evidence="receiver report from 127.0.0.99"),
    )
    assert delivered.missing == ("Hall south", "Gate")
    assert host.events.index(delivered) < host.events.index(ended)
    assert shown.startswith("page/hall#1: ")
    assert shown.endswith(receipt)
    # Not even our own goodbye counts as somebody else's page on our group.
    await asyncio.sleep(0.1)
    assert "foreign_sender" not in host.counters


async def test_inputs_of_other_adapters_are_on_the_receipt(engine: Engine) -> None:
    feedback = [
        {"endpoint": "modbus/pa", "input": name, "name": name}
        for name in ("early", "during", "stale", "never")
    ]
    host = TestHost("page", engine=engine)
    host.make(Page, section(hall=RTP | {"feedback": feedback}))

    def say(name: str, value: float, quality: Quality = Quality.GOOD) -> None:
        event = InputChanged(endpoint="modbus/pa", input=name, value=value, quality=quality)
        host.publish(Envelope(id="1", box="b", at=0.0, mono=0.0, adapter="modbus", event=event))

    async with host.running():
        await until(lambda: host.exchange.feeds, "it follows the bus")
        say("early", 1)
        say("never", 0)
        leg = host.dial("page/hall")
        await host.wait_for(LegAnswered, leg=leg)
        say("during", 1)
        say("stale", 1, Quality.STALE)
        await asyncio.sleep(0.1)
        say("during", 0)
        await asyncio.sleep(0.05)
        host.adapter.hangup(Hangup(leg=leg))
        ended = await host.wait_for(LegEnded, leg=leg)
    assert ended.detail.endswith("played by during, early; no sign from stale, never")
    (delivered,) = host.of(PageDelivered, leg=leg)
    assert delivered.members[0] == PageMember(
        name="during", by="input", evidence="modbus/pa during"
    )


# Configuration


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"zones": {"hall": {}}}, "group is missing"),
        ({"zones": {"hall": {"group": "192.168.1.1:5004"}}}, "multicast"),
        ({"zones": {"hall": {"group": "239.0.0.1"}}}, "239.0.1.1:5004"),
        ({"zones": {"hall": RTP | {"codec": "L16"}}}, "PCMU, PCMA, G722"),
        ({"zones": {"hall": RTP | {"chime": "ding"}}}, "two_tone"),
        ({"zones": {"hall": RTP | {"chime": "chime.wav"}}}, "whole path"),
        ({"zones": {"hall": RTP | {"chime": "1000/40000"}}}, "at most 30"),
        ({"zones": {"hall": RTP | {"classes": {"fire": {}}}}}, "emergency"),
        ({"zones": {"bells": RTP}}, "bells"),
        ({"zones": {"a": RTP, "b": RTP}}, "share the group"),
        ({"zones": {"a": POLY, "b": POLY}}, "share the group"),
        ({"bells": {"b": {"times": ["08:00"]}}}, "time_zone"),
        ({"bells": {"mute_today": {}}, "calendar": {"time_zone": "UTC"}}, "mute_today"),
        ({"bells": {"b": {"times": ["8"]}}, "calendar": {"time_zone": "UTC"}}, "bell 'b'"),
        ({"interface": "eth0"}, "eth0"),
    ],
)
def test_mistakes_in_the_configuration_are_named(config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigErrors, match=word):
        convert(Page.Config, config)


def test_two_poly_zones_on_one_group_and_no_engine() -> None:
    async def main() -> None:
        host = TestHost("page")
        host.make(Page, section(a=POLY, b=POLY | {"channel": 28}, wide=RTP | {"codec": "G722"}))
        async with host.running():
            leg = host.dial("page/wide")
            await host.wait_for(LegAnswered, leg=leg)
            spec = host.stream(leg).spec
            assert isinstance(spec, RtpSpec)
            assert (spec.rate, spec.payload_type, spec.dscp) == (16000, 9, 46)
            with pytest.raises(Unsupported):
                host.adapter.set_output(SetOutput(endpoint="page/a", output="x", value=1))

    run_turned(main())


def test_chimes() -> None:
    def samples(chime: str) -> list[int]:
        data = render(chime)
        return list(struct.unpack(f"{len(data) // 2}h", data))

    both = samples("440+554/1000@-10")
    assert len(both) == RATE
    for hz in (440, 554):
        assert level_at(both, hz, rate=RATE) == pytest.approx(-13, abs=0.2)
    quiet_after = samples("1000/500@-20,0/500")
    assert level_at(quiet_after[:8000], 1000, rate=RATE) == pytest.approx(-20, abs=0.2)
    assert not any(quiet_after[8000:])
    sweep = samples("500>1500/1000@-5")
    for at, hz in ((0, 550), (7200, 1000), (14400, 1450)):
        part = sweep[at : at + 1600]
        around = [hz - 200, hz - 100, hz, hz + 100, hz + 200]
        assert max(around, key=lambda f: level_at(part, f, rate=RATE)) == hz
    bell = samples("1000/1000@-5~")
    assert level_at(bell[:3200], 1000, rate=RATE) > level_at(bell[-3200:], 1000, rate=RATE) + 20
    for name in ("gong", "two_tone", "three_tone", "attention", "general_alarm", "evacuation"):
        assert max(map(abs, samples(name))) < 32767
