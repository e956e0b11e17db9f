"""Relays in the kernel: the same promises as in user space, given and taken back at any time.

The peers' own sockets judge: their kernel throws away what has a wrong checksum.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from kernel_net import Far, ip, namespace, programs
from peers import Packet, Peer, g711_decode, pace, sine, talk, usual_level_at

from gateway.media.engine import Engine
from gateway.media.streams import (
    Codec,
    DigitDetected,
    Direction,
    MediaEvent,
    MediaTimeout,
    RtpSpec,
)

MEDIA = Path(__file__).resolve().parents[2] / "gateway" / "media"
CODECS = {0: Codec.PCMU, 8: Codec.PCMA}


@pytest.fixture
def hosts() -> Iterator[tuple[Far, Far]]:
    """Two hosts, each on a network of its own with this one."""
    try:
        with namespace():
            found = Far(1), Far(2)
            try:
                yield found
            finally:
                for far in found:
                    far.close()
    except PermissionError as error:
        pytest.skip(f"network namespaces: {error}")


class Call:
    """Two peers on two hosts, and their legs in a bridge."""

    def __init__(self, engine: Engine, hosts: tuple[Far, Far], types: tuple[int, int]) -> None:
        self.engine, self.peers, self.legs = engine, [], []
        self.events: list[list[MediaEvent]] = [[], []]
        self.specs = []
        engine.open_bridge("call")
        for far, pt, events in zip(hosts, types, self.events, strict=True):
            with far.there():
                peer = Peer(pt, far.ip)
            peer.te_pt = 101 if pt == 0 else 96
            spec = RtpSpec(
                local_ip=far.near_ip, remote_ip=far.ip, remote_port=peer.port, codec=CODECS[pt],
                payload_type=pt, telephone_event=peer.te_pt, media_timeout_s=0.6,
            )  # fmt: skip
            leg = engine.open(spec, on_event=events.append)
            engine.join("call", leg)
            self.peers.append(peer)
            self.specs.append(spec)
            self.legs.append(leg)
        self.tones = sine(440, 1.0), sine(1000, 1.0)

    async def talk(self, seconds: float, *more: Callable[[int], None]) -> None:
        """Both speak, each with its own tone."""
        jobs = [
            talk(peer, leg.local, tone)
            for peer, leg, tone in zip(self.peers, self.legs, self.tones, strict=True)
        ]
        await pace(seconds, *jobs, *more)

    async def talk_until(self, done: Callable[[], bool], what: str) -> None:
        """Speak on, 8 s at most."""
        for _ in range(40):
            await self.talk(0.2)
            if done():
                return
        pytest.fail(f"{what}: not within 8 s")

    async def hand_over(self, directions: int = 2) -> None:
        """Until the kernel has it, and has relayed packets."""
        before = self.engine.stats().kernel_packets
        await self.talk_until(
            lambda: (
                self.engine.stats().kernel_streams == directions
                and self.engine.stats().kernel_packets > before + 10
            ),
            "the kernel did not get the call",
        )

    async def drain(self) -> None:
        """What is on its way arrives, and the engine reads the kernel's counts."""
        for _ in range(4):
            await asyncio.sleep(0.025)
            for peer in self.peers:
                peer.collect()

    def heard(self, i: int) -> list[Packet]:
        """Everything that came to a peer, in order, each number once."""
        packets = self.peers[i].packets
        base = packets[0].seq
        numbers = [(p.seq - base + 0x8000) & 0xFFFF for p in packets]
        assert len(set(numbers)) == len(numbers), "a packet came twice"
        return [p for _, p in sorted(zip(numbers, packets, strict=True), key=lambda x: x[0])]

    def missing(self, i: int) -> int:
        """Numbers that did not come, but for those the engine says it gave up."""
        packets = self.heard(i)
        span = ((packets[-1].seq - packets[0].seq) & 0xFFFF) + 1
        return max(0, span - len(packets) - self.legs[1 - i].stats().packets_late)

    def close(self) -> None:
        """The peers' sockets."""
        for peer in self.peers:
            peer.close()


@pytest.fixture
async def call(hosts: tuple[Far, Far], request: pytest.FixtureRequest):
    """A call between PCMU and, if nothing else is asked for, PCMU."""
    engine = Engine(max_streams=8, kernel=True)
    await engine.start()
    if engine.kernel_refused:
        await engine.stop()
        pytest.skip(f"BPF: {engine.kernel_refused}")
    made = Call(engine, hosts, getattr(request, "param", (0, 0)))
    yield made
    made.close()
    await engine.stop()


@pytest.mark.parametrize("call", [(0, 0), (0, 8)], indirect=True, ids=["same", "other law"])
async def test_a_relay_goes_through_the_kernel_unchanged_but_for_its_header(call):
    await call.hand_over()
    levels: list[float] = []

    def measure(i: int) -> None:
        if i % 20 == 19:  # of one packet or two
            levels.extend(leg.stats().level_in_dbm0 for leg in call.legs)

    await call.talk(1.7, measure)
    assert float(np.median(levels)) == pytest.approx(-13, abs=0.5)
    sent = [leg.stats().packets_sent for leg in call.legs]
    await call.drain()
    for i, hz in ((0, 1000), (1, 440)):
        leg, packets = call.legs[i], call.heard(i)
        assert call.missing(i) == 0
        assert len({(p.ssrc, p.pt) for p in packets}) == 1
        assert packets[0].ssrc != call.peers[1 - i].ssrc
        assert np.median(np.diff([p.ts for p in packets]) % (1 << 32)) == 160
        # Silence is our own, where the test's sender stood still.
        spoken = [p.payload for p in packets if len(set(p.payload)) > 4]
        pcm = g711_decode(b"".join(spoken[-60:]), leg.spec.payload_type)
        assert usual_level_at(pcm, hz) == pytest.approx(-13, abs=1)
        stats = leg.stats()
        assert stats.packets_in_kernel > 40
        assert stats.packets_received == call.peers[i].sent - stats.packets_late
        assert sent[i] <= len(packets) <= stats.packets_sent
        assert stats.packets_lost <= stats.packets_late
        assert stats.quality.loss_percent <= 100 * stats.packets_late / len(packets)


async def test_strangers_and_other_types_change_nothing_but_counters(call):
    await call.hand_over()
    a, leg = call.peers[0], call.legs[0]
    stranger = Peer(0, call.legs[0].local[0])

    def intrude(_: int) -> None:
        header = "!BBHII", 0x80
        stranger.send(bytes(160), leg.local)
        other_source = struct.pack(*header, 0, 5, 0, 77)
        other_type = struct.pack(*header, 18, a.seq & 0xFFFF, a.ts & 0xFFFFFFFF, a.ssrc)
        for packet in (other_source, other_type):
            a.sock.sendto(packet + bytes(160), leg.local)

    await call.talk(0.5, intrude)
    await call.drain()
    stranger.close()
    late = leg.stats().packets_late
    assert bytes(160) not in {p.payload for p in call.peers[1].packets}
    stats = leg.stats()
    assert 25 - late <= stats.packets_elsewhere <= 25
    assert 25 - late <= stats.packets_wrong_type <= 25
    assert 75 - late <= stats.packets_refused <= 75
    assert call.missing(1) == 0


async def test_a_second_source_needs_two_packets_with_none_of_the_first_between(call):
    await call.hand_over()
    a, leg, ssrc = call.peers[0], call.legs[0], call.peers[0].ssrc
    by_kernel = call.engine.stats().kernel_packets

    async def until(done: Callable[[], bool]) -> None:
        for _ in range(200):
            if done():
                return
            await asyncio.sleep(0.01)
        pytest.fail("a packet is lost")

    for seq in range(5, 13):  # one in 16 of the first source's is seen even without the counts
        refused, received = leg.stats().packets_refused, leg.stats().packets_received
        other = struct.pack("!BBHII", 0x80, 0, seq, 0, ssrc ^ 1)
        a.sock.sendto(other + bytes(160), leg.local)
        await until(lambda n=refused: leg.stats().packets_refused > n)
        a.send(b"\x55" * 160, leg.local)
        await until(lambda n=received: leg.stats().packets_received > n)
    assert call.engine.stats().kernel_packets > by_kernel
    await call.drain()
    assert bytes(160) not in {p.payload for p in call.peers[1].packets}


async def test_a_forged_packet_of_another_interface_meets_the_filter(call, hosts):
    filtering = Path("/proc/sys/net/ipv4/conf/gw2/rp_filter")
    try:
        filtering.write_text("1")
    except OSError as error:
        pytest.skip(f"rp_filter: {error}")
    await call.hand_over()
    a, leg = call.peers[0], call.legs[0]
    with hosts[1].there():
        ip("addr", "add", f"{hosts[0].ip}/32", "dev", "lo")
        forger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        forger.bind((hosts[0].ip, a.port))

    def forge(_: int) -> None:
        next_one = (a.seq + 3) & 0xFFFF, (a.ts + 480) & 0xFFFFFFFF
        forger.sendto(struct.pack("!BBHII", 0x80, 0, *next_one, a.ssrc) + bytes(160), leg.local)

    await call.talk(0.4, forge)
    await call.drain()
    forger.close()
    assert bytes(160) not in {p.payload for p in call.peers[1].packets}
    assert leg.stats().packets_duplicate == 0
    assert call.missing(1) == 0


@pytest.mark.parametrize("call", [(0, 0), (0, 8)], indirect=True, ids=["same", "other law"])
async def test_digits_come_up_and_keep_their_place(call):
    await call.hand_over()
    a, b, leg = *call.peers, call.legs[0]
    ts = a.ts
    for duration, end in ((160, 0), (320, 0), (480, 0), (640, 1), (640, 1), (640, 1)):
        a.send(bytes([5, end << 7 | 10, duration >> 8, duration & 255]), leg.local, pt=101, ts=ts)
        await asyncio.sleep(0.02)
    await call.talk(0.5)
    await call.drain()
    assert [e.digit for e in call.events[0] if isinstance(e, DigitDetected)] == ["5"]
    events = [p for p in call.heard(1) if p.pt == b.te_pt]
    assert [p.payload[0] for p in events] == [5] * 6
    assert len({p.ts for p in events}) == 1
    assert call.missing(1) == 0


async def test_what_needs_the_packets_gets_them_and_no_packet_is_lost(call, tmp_path):
    engine, (a, b) = call.engine, call.legs
    await call.hand_over()
    ways = [
        (lambda: a.record(str(tmp_path / "a.wav")), a.stop_record),
        (lambda: b.tap(1 << 16), b.untap),
        (lambda: engine.join("call", b, gain_db=-6.0), lambda: engine.join("call", b)),
    ]
    for take, give in ways:
        take()
        await call.talk_until(lambda: not engine.stats().kernel_streams, "it was not taken back")
        give()
        await call.hand_over()
    a.update(call.specs[0])  # signalling says the same again: handed back and over
    await call.hand_over()
    await call.drain()
    assert call.missing(0) == call.missing(1) == 0


async def test_hold_stops_the_packets(call):
    await call.hand_over()
    held = {**{f: getattr(call.specs[0], f) for f in call.specs[0].__struct_fields__}}
    call.legs[0].update(RtpSpec(**{**held, "direction": Direction.INACTIVE}))
    await call.talk(0.3)
    call.peers[1].packets.clear()
    call.peers[0].packets.clear()
    await call.talk(0.3)
    assert call.engine.stats().kernel_streams == 0
    assert not call.peers[0].packets
    payloads = {p.payload for p in call.peers[1].packets}
    assert payloads <= {bytes([0xFF]) * 160, bytes([0x7F]) * 160}  # our own silence
    call.legs[0].update(call.specs[0])
    await call.hand_over()


async def test_silence_is_noticed_and_filled_with_our_own(call):
    await call.hand_over()
    await call.drain()
    numbers = len(call.peers[1].packets)
    await pace(1.2, lambda _: call.peers[1].collect())
    assert any(isinstance(e, MediaTimeout) for e in call.events[0])
    assert len(call.peers[1].packets) > numbers + 10
    assert call.engine.stats().kernel_streams == 0
    await call.hand_over()
    await call.drain()
    assert call.missing(1) == 0


async def test_another_source_begins_a_new_line_of_numbers(call):
    await call.hand_over()
    a = call.peers[0]
    a.ssrc, a.seq, a.ts = 77, 100, 5
    await call.hand_over()
    a.seq, a.ts = a.seq + 3000, a.ts + (1 << 30)  # the same source jumps
    await call.hand_over()
    await call.drain()
    assert call.legs[0].stats().jitter_ms < 5000  # not the hours between the two lines of time
    assert len({p.ssrc for p in call.peers[1].packets}) == 1
    assert call.legs[0].stats().packets_refused == 2  # one each until the second in order has come


async def test_losses_duplicates_and_late_packets_are_counted_as_they_are(call):
    await call.hand_over()
    a, leg = call.peers[0], call.legs[0]
    before = leg.stats()
    lost, doubled = 0, 0
    for n in range(60):
        if n % 10 == 3:
            a.seq, a.ts, lost = a.seq + 1, a.ts + 160, lost + 1
        if n % 15 == 7:  # this one overtakes the one before it
            a.seq, a.ts = a.seq + 1, a.ts + 160
            a.send(bytes([n]) * 160, leg.local)
            a.seq, a.ts = a.seq - 2, a.ts - 320
            a.send(bytes([n]) * 160, leg.local)
            a.seq, a.ts = a.seq + 1, a.ts + 160
            continue
        a.send(bytes([n]) * 160, leg.local)
        if n % 20 == 11:
            a.seq, a.ts, doubled = a.seq - 1, a.ts - 160, doubled + 1
            a.send(bytes([n]) * 160, leg.local)
        await asyncio.sleep(0.02)
    await call.talk(0.1)
    await call.drain()
    after = leg.stats()
    gave_up = after.packets_late - before.packets_late
    assert lost == 6
    assert lost <= after.packets_lost - before.packets_lost <= lost + gave_up
    assert doubled == 3
    assert doubled - gave_up <= after.packets_duplicate - before.packets_duplicate <= doubled
    assert call.missing(1) == lost


def environment() -> dict[str, str]:
    """Of a Python of ours, which needs the sanitizers where we run with them."""
    return os.environ | {"LD_PRELOAD": os.environ.get("CROSSPOINT_PRELOAD", "")}


@pytest.fixture
def other_gateway(hosts: tuple[Far, Far]) -> Iterator[subprocess.Popen[str]]:
    """An engine in a process of its own, in the same namespace."""
    code = (
        "import asyncio\n"
        "from gateway.media.engine import Engine\n"
        "async def main():\n"
        "    engine = Engine(kernel=True)\n"
        "    await engine.start()\n"
        "    print(engine.kernel_refused, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment()
    )
    yield process
    process.kill()
    process.wait()


def test_nothing_is_left_of_a_gateway_that_was_killed(other_gateway):
    assert other_gateway.stdout is not None
    if refused := other_gateway.stdout.readline().strip():
        pytest.skip(f"BPF: {refused}")
    assert [programs(name) for name in ("lo", "gw1", "gw2")] == [1, 1, 1]
    other_gateway.kill()
    other_gateway.wait()
    assert [programs(name) for name in ("lo", "gw1", "gw2")] == [0, 0, 0]


async def test_nothing_is_left_of_an_engine_that_was_stopped(hosts):
    engine = Engine(max_streams=4, kernel=True)
    await engine.start()
    if engine.kernel_refused:
        pytest.skip(f"BPF: {engine.kernel_refused}")
    await engine.stop()
    assert programs("gw1") == 0


def test_without_the_right_it_says_so_and_goes_on_in_user_space():
    code = (
        "import asyncio, concurrent.futures.thread, os\n"
        "from gateway.media.engine import Engine\n"
        "if os.geteuid() == 0:\n"
        "    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "async def main():\n"
        "    engine = Engine(kernel=True, realtime=False)\n"
        "    await engine.start()\n"
        "    print(engine.kernel_refused, engine.stats().running, engine.stats().kernel)\n"
        "    await engine.stop()\n"
        "asyncio.run(main())\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env=environment(),
    ).stdout
    assert re.fullmatch(
        r"bpf\(BPF_MAP_CREATE\): Operation not permitted; give the service CAP_.* True False\n",
        said,
    )


def _started(*before: str) -> str:
    """The capabilities of an engine's process, whether the kernel may relay, and why not."""
    code = (
        "import asyncio\n"
        "from gateway.media.engine import Engine\n"
        "async def main():\n"
        "    rights = open('/proc/self/status').read().split('CapEff:')[1].split()[0]\n"
        "    engine = Engine(kernel=True, realtime=False)\n"
        "    await engine.start()\n"
        "    print(rights, engine.stats().kernel, engine.kernel_refused)\n"
        "    await engine.stop()\n"
        "asyncio.run(main())\n"
    )
    return subprocess.run(
        [*before, sys.executable, "-c", code],
        env=environment(),
        capture_output=True, text=True, check=True, timeout=30,
    ).stdout  # fmt: skip


def test_it_takes_the_three_rights_that_are_documented_and_no_other(hosts):
    rights = "-all,+bpf,+net_admin,+perfmon"
    mask = 1 << 39 | 1 << 12 | 1 << 38  # linux/capability.h
    before = "setpriv", f"--inh-caps={rights}", f"--bounding-set={rights}"
    if not shutil.which("setpriv"):
        pytest.skip("setpriv is not installed")
    if tried := subprocess.run([*before, "true"], check=False, capture_output=True).stderr:
        pytest.skip(f"setpriv: {tried.decode()}")
    if "True" not in (most := _started()):
        pytest.skip(f"BPF, with all rights: {most}")
    assert _started(*before).split() == [f"{mask:016x}", "True"]


async def test_interfaces_that_are_gone_or_too_many_are_left_out(hosts, monkeypatch):
    if "True" not in (usual := _started()):
        pytest.skip(f"BPF: {usual}")
    engine = Engine(max_streams=4, kernel=True)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "if_nameindex", lambda: [(9999, "lo"), (1, "lo")])
        await engine.start()
    assert engine.kernel_refused == ""
    assert programs("lo") == 1
    await engine.stop()
    for n in range(31):
        ip("link", "add", f"left{n}", "type", "veth", "peer", "name", f"right{n}")
    engine = Engine(max_streams=4, kernel=True)
    await engine.start()
    assert re.fullmatch(r"too many interfaces, not watched: \w+; .*", engine.kernel_refused)
    assert engine.stats().kernel
    assert programs("lo") == 1
    await engine.stop()


async def test_it_is_off_unless_it_is_asked_for():
    engine = Engine(max_streams=4)
    await engine.start()
    assert not engine.stats().kernel
    assert engine.kernel_refused == ""
    await engine.stop()


@pytest.mark.parametrize("name", ["relay_bpf", "steer_bpf"])
def test_the_instructions_are_those_of_the_source(name):
    sources = b"".join((MEDIA / f"{name}.{kind}").read_bytes() for kind in "ch")
    made = (MEDIA / f"{name}.inc").read_text()
    assert hashlib.sha256(sources).hexdigest() in made, "run `make bpf`"
