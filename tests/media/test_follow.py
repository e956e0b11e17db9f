"""A far end whose NAT gives it another port in mid-call, and others who would like to be that."""

from __future__ import annotations

import socket

import pytest
from peers import Peer, pace, sine, talk

from gateway.media import srtp
from gateway.media.streams import Follow, RtpSpec, SrtpSuite

from .test_srtp import Wire, keys, sent_by_us, turned


def moved(old: Peer, new: Peer, skipped: int) -> Peer:
    """The same source as seen from another place, after so many packets were lost."""
    new.ssrc, new.seq, new.ts = old.ssrc, old.seq + skipped, old.ts + 160 * skipped
    return new


async def settled(stream, a: Peer) -> None:
    """Both ends are heard, and the latch window is over."""
    await pace(0.3, talk(a, stream.local, sine(701, 1.0)))
    assert stream.stats().packets_received > 10


@pytest.mark.parametrize("silent_s", [0.4, 1.6])
async def test_a_rebinding_is_followed(engine, peer, leg, silent_s: float) -> None:
    a, b = peer(0), peer(0)
    stream = leg(a, follow=Follow.ALWAYS, latch_ms=100)
    await settled(stream, a)
    await pace(silent_s)
    moved(a, b, round(silent_s / 0.02))
    await pace(0.6, talk(b, stream.local, sine(907, 1.0)))
    await pace(0.1)  # the last packet waits for its frame
    found = stream.stats()
    assert (found.remote, found.moves) == (f"127.0.0.1:{b.port}", 1)
    assert b.packets
    # The old place has lost its right.
    n_received = found.packets_received
    await pace(0.2, talk(a, stream.local, sine(701, 1.0)))
    assert stream.stats().packets_received == n_received
    assert stream.stats().remote == f"127.0.0.1:{b.port}"


async def test_where_the_far_end_is_still_heard_nobody_takes_its_place(engine, peer, leg) -> None:
    a, b = peer(0), peer(0)
    stream = leg(a, follow=Follow.ALWAYS, latch_ms=100)
    await settled(stream, a)
    moved(a, b, 1)
    await pace(0.8, talk(a, stream.local, sine(701, 1.0)), talk(b, stream.local, sine(1303, 1.0)))
    assert b.packets == []
    assert stream.stats().moves == 0


@pytest.mark.parametrize("what", ["ssrc", "number", "past", "time", "gaps", "address"])
async def test_who_does_not_go_on_is_not_followed(engine, peer, leg, what: str) -> None:
    a, b = peer(0), peer(0, "127.0.0.2" if what == "address" else "127.0.0.1")
    stream = leg(a, follow=Follow.ALWAYS, latch_ms=100)
    await settled(stream, a)
    await pace(0.5)
    moved(a, b, 25)
    match what:
        case "ssrc":
            b.ssrc ^= 1
        case "number":
            b.seq += 2000
        case "past":
            b.seq -= 500
        case "time":
            b.ts += 8 * 60_000
    if what == "gaps":
        for _ in range(20):
            b.send(b"\x7f" * 160, stream.local)
            b.seq += 1
        await pace(0.2)
    else:
        await pace(0.5, talk(b, stream.local, sine(1303, 1.0)))
    assert b.packets == []
    assert stream.stats().moves == 0
    # And the rightful one is still heard.
    moved(a, a, 50)
    n_received = stream.stats().packets_received
    await pace(0.3, talk(a, stream.local, sine(701, 1.0)))
    assert stream.stats().packets_received > n_received


@pytest.mark.parametrize("follow", list(Follow))
@pytest.mark.parametrize("nat", [False, True])
async def test_policy(engine, peer, leg, follow: Follow, nat: bool) -> None:
    a, b = peer(0), peer(0)
    signalled = a.port ^ 2 if nat else a.port
    stream = leg(a, follow=follow, latch_ms=250, remote_port=signalled)
    await settled(stream, a)
    await pace(0.4)
    moved(a, b, 20)
    await pace(0.4, talk(b, stream.local, sine(907, 1.0)))
    wanted = follow is Follow.ALWAYS or (nat and follow is Follow.LEARNED)
    assert stream.stats().moves == wanted
    assert bool(b.packets) is wanted


@pytest.mark.skipif(not srtp.suites(), reason=f"libsrtp2 is not installed: {srtp.REMEDY}")
async def test_with_srtp_even_another_address(engine) -> None:
    secret = keys(SrtpSuite.AES_128_SHA1_80)
    wire = Wire()
    genuine = await sent_by_us(engine, wire, turned(secret))
    assert len(genuine) > 20
    stream = engine.open(
        RtpSpec(
            local_ip="127.0.0.1", remote_ip="127.0.0.1", remote_port=wire.port, srtp=secret,
            follow=Follow.ALWAYS, latch_ms=100,
        )
    )  # fmt: skip
    for packet in genuine[:10]:
        wire.sock.sendto(packet, stream.local)
    await pace(0.5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.bind(("127.0.0.2", 0))
        here = f"127.0.0.1:{wire.port}"
        # Sent again, or changed: no proof.
        for packet in genuine[:10]:
            elsewhere.sendto(packet, stream.local)
        broken = bytearray(genuine[10])
        broken[20] ^= 1
        elsewhere.sendto(bytes(broken), stream.local)
        await pace(0.1)
        assert (stream.stats().remote, stream.stats().moves) == (here, 0)
        elsewhere.sendto(genuine[10], stream.local)
        await pace(0.1)
        there = f"127.0.0.2:{elsewhere.getsockname()[1]}"
        assert (stream.stats().remote, stream.stats().moves) == (there, 1)
    wire.sock.close()
