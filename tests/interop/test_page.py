"""Pages heard by foreign programs: ffmpeg and tshark on the group, baresip as a telephone.

Everything happens in a network namespace of its own: multicast from here reaches nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.adapters.loopback import Loopback
from gateway.adapters.page import Page
from gateway.core.actions import Hangup
from gateway.core.causes import Cause
from gateway.core.events import LegAnswered, LegEnded, PageDelivered
from gateway.media.engine import Engine
from gateway.testing import TestHost
from gateway.testing.audio import level_at, read_wav, steady_level_at, tone, write_wav
from tests.adapters.page_stand import Listener, Poly, Rtp, decode, own_network, sdp
from tests.interop.peers import Box, Program, assert_hears, box, need, phone, until

pytestmark = pytest.mark.interop

SITE = """
[adapters.loopback.ports]
alice = {{ number = "101", tone_hz = 1000 }}
guard = {{ number = "102", tone_hz = 440 }}

[adapters.page]
interface = "127.0.0.1"
[adapters.page.zones.hall]
group = "239.0.1.1:5004"
[adapters.page.zones.yard]
dialect = "poly"
[adapters.page.calendar]
time_zone = "UTC"
clock = "ignore"
[adapters.page.bells.lesson]

[[routes]]
name = "page"
called = "700"
page = ["page/hall", "page/yard", "sip/carl"]
announce = {{ file = "chime.wav", repeat = 1 }}
[[routes]]
name = "evacuate"
called = "999"
priority = "emergency"
page = ["page/hall"]
[[routes]]
name = "lesson bell"
on = "input"
from = ["page/bells"]
input = "lesson"
value = 1
page = ["page/hall", "page/yard", "sip/carl"]
announce = {{ {announce} }}
"""
CARL = '[adapters.sip.phones.carl]\npassword = "c1"\nauto_answer = true\n'


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    with own_network():
        yield


@pytest.mark.parametrize(
    ("codec", "payload_type", "hz"), [("PCMU", 0, 1000), ("PCMA", 8, 1000), ("G722", 9, 5000)]
)
async def test_ffmpeg_plays_the_zone_and_tshark_finds_nothing_missing(
    tmp_path: Path, codec: str, payload_type: int, hz: int
) -> None:
    need("ffmpeg", "tshark")
    rate = 16000 if codec == "G722" else 8000
    spoken = write_wav(tmp_path / "spoken.wav", tone(hz, 8.0, rate=rate), rate=rate)
    engine = Engine(max_streams=4, ports=(32600, 32699), realtime=False)
    await engine.start()
    host = TestHost("page", engine=engine)
    host.make(
        Page,
        {
            "interface": "127.0.0.1",
            "zones": {"hall": {"group": "239.0.1.1:5004", "codec": codec}},
        },
    )
    description = sdp(tmp_path / "hall.sdp", "239.0.1.1", 5004, payload_type)
    heard, capture = tmp_path / "heard.wav", tmp_path / "capture.pcap"
    player = ["ffmpeg", "-nostdin", "-protocol_whitelist", "file,rtp,udp", "-i", str(description),
              "-t", "2.5", "-c:a", "pcm_s16le", "-y", str(heard)]  # fmt: skip
    try:
        async with (
            Program(["tshark", "-i", "lo", "-w", str(capture), "udp port 5004"],
                    tmp_path / "tshark") as shark,
            host.running(),
        ):  # fmt: skip
            await shark.says("Capturing on")
            async with Program(player, tmp_path / "ffmpeg") as ffmpeg:
                joined = Path("/proc/thread-self/net/igmp")
                await until(lambda: "010100EF" in joined.read_text(), "ffmpeg joined the group")
                await asyncio.sleep(0.3)
                leg = host.dial("page/hall")
                await host.wait_for(LegAnswered, leg=leg)
                host.stream(leg).play_file(str(spoken))
                assert await ffmpeg.done() == 0
            host.adapter.hangup(Hangup(leg=leg))
            await host.wait_for(LegEnded, leg=leg)
            await asyncio.sleep(0.5)
    finally:
        await engine.stop()
    (samples, *_), found_rate = read_wav(heard)
    assert found_rate == rate
    assert steady_level_at(samples[rate:], hz, rate=rate) == pytest.approx(-10, abs=1.0)
    done = await asyncio.to_thread(
        subprocess.run,
        ["tshark", "-r", str(capture), "-d", "udp.port==5004,rtp", "-q", "-z", "rtp,streams"],
        check=True, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    shown = done.stdout
    line = next(line for line in shown.splitlines() if "239.0.1.1" in line)
    assert " 0 (0.0%)" in line
    assert {"PCMU": "g711U", "PCMA": "g711A", "G722": "g722"}[codec].lower() in line.lower()


@contextlib.asynccontextmanager
async def site(tmp_path: Path, announce: str = 'file = "bell.wav", repeat = 2, gap_s = 0.3') -> (
    AsyncIterator[Box]
):  # fmt: skip
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    write_wav(sounds / "chime.wav", tone(700, 0.5))
    write_wav(sounds / "bell.wav", tone(800, 0.6))
    async with box(
        f'digest = ["MD5"]\n{CARL}', SITE.format(announce=announce), home=tmp_path
    ) as found:
        await found.up("page/hall", "page/yard")
        yield found


def loopback(found: Box) -> Loopback:
    adapter = found.gateway.hosts["loopback"].adapter
    assert isinstance(adapter, Loopback)
    return adapter


def spoken(packets: list[bytes]) -> list[int]:
    return decode(b"".join(Rtp.read(data).payload for data in packets))


async def test_a_zone_of_multicast_and_a_telephone_hears_one_live_page(tmp_path: Path) -> None:
    with Listener("239.0.1.1", 5004) as hall, Listener("224.0.1.116", 5001) as yard:
        async with (
            site(tmp_path) as found,
            phone(tmp_path, "carl", "c1", found, hz=440, answer="auto") as carl,
        ):
            await found.up("sip/carl")
            leg = loopback(found).call("alice", "700")
            await carl.wait("CALL_ESTABLISHED")
            await found.wait(LegAnswered, lambda event: event.leg.startswith("page/yard"))
            await asyncio.sleep(2.5)
            found.gateway.hosts["loopback"].adapter.hangup(Hangup(leg=leg))
            legs = await found.legs(4)
        in_hall = spoken(hall.read())
        frames = [Poly.read(data) for data in yard.read()]
    assert steady_level_at(in_hall[400:4000], 700) > -16  # the chime goes before
    assert steady_level_at(in_hall[-9600:-1600], 1000) == pytest.approx(-9.1, abs=1.0)
    in_yard = decode(b"".join(f.audio[-160:] for f in frames if f.operation == 0x10))
    assert steady_level_at(in_yard[-9600:-1600], 1000) == pytest.approx(-9.1, abs=1.0)
    # A paged telephone only hears: what it says reaches no zone.
    assert steady_level_at(in_hall[-9600:-1600], 440) < -45
    assert steady_level_at(in_yard[-9600:-1600], 440) < -45
    assert_hears(carl.heard(), 1000, 440)
    trace = (carl.directory / "log").read_text(errors="replace")
    assert "answer-after=0" in trace
    assert all(record.answered_at for record in legs.values())
    # The telephone gave a sign of having played it; on multicast nobody was expected to.
    played = {record.endpoint: record.played for record in legs.values()}
    assert played["sip/carl"] == "sip/carl (sip)"
    delivered = [e.event for e in found.seen if isinstance(e.event, PageDelivered)]
    assert {event.leg.partition("#")[0] for event in delivered} == {
        "page/hall", "page/yard", "sip/carl",
    }  # fmt: skip


@pytest.mark.parametrize(
    "announce", ['file = "bell.wav", repeat = 2, gap_s = 0.3', 'tone = "busy", repeat = 1',
                 'text = "First lesson", repeat = 1'], ids=["file", "tone", "speech"],
)  # fmt: skip
async def test_a_bell_is_heard_everywhere_and_proven(tmp_path: Path, announce: str) -> None:
    if "text" in announce:
        need("espeak-ng")
    with Listener("239.0.1.1", 5004) as hall:
        async with (
            site(tmp_path, announce) as found,
            phone(tmp_path, "carl", "c1", found, hz=440, answer="auto") as carl,
        ):
            await found.up("sip/carl")
            page = found.gateway.hosts["page"].adapter
            assert isinstance(page, Page)
            assert page.bells is not None
            page.bells.ring("lesson")
            place = found.gateway.places
            await until(lambda: "last 01" in place["page/bells"][0].detail, "the bell is proven")
            proof = place["page/bells"][0].detail["last 01"]
        samples = spoken(hall.read())
    assert "lesson rung; delivered" in proof
    assert "page/hall played" in proof
    assert "page/yard played" in proof
    assert "sip/carl played" in proof
    (heard, *_), rate = read_wav(carl.heard())
    if "file" in announce:
        # 0.6 s, a gap of 0.3 s, 0.6 s.
        loud = [level_at(samples[at : at + 800], 800) > -20 for at in range(0, len(samples), 800)]
        text = "".join("#" if each else "." for each in loud).strip(".")
        assert text.count("#") in range(10, 15)
        assert "#..#" in text or "#...#" in text
        assert steady_level_at(heard, 800, rate=rate) > -25
    elif "tone" in announce:
        assert steady_level_at(samples[:4000], 480) > -20
        assert steady_level_at(samples[:4000], 620) > -20
    else:
        assert max(map(abs, samples)) > 2000
        assert max(map(abs, heard)) > 2000


async def test_an_emergency_takes_the_zone_and_the_page_resumes(tmp_path: Path) -> None:
    with Listener("239.0.1.1", 5004) as hall:
        async with site(tmp_path) as found:
            page = loopback(found).call("alice", "700")
            await found.wait(LegAnswered, lambda event: event.leg == "page/hall#1")
            await asyncio.sleep(1.5)
            before = len(hall.read())
            evacuate = loopback(found).call("guard", "999")
            ended = await found.wait(LegEnded, lambda event: event.leg == "page/hall#1")
            await found.wait(LegAnswered, lambda event: event.leg == "page/hall#2")
            await asyncio.sleep(1.5)
            during = len(hall.read())
            adapter = found.gateway.hosts["loopback"].adapter
            adapter.hangup(Hangup(leg=evacuate))
            await found.wait(LegAnswered, lambda event: event.leg == "page/hall#3")
            await asyncio.sleep(2.5)
            packets = hall.read()
            adapter.hangup(Hangup(leg=page))
            await until(lambda: not found.gateway.switchboard.calls, "all is over")
    assert ended.cause is Cause.PREEMPTED
    # Alice speaks at 1000 Hz, the guard at 440 Hz; one second of each.
    for part, hz, other in (
        (packets[before - 55 : before - 5], 1000, 440),
        (packets[during - 55 : during - 5], 440, 1000),
        (packets[-55:-5], 1000, 440),
    ):
        samples = spoken(part)
        assert steady_level_at(samples, hz) == pytest.approx(-9.1, abs=1.0)
        assert steady_level_at(samples, other) < -45
