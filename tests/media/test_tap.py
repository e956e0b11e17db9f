"""Copies of packets: whole, in order, both ways, and never at the cost of the call."""

from __future__ import annotations

import pytest
from peers import listen, pace, sine, talk

from gateway.media import _engine
from gateway.timeline.taps import DRAIN_S, Chunk, Taps, packets


def taken(tap, stream):
    return list(packets(Chunk(1, 0.0, "leg", stream.local, None, tap.read())))


async def test_a_tap_has_what_came_and_what_was_sent(engine, peer, leg):
    a = peer(0)
    stream = leg(a)
    tap = stream.tap(1 << 18)
    await pace(0.6, talk(a, stream.local, sine(700, 0.4)), listen(a))
    found = taken(tap, stream)
    came = [each for each in found if not each.outward]
    sent = [each for each in found if each.outward and each.local[1] == stream.local[1]]
    assert len(came) == a.sent
    assert {each.peer for each in came} == {("127.0.0.1", a.port)}
    assert all(len(each.data) == 172 for each in came)
    assert [each.mono_ns for each in found] == sorted(each.mono_ns for each in found)
    # The very octets that the peer got.
    heard = {(p.seq, p.payload) for p in a.packets}
    copied = {(int.from_bytes(each.data[2:4]), each.data[12:]) for each in sent}
    assert heard <= copied
    stream.untap()
    await pace(0.2, talk(a, stream.local, sine(700, 0.1)))
    assert tap.is_done()
    tap.read()
    await pace(0.2, talk(a, stream.local, sine(700, 0.1)))
    assert tap.read() == b""


async def test_a_full_tap_drops_and_counts_and_the_call_goes_on(engine, peer, leg):
    a = peer(0)
    stream = leg(a)
    tap = stream.tap(4096)
    await pace(1.0, talk(a, stream.local, sine(700, 0.8)), listen(a))
    found = taken(tap, stream)
    assert 15 <= len(found) <= 20
    assert tap.dropped >= a.sent - len(found)
    assert stream.stats().frames_concealed <= 3
    await pace(0.1)
    assert stream.stats().packets_received == a.sent


async def test_the_worker_lets_go_when_the_stream_is_closed(engine, peer, leg):
    stream = leg(peer(0))
    first, second = stream.tap(4096), stream.tap(4096)
    stream.close()
    await pace(0.1)
    assert first.is_done()
    assert second.is_done()
    assert isinstance(first, _engine.Tap)


async def test_recent_seconds_are_kept_of_all_and_bounded(engine, peer, leg):
    a = peer(0)
    taps = Taps(keep_s=60.0, maximum_bytes=20_000)
    stream = leg(a)
    taps.opened("sip/a#1", stream)
    await pace(1.2, talk(a, stream.local, sine(700, 1.0)), listen(a))
    chunks = taps.since(0)
    assert {chunk.leg for chunk in chunks} == {"sip/a#1"}
    assert taps.n_bytes == sum(len(chunk.data) for chunk in chunks) <= 20_000
    assert taps.forgotten > 0
    stream.close()
    await pace(0.1)
    taps.drain()
    assert taps.since(taps.number, ["sip/a#1"]) == []
    taps.drain()
    assert not taps._tapped
    taps.close()


async def test_a_new_tap_is_looked_at_soon_again(engine, peer, leg):
    """Its ring may hold less than the round of all others lasts."""
    taps = Taps(keep_s=60.0)
    stream = leg(peer(0))
    # Nothing was looked at lately, so the first round is at once.
    taps.opened("sip/a#1", stream)
    await pace(0.1)
    assert taps._drained
    assert taps._timer is not None
    assert taps._timer.when() - taps._drained == pytest.approx(DRAIN_S)
    stream.close()
    taps.close()


async def test_only_what_is_watched_is_copied(engine, peer, leg):
    a = peer(0)
    taps = Taps()
    stream = leg(a)
    taps.opened("sip/a#1", stream)
    assert not taps._tapped
    taps.watch("sip/a#1", stream)
    taps.watch("sip/a#1", None)
    await pace(0.3, talk(a, stream.local, sine(700, 0.2)))
    assert taps.since(0)
    taps.unwatch("sip/a#1")
    assert taps._watched["sip/a#1"] == 1
    taps.unwatch("sip/a#1")
    await pace(0.1)
    taps.drain()
    taps.drain()
    assert not taps._tapped
    taps.close()
