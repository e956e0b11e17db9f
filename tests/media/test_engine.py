"""The engine as a whole: limits, leaks, pacing, what it states of itself."""

from __future__ import annotations

import asyncio
import random
import resource
import socket
import threading
import time

import pytest
from peers import pace, sine, talk

from gateway.errors import DeviceError, UsageError
from gateway.media.engine import Engine
from gateway.media.streams import NullSpec, RtpSpec, StreamOptions
from gateway.testing import until
from tests.fresh import descriptors, fresh

HERE = RtpSpec(local_ip="127.0.0.1")


def resident_kib() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


async def test_nothing_is_open_before_start_and_after_stop():
    before = descriptors(tidy=True), threading.active_count()
    engine = Engine()
    assert (descriptors(), threading.active_count()) == before
    assert not engine.stats().running
    with pytest.raises(UsageError, match="start"):
        engine.open(HERE)
    await engine.start()
    stream = engine.open(HERE)
    engine.open_bridge("b")
    engine.join("b", stream)
    assert engine.stats().running
    await engine.stop()
    assert stream.closed
    assert descriptors() == before[0]
    stream.close()
    await engine.stop()


async def test_streams_are_limited_and_the_limit_is_named():
    engine = Engine(max_streams=3)
    await engine.start()
    streams = [engine.open(NullSpec()) for _ in range(3)]
    with pytest.raises(DeviceError, match="all 3 media streams"):
        engine.open(NullSpec())
    streams[0].close()
    engine.open(NullSpec()).close()
    await engine.stop()


async def test_it_stops_with_more_streams_than_commands_can_wait():
    engine = Engine(max_streams=1500)
    await engine.start()
    streams = []
    for n in range(1500):
        streams.append(engine.open(NullSpec()))
        if n % 500 == 0:
            await asyncio.sleep(0.05)
    await engine.stop()
    assert all(stream.closed for stream in streams)


async def test_streams_and_bridges_are_closed_although_no_command_can_wait():
    engine = Engine(max_streams=8)
    await engine.start()
    for _ in range(200):
        engine.open_bridge("b")
        stream = engine.open(HERE)
        core = stream._home
        while core.has_room(1):
            engine._do(core.stop_record, stream._handle)
        engine.close_bridge("b")
        stream.close()
        assert stream.closed
        assert not engine._bridges
        if len(engine._unclosed) == 2:
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("the worker was always quicker than the test")

    def port_is_free() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
            try:
                ours.bind(stream.local)
            except OSError:
                return False
        return True

    await until(port_is_free, "its socket is closed")
    assert not engine._unclosed
    await engine.stop()


async def test_ports_are_even_in_range_and_can_run_out():
    base = random.randrange(20000, 30000, 2)
    engine = Engine(ports=(base, base + 9))
    await engine.start()
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("127.0.0.1", base + 3))  # an RTCP port in somebody else's hands
    streams = [engine.open(HERE) for _ in range(4)]
    assert {s.local[1] for s in streams} == {base, base + 4, base + 6, base + 8}
    with pytest.raises(DeviceError, match=f"no free RTP port pair in {base} to {base + 9}"):
        engine.open(HERE)
    taken_up = descriptors(tidy=True)
    streams[0].close()
    await until(lambda: descriptors() < taken_up - 1, "the ports are free")
    engine.open(HERE)
    taken.close()
    await engine.stop()


async def test_an_address_that_is_not_ours():
    engine = Engine()
    await engine.start()
    with pytest.raises(DeviceError, match=r"192\.0\.2\.1"):
        engine.open(RtpSpec(local_ip="192.0.2.1"))
    with pytest.raises(UsageError, match="local_ip is empty"):
        engine.open(RtpSpec(local_ip=""))
    with pytest.raises(UsageError, match="not an IP address"):
        engine.open(RtpSpec(local_ip="127.0.0.1", remote_ip="example.org", remote_port=4000))
    for spoilt in ("127.0\udc8d.0.1", "127.0\x00.0.1"):
        with pytest.raises(UsageError, match="not an IP address"):
            engine.open(RtpSpec(local_ip="127.0.0.1", remote_ip=spoilt, remote_port=4000))
    with pytest.raises(UsageError, match="ptime_ms 25"):
        engine.open(RtpSpec(local_ip="127.0.0.1", ptime_ms=25))
    await engine.stop()


@fresh
async def test_ten_thousand_opens_leave_nothing_behind():
    engine = Engine(max_streams=64)
    await engine.start()
    # What the engine's thread opens for itself is there once it has taken a stream, which has two.
    first = engine.open(RtpSpec(local_ip="127.0.0.1"))
    await until(lambda: engine.stats().streams == 1, "the thread is at work")
    idle = descriptors() - 2
    first.close()

    async def churn(n: int) -> None:
        for i in range(n):
            stream = engine.open(
                RtpSpec(local_ip="127.0.0.1", remote_ip="127.0.0.1", remote_port=9),
                StreamOptions(detect_dtmf=i % 3 == 0),
            )
            if i % 4 == 0:
                engine.open_bridge(str(i))
                engine.join(str(i), stream)
                stream.play_tone("busy")
                engine.close_bridge(str(i))
            stream.close()
            if i % 32 == 31:
                await until(lambda: descriptors() == idle, "closed streams are gone")
        await until(lambda: descriptors() == idle, "all streams are gone")

    await churn(1500)
    memory = resident_kib()
    await churn(10000)
    grown = resident_kib() - memory
    assert grown < 4096, grown
    assert engine.stats().streams == 0
    await engine.stop()


async def test_pacing_holds_beside_a_busy_python_thread(engine, peer, leg):
    a, b = peer(0), peer(9)
    sa, sb = leg(a), leg(b)
    engine.open_bridge("x")
    engine.join("x", sa)
    engine.join("x", sb)
    until = time.monotonic() + 1.5

    def spin():
        while time.monotonic() < until:
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    await pace(1.5, talk(a, sa.local, sine(701, 1.0)))
    thread.join()
    b.collect()
    stats = engine.stats()
    assert stats.ticks >= 1400
    assert sb.stats().packets_sent == pytest.approx(stats.ticks / 20, abs=3)
    assert 0 < stats.late_us_p99 < 5000
    assert stats.skipped_ticks == 0


async def test_it_sleeps_when_nothing_is_open(engine):
    before = engine.stats()
    await asyncio.sleep(0.5)
    after = engine.stats()
    assert after.ticks == before.ticks
    assert after.cpu_s - before.cpu_s < 0.002


async def test_it_states_its_memory(engine):
    assert 8_000 < engine.stats().bytes_per_stream < 16_000
