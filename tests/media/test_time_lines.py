"""Senders whose numbers, timestamps or clocks are not what the last packet promised."""

from __future__ import annotations

import asyncio
import struct

import pytest
from peers import listen, pace, sine, talk, usual_level_at

from gateway.media.streams import DigitDetected


async def counted(stream, n: int):
    """Its figures when the engine has judged n packets, or after 3 s."""
    for _ in range(150):
        stats = stream.stats()
        if stats.packets_received + stats.packets_refused + stats.packets_duplicate >= n:
            break
        await asyncio.sleep(0.02)
    return stats


def event(peer, stream, code: int, duration: int, *, end: bool = False, ts: int) -> None:
    """One telephone-event packet (RFC 4733)."""
    peer.send(
        struct.pack("!BBH", code, 0x80 * end | 10, duration), stream.local, pt=101, ticks=0, ts=ts
    )


def press(peer, stream, code: int, ts: int) -> None:
    """A digit of 80 ms with its three ends."""
    for duration in (160, 320, 480):
        event(peer, stream, code, duration, ts=ts)
    for _ in range(3):
        event(peer, stream, code, 640, end=True, ts=ts)


async def digits(stream, n: int) -> list[tuple[str, int]]:
    """What was pressed, and how long: n digits, and what comes within 0.2 s of them."""
    for _ in range(150):
        if sum(isinstance(e, DigitDetected) for e in stream.events) >= n:
            break
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    return [(e.digit, e.duration_ms) for e in stream.events if isinstance(e, DigitDetected)]


@pytest.mark.parametrize("back", [150, 1000, 30000], ids=str)
async def test_numbers_that_begin_again_lose_nothing(engine, peer, leg, back):
    """The same SSRC goes on with lower numbers, and so comes to the same ones once more."""
    a = peer()
    stream = leg(a)
    a.seq = 40000
    await pace(3.2, talk(a, stream.local, sine(701, 1.0)))
    a.seq += 2  # and two were lost
    await pace(0.2, talk(a, stream.local, sine(701, 1.0)))
    before = await counted(stream, a.sent)
    assert (before.packets_lost, before.packets_received) == (2, a.sent)
    a.seq -= back
    await pace(3.6, talk(a, stream.local, sine(701, 1.0)))
    after = await counted(stream, a.sent)
    # The first one might be a stray: two in sequence make the new line.
    assert after.packets_received == a.sent - 1
    assert (after.packets_duplicate, after.packets_refused) == (0, 1)
    assert after.packets_lost == 2


async def test_one_stray_number_is_no_new_line(engine, peer, leg):
    a = peer()
    stream = leg(a)
    await pace(0.5, talk(a, stream.local, sine(701, 1.0)))
    keep = a.seq, a.ts
    a.seq += 20000
    a.send(bytes(160), stream.local)
    a.seq, a.ts = keep
    await pace(0.5, talk(a, stream.local, sine(701, 1.0)))
    a.seq -= 1  # the last one again
    a.send(bytes(160), stream.local)
    stats = await counted(stream, a.sent)
    assert (stats.packets_refused, stats.packets_duplicate) == (1, 1)
    assert (stats.packets_lost, stats.packets_received) == (0, 50)


@pytest.mark.parametrize("jump", [-1_000_000, -(2**31) + 5, 2**31 + 80_000], ids=str)
async def test_digits_are_heard_on_another_time_line(engine, peer, leg, jump):
    """Also after 75 hours, when timestamps have gone half their way round."""
    a = peer()
    a.te_pt = 101
    stream = leg(a)
    await pace(0.1)
    press(a, stream, 1, ts=5_000_000)
    press(a, stream, 2, ts=5_001_000)
    await pace(0.1)
    press(a, stream, 3, ts=5_000_000 + jump)
    press(a, stream, 4, ts=5_001_000 + jump)
    assert [digit for digit, _ in await digits(stream, 4)] == ["1", "2", "3", "4"]


async def test_a_digit_that_is_said_again_behind_the_next_one_is_one(engine, peer, leg):
    a = peer()
    a.te_pt = 101
    stream = leg(a)
    await pace(0.1)
    press(a, stream, 1, ts=90_000)
    event(a, stream, 2, 160, ts=91_000)
    event(a, stream, 1, 640, end=True, ts=90_000)
    event(a, stream, 2, 640, end=True, ts=91_000)
    a.seq -= 200  # far out of order
    event(a, stream, 1, 640, end=True, ts=90_000)
    assert await digits(stream, 2) == [("1", 80), ("2", 80)]


async def test_a_key_held_for_forty_seconds_is_one_digit_that_long(engine, peer, leg):
    """RFC 4733 section 2.5.1.3: five segments."""
    a = peer()
    a.te_pt = 101
    stream = leg(a)
    await pace(0.1)
    ts, left = 7_000, 40 * 8000
    while left > 0xFFFF:
        for duration in (160, 30_000, 0xFFFF):
            event(a, stream, 5, duration, ts=ts)
        ts += 0xFFFF
        left -= 0xFFFF
    event(a, stream, 5, 160, ts=ts)
    for _ in range(3):
        event(a, stream, 5, left, end=True, ts=ts)
    assert await digits(stream, 1) == [("5", 40_000)]


async def test_numbers_and_timestamps_wrap_amid_loss_and_disorder(engine, peer, leg):
    """Both wrap within a spoken second; every seventh is lost, every fifth pair is swapped."""
    a, b = peer(0), peer(9)
    sa, sb = leg(a), leg(b)
    engine.open_bridge("pair")
    engine.join("pair", sa)
    engine.join("pair", sb)
    octets = a.encode(sine(701, 1.0))
    a.seq = first_seq = 65536 - 75
    first_ts = 2**32 - 75 * 160 - 80

    def job(i: int) -> None:
        for n in {0: [i + 1], 1: [i - 1]}.get(i % 5, [i]):
            if n % 7 == 3 or n < 0:
                continue
            a.seq = first_seq + n
            a.send(octets[n % 50 * 160 :][:160], sa.local, ts=first_ts + 160 * n)

    await pace(3.0, job, listen(b))
    stats = await counted(sa, a.sent)
    assert (stats.packets_refused, stats.packets_duplicate) == (0, 0)
    assert stats.packets_received == a.sent
    assert 18 <= stats.packets_lost <= 24
    assert usual_level_at(b.pcm()[16000:], 701, 16000) == pytest.approx(-13, abs=1.0)


async def test_a_timestamp_from_the_other_end_of_time_moves_nothing(engine, peer, leg):
    """Where a packet begins before 2^31 ticks ahead and ends behind."""
    a = peer(0)
    stream = leg(a, jitter_min_ms=120, jitter_max_ms=400)
    for _ in range(4):
        await pace(0.3, talk(a, stream.local, sine(701, 1.0)))
        before = stream.stats()
        for n in range(60):
            a.send(b"\xd5" * 160, stream.local, ts=a.ts + 2**31 - 40 * n, ticks=0)
        after = await counted(stream, a.sent)
        if after.packets_late - before.packets_late == 60:  # else the machine stalled
            break
    assert after.packets_late - before.packets_late == 60
    assert after.slips - before.slips < 100
