"""Several threads, without io_uring, by shared sockets: the same audio, whoever carries it.

Levels are loose: a sender in Python pauses on a busy machine, and who is heard shows all the same.
"""

from __future__ import annotations

import asyncio
import random
import socket

import numpy as np
import pytest
from peers import level_at, listen, pace, rms_dbm0, sine, talk, usual_level_at

from gateway.errors import UsageError
from gateway.media.engine import Engine
from gateway.media.streams import Codec, DigitDetected, NullSpec, PlayEnded, RtpSpec, StreamOptions
from gateway.testing import until

KINDS = {
    "epoll": {"io_uring": False},
    "three threads": {"threads": 3},
    "three threads, epoll": {"threads": 3, "io_uring": False},
    "three threads, shared sockets": {"threads": 3, "steer": True},
}


@pytest.fixture(params=KINDS)
def settings(request):
    return KINDS[request.param]


@pytest.fixture
async def engine(settings):
    """Instead of the usual engine: one of another build."""
    made = Engine(max_streams=64, **settings)
    await made.start()
    if made.steer_refused:
        await made.stop()
        pytest.skip(f"BPF: {made.steer_refused}")
    assert made.stats().threads == settings.get("threads", 1)
    assert not (made.stats().io_uring and settings.get("io_uring") is False)
    yield made
    await made.stop()


@pytest.mark.parametrize(("left", "right"), [(0, 0), (8, 0), (0, 9)])
async def test_calls_side_by_side(engine, peer, leg, left, right):
    calls = []
    for n in range(4):
        a, b = peer(left), peer(right)
        sa, sb = leg(a), leg(b)
        engine.open_bridge(str(n))
        engine.join(str(n), sa)
        engine.join(str(n), sb)
        calls.append((a, b, sa, sb, (503, 797, 1103, 1409)[n]))
    await pace(
        1.6,
        *(talk(a, sa.local, sine(hz, 1.0)) for a, _, sa, _, hz in calls),
        *(listen(b) for _, b, _, _, _ in calls),
    )
    for _, b, _, _, hz in calls:
        rate = 16000 if right == 9 else 8000
        heard = b.pcm()[-rate - rate // 50 : -rate // 50]
        assert usual_level_at(heard, hz, rate) == pytest.approx(-13, abs=3)
        for *_, other in calls:
            assert other == hz or level_at(heard, other, rate) < -60
    assert engine.stats().relays == (4 if right != 9 else 0)


async def test_strangers_are_refused_and_floods_do_not_stop_a_call(engine, peer, leg):
    a, b, stranger = peer(0), peer(0), peer(0)
    sa, sb = leg(a), leg(b)
    engine.open_bridge("x")
    engine.join("x", sa)
    engine.join("x", sb)
    loud = b"\x00" * 160

    def flood(_: int) -> None:
        for _ in range(100):
            stranger.send(loud, sa.local)
        stranger.sock.sendto(b"\x80" * 3000, sa.local)  # longer than any buffer of ours

    await pace(1.5, talk(a, sa.local, sine(701, 1.0)), flood, listen(b))
    assert usual_level_at(b.pcm()[-8000:], 701) == pytest.approx(-13, abs=3)
    assert sa.stats().packets_refused > 1000
    assert len(stranger.packets) == 0


async def test_a_stream_moves_with_its_state_from_bridge_to_bridge(engine, peer, leg):
    a, b, c = peer(9), peer(9), peer(8)
    legs = [leg(p) for p in (a, b, c)]
    rooms = [f"room {n}" for n in range(6)]  # on all threads
    for room in rooms:
        engine.open_bridge(room)
    jobs = [
        talk(a, legs[0].local, sine(601, 1.0, 16000)),
        talk(b, legs[1].local, sine(1009, 1.0, 16000)),
        talk(c, legs[2].local, sine(1501, 1.0)),
    ]
    for room in rooms:
        for stream in legs:
            engine.join(room, stream)
        await pace(0.5, *jobs)
    await pace(0.8, *jobs)
    heard = c.pcm()[-6400:]
    assert usual_level_at(heard, 601) == pytest.approx(-13, abs=3)
    assert usual_level_at(heard, 1009) == pytest.approx(-13, abs=3)
    assert level_at(heard, 1501) < -50
    base = c.packets[0]
    for p in c.packets:  # one source and one time line, whichever thread sent it
        assert p.ssrc == base.ssrc
    late = [p.at - base.at - ((p.ts - base.ts) & 0xFFFFFFFF) / 8000 for p in c.packets]
    soonest = [min(late[i : i + 20]) for i in range(0, len(late) - 19, 20)]
    assert max(soonest) - min(soonest) < 0.1  # others are late where this test was
    seqs = [p.seq for p in c.audio()]
    assert len(set(seqs)) == len(seqs)
    engine.leave(rooms[-1], legs[0])
    engine.leave(rooms[-1], legs[1])
    await pace(0.8, *jobs)
    assert rms_dbm0(c.pcm()[-3200:]) < -60


async def test_events_plays_and_recordings_move_too(engine, peer, leg, tmp_path):
    a = peer(0)
    stream = leg(a, StreamOptions(detect_dtmf=True))
    stream.record(str(tmp_path / "r.wav"))
    stream.play_samples(sine(1009, 0.9).tobytes(), play="hello")
    for n in range(4):
        engine.open_bridge(str(n))
        engine.join(str(n), stream)
        await pace(0.2, talk(a, stream.local, np.zeros(8000, np.int16)))
    await pace(0.4, talk(a, stream.local, sine(697, 1.0) + sine(1209, 1.0)))
    await pace(0.4, talk(a, stream.local, np.zeros(8000, np.int16)))
    stream.stop_record()
    await asyncio.sleep(0.4)
    kinds = {type(e) for e in stream.events}
    assert {DigitDetected, PlayEnded} <= kinds
    assert (tmp_path / "r.wav").stat().st_size > 8000 * 2 * 2


async def test_moving_and_closing_at_random_leaves_nothing(engine):
    rng = random.Random(7)
    streams, rooms, n = [], [], 0
    port = None
    for step in range(1500):
        what = rng.randrange(6)
        if what == 0 and len(streams) < 20:
            spec = RtpSpec(
                local_ip="127.0.0.1",
                remote_ip="127.0.0.1",
                remote_port=9,
                codec=rng.choice([Codec.PCMU, Codec.G722]),
                payload_type=0,
                rate=8000,
            )
            if spec.codec is Codec.G722:
                spec = RtpSpec(local_ip="127.0.0.1", codec=Codec.G722, rate=16000, payload_type=9)
            streams.append(engine.open(rng.choice([spec, NullSpec()])))
        elif what == 1 and len(rooms) < 6:
            n += 1
            rooms.append(f"r{n}")
            engine.open_bridge(rooms[-1])
        elif what == 2 and streams:
            streams.pop(rng.randrange(len(streams))).close()
        elif what == 3 and rooms:
            engine.close_bridge(rooms.pop(rng.randrange(len(rooms))))
        elif streams and rooms:
            engine.join(rng.choice(rooms), rng.choice(streams))
        if step % 25 == 0:
            await asyncio.sleep(0.005)
    for stream in streams:
        port = stream.local[1] or port
        stream.close()
    for room in rooms:
        engine.close_bridge(room)
    await until(lambda: not engine._dying, "every handle came back")
    if port:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(("127.0.0.1", port))


def test_a_number_of_threads_that_makes_no_sense():
    with pytest.raises(UsageError, match="threads 0"):
        Engine(threads=0)
