"""Packets by shared sockets: the same promises as with a socket for each leg.

The peers' own sockets judge: their kernel throws away what has a wrong checksum.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import numpy as np
import pytest
from kernel_net import Far, ip, lookups
from peers import Peer, g711_decode, listen, pace, sine, talk, usual_level_at
from test_kernel import Call, environment
from test_kernel import hosts as hosts

from gateway.errors import DeviceError
from gateway.media import _engine
from gateway.media.engine import Engine, OpenStream
from gateway.media.steering import share
from gateway.media.streams import Codec, RtpSpec

TIED = ["127.0.0.1", "127.0.0.2"]


@pytest.fixture
async def steering() -> AsyncIterator[Callable[..., object]]:
    """Starts engines with shared sockets, and stops them."""
    made: list[Engine] = []

    async def start(**settings) -> Engine:
        engine = Engine(**{"max_streams": 8, "steer": True, **settings})
        await engine.start()
        made.append(engine)
        if engine.steer_refused:
            pytest.skip(f"BPF: {engine.steer_refused}")
        assert engine.stats().steer
        return engine

    yield start
    for engine in made:
        await engine.stop()


def bridged(engine: Engine, peers: list[Peer], **fields) -> list[OpenStream]:
    """A leg to each peer, in a bridge."""
    engine.open_bridge("call")
    legs = []
    for peer in peers:
        spec = {"local_ip": peer.ip, "remote_ip": peer.ip, "remote_port": peer.port}
        legs.append(
            engine.open(
                RtpSpec(codec=Codec.PCMU, payload_type=0, telephone_event=101, **spec | fields)
            )
        )
        engine.join("call", legs[-1])
    return legs


async def settle(engine: Engine, done: Callable[[], bool], what: str) -> None:
    """Until a counter says so, 5 s at most."""
    for _ in range(500):
        if done():
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{what}: {engine.stats()}")


async def steered(engine: Engine, n: int) -> None:
    """Until the kernel knows `n` legs: earlier packets come by their own sockets."""
    await settle(engine, lambda: engine.stats().steered_streams == n, "steered")


@pytest.mark.parametrize("types", [(0, 0), (0, 8)], ids=["same", "other law"])
async def test_a_call_is_what_it_is_by_sockets_of_its_own(steering, hosts, types):
    engine = await steering()
    call = Call(engine, hosts, types)
    await steered(engine, 2)
    call.peers[1].sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    await call.talk(1.5)
    data, control, _, source = None, [], 0, None
    for _ in range(50):
        call.peers[0].send(b"\x55" * 160, call.legs[0].local)
        await asyncio.sleep(0.02)
        try:
            data, control, _, source = call.peers[1].sock.recvmsg(2000, 100)
            break
        except BlockingIOError:
            continue
    assert data is not None
    assert source == call.legs[1].local
    tos = [octets[0] for level, kind, octets in control if kind == socket.IP_TOS]
    assert tos == [call.specs[1].dscp << 2]
    await call.drain()
    for i, hz in ((0, 1000), (1, 440)):
        stats, packets = call.legs[i].stats(), call.heard(i)
        assert len({(p.ssrc, p.pt) for p in packets}) == 1
        spoken = [p.payload for p in packets if len(set(p.payload)) > 4]
        pcm = g711_decode(b"".join(spoken), types[i])
        assert usual_level_at(pcm, hz) == pytest.approx(-13, abs=1)
        assert stats.packets_received == call.peers[i].sent - stats.packets_late
        assert stats.packets_refused == 0
    after = engine.stats()
    assert after.steered_packets == sum(peer.sent for peer in call.peers)
    assert after.send_errors == after.steer_dropped == 0
    call.close()


async def test_others_come_by_the_legs_own_socket(steering, peer):
    engine = await steering()
    a, b, stranger = peer(), peer(), peer()
    legs = bridged(engine, [a, b])
    await steered(engine, 2)

    def intrude(_: int) -> None:
        stranger.send(bytes(160), legs[0].local)

    await pace(0.5, talk(a, legs[0].local, sine(440, 1.0)), intrude, listen(b))
    await settle(engine, lambda: legs[0].stats().packets_refused >= stranger.sent, "refused")
    assert engine.stats().steered_packets == a.sent
    assert legs[0].stats().packets_elsewhere == stranger.sent
    assert bytes(160) not in {p.payload for p in b.packets}


async def test_a_far_end_behind_a_nat_is_steered_when_it_has_been_heard(steering, peer):
    engine = await steering()
    signalled, real, b = peer(), peer(), peer()
    legs = bridged(engine, [signalled, b])
    await pace(0.4, talk(real, legs[0].local, sine(440, 1.0)), listen(b))
    await settle(engine, lambda: legs[0].stats().packets_received == real.sent, "latched")
    first = engine.stats().steered_packets
    assert first < real.sent  # what said where it is came by the leg's own socket
    before = real.sent
    await pace(0.4, talk(real, legs[0].local, sine(440, 1.0)), listen(b))
    await settle(engine, lambda: legs[0].stats().packets_received == real.sent, "received")
    assert engine.stats().steered_packets - first == real.sent - before
    assert len(b.packets) > 20


async def test_rtcp_reports_go_on(steering, peer):
    engine = await steering()
    a, b = peer(), peer()
    legs = bridged(engine, [a, b])
    await pace(0.3, talk(a, legs[0].local, sine(440, 1.0)), listen(b))
    for leg in legs:
        leg.close()  # with a report and BYE
    await asyncio.sleep(0.1)
    a.collect()
    assert [report[1] for report in a.reports] in ([200], [201])
    assert engine.stats().steered_streams == 0


async def test_ipv6_goes_by_its_own_sockets(steering, peer):
    engine = await steering()
    try:
        a, b = peer(0, "::1"), peer(0, "::1")
    except OSError as error:
        pytest.skip(f"IPv6: {error}")
    legs = bridged(engine, [a, b])
    await pace(0.5, talk(a, legs[0].local, sine(440, 1.0)), listen(b))
    await settle(engine, lambda: legs[0].stats().packets_received == a.sent, "received")
    assert len(b.packets) > 15
    stats = engine.stats()
    assert (stats.steered_streams, stats.steered_packets) == (0, 0)


async def test_a_leg_of_any_address_sends_by_its_own_socket(steering, peer):
    engine = await steering()
    a, b = peer(), peer()
    legs = bridged(engine, [a, b], local_ip="0.0.0.0")
    await steered(engine, 2)
    to = "127.0.0.1", legs[0].local[1]
    await pace(0.5, talk(a, to, sine(440, 1.0)), listen(b))
    await settle(engine, lambda: legs[0].stats().packets_received == a.sent, "received")
    assert engine.stats().steered_packets == a.sent
    assert len(b.packets) > 15


async def test_one_port_of_two_addresses_is_two_legs(steering, peer):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1] & ~1
    engine = await steering(ports=(port, port + 1))
    peers = [peer(0, address) for address in TIED]
    try:
        legs = bridged(engine, peers)
    except DeviceError as error:  # somebody has the port
        pytest.skip(str(error))
    assert legs[0].local[1] == legs[1].local[1]
    await steered(engine, 1)
    jobs = [
        talk(a, leg.local, sine(hz, 1.0))
        for a, leg, hz in zip(peers, legs, (440, 1000), strict=True)
    ]
    await pace(0.8, *jobs)
    await settle(engine, lambda: legs[1].stats().packets_received == peers[1].sent, "received")
    assert engine.stats().steered_streams == 1
    assert engine.stats().steered_packets == peers[0].sent
    for a, hz in zip(peers, (1000, 440), strict=True):
        assert usual_level_at(a.pcm()[800:], hz) == pytest.approx(-13, abs=1)


async def test_what_is_too_long_for_the_path_goes_in_pieces(steering, hosts):
    engine = await steering()
    call = Call(engine, hosts, (0, 0))
    ip("link", "set", "gw2", "mtu", "576")
    long = b"\x55" * 800
    for _ in range(20):
        call.peers[0].send(long, call.legs[0].local, ticks=800)
        await asyncio.sleep(0.02)
    await call.drain()
    assert {p.payload for p in call.peers[1].packets if len(p.payload) > 160} == {long}
    assert engine.stats().send_errors == 0
    call.close()


async def test_a_leg_that_moves_to_another_thread_is_heard_on(steering, peer):
    engine = await steering(threads=2, max_streams=16)
    a, b, c = peer(), peer(), peer()
    first, second, third = bridged(engine, [a, b, c])
    engine.leave("call", third)
    engine.open_bridge("other")  # in the other thread
    homes, moves = set(), 0

    def move(i: int) -> None:
        nonlocal moves
        if i % 5 == 4:
            engine.join("other" if i % 10 == 4 else "call", first)
            homes.add(id(first._home))
            moves += 1

    await pace(1.0, talk(a, first.local, sine(440, 1.0)), move, listen(b))
    assert len(homes) == 2

    def taken() -> bool:  # but for what the ring has at the moment that it lets go of the leg
        stats = first.stats()
        return stats.packets_received + stats.packets_late >= a.sent - 2 * moves

    await settle(engine, taken, "received")
    assert engine.stats().steered_streams == 3
    assert second.stats().packets_sent > 10


OTHER = """
import asyncio, sys
from gateway.media.engine import Engine
from gateway.media.steering import share
from gateway.media.streams import Codec, RtpSpec
async def main():
    engine = Engine(steer=True, realtime=False)
    await engine.start()
    leg = engine.open(RtpSpec(local_ip="127.0.0.1", remote_ip="127.0.0.1",
                              remote_port=int(sys.argv[1]), codec=Codec.PCMU, payload_type=0))
    while engine.stats().steer and not engine.stats().steered_streams:
        await asyncio.sleep(0.01)
    rights = open("/proc/self/status").read().split("CapEff:")[1].split()[0]
    print(leg.local[1], rights, engine.stats().steer, engine.steer_refused, flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(engine.stats().steer_dropped, engine.stats().running, flush=True)
    await engine.stop()
asyncio.run(main())
"""


def begin(*before: str, port: int = 9) -> subprocess.Popen[str]:
    """An engine in a process of its own, in this namespace, with a leg towards `port`."""
    return subprocess.Popen(
        [*before, sys.executable, "-c", OTHER, str(port)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> None:
    """However it is."""
    process.kill()
    process.communicate()


@pytest.fixture
def other(hosts: tuple[Far, Far], peer) -> Iterator[tuple[subprocess.Popen[str], Peer, int]]:
    """Its process, the peer of its leg, and the leg's port."""
    far = peer()
    process = begin(port=far.port)
    try:
        port, _, steers, *refused = process.stdout.readline().split(maxsplit=3)
        if steers != "True":
            pytest.skip(f"BPF: {refused}")
        yield process, far, int(port)
    finally:
        end(process)


def test_nothing_is_left_of_a_gateway_that_was_killed(other):
    process, *_ = other
    assert lookups() == 1
    process.kill()
    process.wait()
    assert lookups() == 0


def test_what_a_full_buffer_loses_is_counted(other):
    process, far, port = other
    os.kill(process.pid, signal.SIGSTOP)
    far.sock.setblocking(True)
    for _ in range(30000):  # more than 8 MiB hold
        far.send(b"\x55" * 160, ("127.0.0.1", port))
    os.kill(process.pid, signal.SIGCONT)
    process.stdin.write("\n")
    process.stdin.flush()
    dropped, running = process.stdout.readline().split()
    assert int(dropped) > 1000
    assert running == "True"


async def test_nothing_is_left_of_an_engine_that_was_stopped(steering, hosts):
    engine = await steering()
    assert lookups() == 1
    await engine.stop()
    assert lookups() == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("from 10.77.1.1", "source address"),
        ("ipproto udp dport 5000-6000", "protocol and destination port"),
        ("tos 0x10", "type of service"),
        ("fwmark 7", ""),
        ("to 10.77.2.0/24", ""),
        ("iif gw1 from 10.77.1.2", ""),
    ],
)
async def test_it_is_refused_where_a_rule_routes_by_what_the_raw_socket_does_not_show(
    hosts, words, why
):
    ip("rule", "add", "priority", "77", *words.split(), "table", "100")
    engine = Engine(max_streams=8, steer=True)
    await engine.start()
    refused = engine.steer_refused
    await engine.stop()
    if why:
        assert refused == f"ip rule 77 routes by {why}; remove media.steer, or the rule"
    else:
        assert "rule" not in refused


def test_cores_that_were_granted_it_let_go_when_a_later_one_is_refused(hosts):
    def held() -> int:
        return len(os.listdir("/proc/self/fd"))

    def cores() -> list[_engine.Core]:
        return [_engine.Core(8, False, False, "test") for _ in range(3)]

    if refused := share(granted := cores(), 24):
        pytest.skip(f"BPF: {refused}")
    del granted
    before, limits = held(), resource.getrlimit(resource.RLIMIT_NOFILE)
    assert lookups() == 0
    reasons = []
    for more in range(1, 40):
        box = cores()
        # The next descriptor is the lowest that is free: as many more as that.
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + more, limits[1]))
        try:
            refused = share(box, 24)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        if not refused:
            break
        reasons.append(refused)
        assert lookups() == 0
        assert held() == before
        for core in box:
            core.start()
            core.stop()
    assert {reason.partition(":")[0] for reason in reasons} >= {"socket(SOCK_RAW)"}
    assert not refused


def test_it_takes_the_three_rights_that_are_documented_and_no_other(hosts):
    mask = 1 << 39 | 1 << 12 | 1 << 13  # linux/capability.h

    def started(*rights: str) -> str:
        these = ",".join(["-all", *rights])
        before = ["setpriv", f"--inh-caps={these}", f"--bounding-set={these}"] if rights else []
        process = begin(*before)
        try:
            return process.stdout.readline().split(maxsplit=1)[1]
        finally:
            end(process)

    if not shutil.which("setpriv"):
        pytest.skip("setpriv is not installed")
    three = ["+bpf", "+net_admin", "+net_raw"]
    before = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    if tried := subprocess.run([*before, "true"], check=False, capture_output=True).stderr:
        pytest.skip(f"setpriv: {tried.decode()}")
    if "True" not in (most := started()):
        pytest.skip(f"BPF, with all rights: {most}")
    assert started(*three).split() == [f"{mask:016x}", "True"]
    for one in three:
        said = started(*(right for right in three if right != one))
        assert re.search(r" False \S.*: (Operation not|Permission).*; give the service", said)


async def test_it_is_off_unless_it_is_asked_for(peer):
    engine = Engine(max_streams=4)
    await engine.start()
    a, b = peer(), peer()
    legs = bridged(engine, [a, b])
    await pace(0.2, talk(a, legs[0].local, sine(440, 1.0)), listen(b))
    stats = engine.stats()
    assert (stats.steer, stats.steered_streams, stats.steered_packets) == (False, 0, 0)
    assert engine.steer_refused == ""
    assert np.count_nonzero([len(p.payload) for p in b.packets]) > 0
    await engine.stop()
