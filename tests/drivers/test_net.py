"""Sockets: what they tell, and what they do with peers that do not read."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import gc
import socket
import ssl
from pathlib import Path

import pytest

from gateway.drivers import net
from gateway.drivers.net import (
    MAX_UNSENT,
    StreamConnection,
    StreamOwner,
    UdpSocket,
    connect_tcp,
    listen_tcp,
    local_address_towards,
)
from gateway.errors import DeviceError
from tests.interop.certificates import Authority


class Owner(StreamOwner):
    def __init__(self) -> None:
        self.open: list[StreamConnection] = []
        self.data = b""
        self.gone: list[StreamConnection] = []
        self.changed = asyncio.Event()

    def opened(self, connection: StreamConnection) -> None:
        self.open.append(connection)
        self.changed.set()

    def received(self, connection: StreamConnection, data: bytes) -> None:
        self.data += data
        self.changed.set()

    def lost(self, connection: StreamConnection) -> None:
        self.gone.append(connection)
        self.changed.set()

    async def until(self, condition: object) -> None:
        async with asyncio.timeout(20.0):
            while not condition():  # type: ignore[operator]
                self.changed.clear()
                await self.changed.wait()


async def test_datagrams_tell_their_source_and_our_address() -> None:
    got: asyncio.Queue[tuple[bytes, tuple[str, int], tuple[str, int]]] = asyncio.Queue()
    ours = await UdpSocket.open("127.0.0.1", 0, lambda *what: got.put_nowait(what))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.sendto(b"hello", ours.local)
        assert await asyncio.wait_for(got.get(), 5.0) == (b"hello", peer.getsockname(), ours.local)
        assert ours.send(b"back", peer.getsockname())
        peer.settimeout(20.0)
        assert peer.recv(100) == b"back"
    ours.close()
    ours.close()
    assert not ours.send(b"late", ("127.0.0.1", 9))


async def test_a_datagram_that_the_kernel_refuses_is_told() -> None:
    ours = await UdpSocket.open("127.0.0.1", 0, lambda *what: None)
    assert not ours.send(b"x" * 70_000, ("127.0.0.1", 9))
    assert ours.errors == 1
    assert ours.send(b"x", ("127.0.0.1", ours.local[1]))
    ours.close()


async def test_a_port_in_use_is_named() -> None:
    ours = await UdpSocket.open("127.0.0.1", 0, lambda *what: None)
    port = ours.local[1]
    with pytest.raises(DeviceError, match=f"udp 127.0.0.1:{port}"):
        await UdpSocket.open("127.0.0.1", port, lambda *what: None)
    ours.close()
    server = await listen_tcp("127.0.0.1", 0, Owner())
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(DeviceError, match=f"tcp 127.0.0.1:{port}"):
        await listen_tcp("127.0.0.1", port, Owner())
    server.close()
    with pytest.raises(DeviceError, match=f"tcp 127.0.0.1:{port}"):
        await connect_tcp("127.0.0.1", port, Owner())


async def test_streams_carry_octets_both_ways_and_tell_their_end() -> None:
    here, there = Owner(), Owner()
    server = await listen_tcp("127.0.0.1", 0, there)
    connection = await connect_tcp("127.0.0.1", server.sockets[0].getsockname()[1], here)
    assert connection.send(b"ping")
    await there.until(lambda: there.data == b"ping")
    assert there.open[0].peer == connection.local
    assert there.open[0].send(b"pong")
    await here.until(lambda: here.data == b"pong")
    connection.close()
    await there.until(lambda: there.gone)
    assert not there.open[0].send(b"late")
    server.close()


async def test_a_peer_that_does_not_read_is_cut_off() -> None:
    here = Owner()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        connection = await connect_tcp("127.0.0.1", listener.getsockname()[1], here)
        sent, block = 0, b"x" * 65536
        while connection.send(block):
            sent += len(block)
            assert sent < 100 * MAX_UNSENT
        await here.until(lambda: here.gone)
        assert sent >= MAX_UNSENT


def test_our_address_towards_somebody() -> None:
    assert local_address_towards("127.0.0.1") == "127.0.0.1"
    assert local_address_towards("not an address") == ""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_what_is_said_with_the_end_of_the_handshake_is_heard(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """A peer that speaks and hangs up at once was heard nevertheless, and is gone afterwards."""
    pem = Authority(tmp_path).issue("box", "IP:127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    blind.minimum_version = blind.maximum_version = version
    owner = Owner()
    server = await listen_tcp("127.0.0.1", 0, owner, lambda: context)
    port = server.sockets[0].getsockname()[1]

    def speak() -> None:
        with socket.create_connection(("127.0.0.1", port), 5.0) as raw:
            secure = blind.wrap_socket(raw)
            secure.sendall(b"hello")

    for n in range(1, 6):
        await asyncio.get_running_loop().run_in_executor(None, speak)
        await owner.until(lambda n=n: len(owner.data) == 5 * n and len(owner.gone) == n)
    assert owner.data == b"hello" * 5
    assert all(connection.secure for connection in owner.open)
    server.close()


def _handshakes() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, asyncio.sslproto.SSLProtocol)]


async def test_a_stalled_or_foreign_handshake_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr("gateway.drivers.net.HANDSHAKE_S", 0.2)
    gc.collect()
    gc.disable()
    request.addfinalizer(gc.enable)
    # What a test that failed before this one still holds.
    others = _handshakes()
    pem = Authority(tmp_path).issue("box", "IP:127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    owner = Owner()
    server = await listen_tcp("127.0.0.1", 0, owner, lambda: context)
    port = server.sockets[0].getsockname()[1]
    for said in (b"", b"OPTIONS sip:x SIP/2.0\r\n\r\n", b"\x16\x03\x01\xff\xff"):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        seen = len(owner.gone)
        await owner.until(lambda seen=seen: len(owner.gone) > seen)
        writer.close()
    assert not owner.open
    assert not owner.data
    # None of them waits for the garbage collector, with its 100 KiB.
    for _ in range(100):
        if not [each for each in _handshakes() if each not in others]:
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("a handshake is kept")
    server.close()


async def test_a_burst_arrives_whole_and_in_order() -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()
    ours = await UdpSocket.open("127.0.0.1", 0, lambda data, *_: got.put_nowait(data))
    sent = [str(n).encode() * (n + 1) for n in range(100)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for data in sent:
            peer.sendto(data, ours.local)
        async with asyncio.timeout(20.0):
            assert [await got.get() for _ in sent] == sent
    ours.close()


async def test_what_comes_in_numbers_is_read_together() -> None:
    reads: list[list[bytes]] = [[]]
    some = asyncio.Event()

    def taken() -> None:
        reads.append([])
        some.set()

    async def until(n: int) -> None:
        async with asyncio.timeout(20.0):
            while sum(map(len, reads)) < n:
                some.clear()
                await some.wait()

    ours = await UdpSocket.open("127.0.0.1", 0, lambda data, *_: reads[-1].append(data), taken)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"alone", ours.local)
        await until(1)
        # What follows soon after another one waits for more, what follows that comes with it.
        peer.sendto(b"second", ours.local)
        await until(2)
        for _ in range(5):
            peer.sendto(b"with others", ours.local)
        await until(7)
        for _ in range(100):
            peer.sendto(b"flood", ours.local)
        await until(107)
    assert reads[0] == [b"alone"]
    assert len(reads) < 1 + 1 + 5 + 100 / 4
    assert max(map(len, reads)) <= 16  # the loop belongs to others too
    ours.close()


async def test_a_fault_of_who_receives_does_not_make_it_deaf() -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: faults.append(what))

    def received(data: bytes, *_: object) -> None:
        got.put_nowait(data)
        if data == b"odd":
            raise ValueError(data)

    ours = await UdpSocket.open("127.0.0.1", 0, received)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for data in (b"odd", b"even", b"odd", b"odd", b"even"):
            peer.sendto(data, ours.local)
            assert await asyncio.wait_for(got.get(), 20.0) == data
    await asyncio.sleep(0)
    assert len(faults) == 3
    ours.close()


async def test_a_socket_closed_by_what_it_received_stays_closed() -> None:
    got: list[bytes] = []
    some = asyncio.Event()

    def received(data: bytes, *_: object) -> None:
        got.append(data)
        ours.close()
        some.set()

    ours = await UdpSocket.open("127.0.0.1", 0, received)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for data in (b"first", b"second"):
            peer.sendto(data, ours.local)
    await asyncio.wait_for(some.wait(), 30.0)
    await asyncio.sleep(0)
    assert got == [b"first"]


class Clogged:
    """A socket whose kernel takes nothing until told to."""

    def __init__(self, real: socket.socket) -> None:
        self.real, self.clogged = real, True

    def sendto(self, data: bytes, destination: tuple[str, int]) -> int:
        if self.clogged:
            raise BlockingIOError
        return self.real.sendto(data, destination)

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)


async def test_what_the_kernel_does_not_take_now_waits_in_order_and_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(net, "MAX_UNSENT", 1000)
    ours = await UdpSocket.open("127.0.0.1", 0, lambda *what: None)
    clogged = Clogged(ours._sock)  # type: ignore[arg-type]
    ours._sock = clogged  # type: ignore[assignment]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(20.0)
        n = 0
        while ours.send(b"%-100d" % n, peer.getsockname()):
            n += 1
            assert n < 100
        assert n == 11
        clogged.clogged = False
        loop = asyncio.get_running_loop()
        for k in range(n):
            assert await loop.run_in_executor(None, peer.recv, 200) == b"%-100d" % k
        assert ours.send(b"again", peer.getsockname())
        assert await loop.run_in_executor(None, peer.recv, 100) == b"again"
    ours.close()
