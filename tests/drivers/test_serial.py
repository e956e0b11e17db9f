"""Serial lines: a pseudo-terminal, a socket, and pyserial's own RFC 2217 server as the far end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import serial
import serial.rfc2217

from gateway.drivers.serial import MAX_UNSENT, SerialPort, Settings
from gateway.errors import DeviceError
from gateway.testing import until
from gateway.testing.wires import SerialLine


@dataclass
class Ear:
    """What a port tells."""

    data: bytearray = field(default_factory=bytearray)
    lost: list[str] = field(default_factory=list)

    async def until(self, n_octets: int = 0, *, lost: bool = False) -> None:
        async with asyncio.timeout(20.0):
            while len(self.data) < n_octets or (lost and not self.lost):  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def opened(url: str, **settings: Any) -> AsyncIterator[tuple[SerialPort, Ear]]:
    ear = Ear()
    port = await SerialPort.open(url, Settings(**settings), ear.data.extend, ear.lost.append)
    try:
        yield port, ear
    finally:
        port.close()
        port.close()


async def test_a_device() -> None:
    with SerialLine() as line:
        async with opened(line.path, baud=115200) as (port, ear):
            assert port.write(b"\x00\r\n\xff")
            assert await line.read(4) == b"\x00\r\n\xff"
            line.write(b"\x03\x04\x11\x13")
            await ear.until(4)
            assert ear.data == b"\x03\x04\x11\x13"
            with pytest.raises(DeviceError, match="has it open"):
                async with opened(line.path):
                    pass
            line.unplug()
            await ear.until(lost=True)
            assert not port.write(b"x")
        assert len(ear.lost) == 1


async def test_a_device_that_takes_nothing_does_not_hold_anybody_up() -> None:
    with SerialLine() as line:
        async with opened(line.path) as (port, _):
            begin = time.perf_counter()
            while port.write(bytes(4096)):
                assert time.perf_counter() - begin < 10.0
            assert time.perf_counter() - begin < 5.0
            assert port.unsent_dropped == 4096
            got = 0
            async with asyncio.timeout(20.0):
                while got < MAX_UNSENT:
                    got += len(line.pending())
                    await asyncio.sleep(0)
            assert port.write(b"again")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("/dev/no-such-line", "plugged in"),
        ("/dev/null", "cannot open /dev/null"),
        ("socket://127.0.0.1", "socket://host:port"),
        ("socket://127.0.0.1:1", "cannot open"),
        ("rfc2217://127.0.0.1:1", "cannot open"),
        ("nonsense://x", "cannot open"),
    ],
)
async def test_what_cannot_be_opened_is_said(url: str, words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        async with opened(url):
            pass


async def test_a_port_without_rs485_says_so() -> None:
    with SerialLine() as line:
        with pytest.raises(DeviceError, match="RS-485"):
            async with opened(line.path, rs485=True):
                pass
        async with opened(line.path) as (port, _):
            with pytest.raises(DeviceError, match="RTS"):
                port.set_rts(True)


async def test_a_socket() -> None:
    far: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    server = await asyncio.start_server(lambda r, w: far.append((r, w)), "127.0.0.1", 0)
    number = server.sockets[0].getsockname()[1]
    async with opened(f"socket://127.0.0.1:{number}") as (port, ear):
        port.write(b"hello")
        await until(lambda: far, "the far end accepts")
        assert await far[0][0].readexactly(5) == b"hello"
        far[0][1].write(b"there")
        await ear.until(5)
        with pytest.raises(DeviceError):
            port.set_dtr(True)
        far[0][1].close()
        await ear.until(lost=True)
        assert not port.write(b"x")
    server.close()
    assert len(ear.lost) == 1


class Rfc2217Server:
    """pyserial's port manager on a loop of its own: its lines, and what was set on them."""

    def __init__(self) -> None:
        self.line = serial.serial_for_url("loop://", timeout=0.02)
        self.lines: list[tuple[str, bool]] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.client: socket.socket | None = None
        self.thread = threading.Thread(target=self._serve, daemon=True)
        outer = self

        class Watched(type(self.line)):  # type: ignore[misc]
            @property
            def rts(self) -> bool:
                return bool(super().rts)

            @rts.setter
            def rts(self, on: bool) -> None:
                outer.lines.append(("rts", bool(on)))
                type(outer).base.rts.fset(self, on)

            @property
            def dtr(self) -> bool:
                return bool(super().dtr)

            @dtr.setter
            def dtr(self, on: bool) -> None:
                outer.lines.append(("dtr", bool(on)))
                type(outer).base.dtr.fset(self, on)

        Rfc2217Server.base = type(self.line)
        self.line.__class__ = Watched
        self.lines.clear()

    base: Any = None

    def _serve(self) -> None:
        client, _ = self.socket.accept()
        self.client = client
        client.settimeout(0.02)

        class Connection:
            @staticmethod
            def write(data: bytes) -> None:
                client.sendall(data)

        manager = serial.rfc2217.PortManager(self.line, Connection)
        while True:
            try:
                data = client.recv(1024)
                if not data:
                    return
                self.line.write(b"".join(manager.filter(data)))
            except TimeoutError:
                pass
            except OSError:
                return
            if back := self.line.read(self.line.in_waiting):
                with contextlib.suppress(OSError):
                    client.sendall(b"".join(manager.escape(back)))


@pytest.fixture
def rfc2217() -> Iterator[Rfc2217Server]:
    server = Rfc2217Server()
    server.thread.start()
    yield server
    server.socket.close()
    if server.client is not None:
        server.client.close()
    server.thread.join(2.0)


async def test_rfc2217_opens_without_keying_anything(rfc2217: Rfc2217Server) -> None:
    before = set(threading.enumerate())
    async with opened(f"rfc2217://127.0.0.1:{rfc2217.port}") as (port, ear):
        assert {on for _, on in rfc2217.lines} == {False}, "a line was raised while opening"
        port.write(b"\xff\x00echo")
        await ear.until(6)
        assert ear.data == b"\xff\x00echo"
        port.set_rts(True)
        await until(lambda: ("rts", True) in rfc2217.lines, "the line is raised")
    # What opened the port was a thread of the loop's pool, which stays.
    await until(
        lambda: all("asyncio" in each.name for each in set(threading.enumerate()) - before),
        "no thread is left",
    )


async def test_rfc2217_server_dies(rfc2217: Rfc2217Server) -> None:
    async with opened(f"rfc2217://127.0.0.1:{rfc2217.port}") as (_, ear):
        assert rfc2217.client is not None
        rfc2217.client.shutdown(socket.SHUT_RDWR)
        await ear.until(lost=True)


async def test_the_loop_is_not_held_up_by_slow_opening() -> None:
    deaf = socket.create_server(("127.0.0.1", 0))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    try:
        with pytest.raises(DeviceError):
            async with opened(f"rfc2217://127.0.0.1:{deaf.getsockname()[1]}"):
                pass
    finally:
        ticking.cancel()
        deaf.close()
    assert ticks > 50


async def test_the_settings_reach_the_line(tmp_path: Path) -> None:
    import termios

    with SerialLine() as line:
        async with opened(line.path, baud=19200, data_bits=7, parity="E", stop_bits=2):
            fd = os.open(line.path, os.O_RDWR | os.O_NOCTTY)
            flags = termios.tcgetattr(fd)
            os.close(fd)
    assert flags[4] == flags[5] == termios.B19200
    assert flags[2] & termios.CSTOPB
    # A pseudo-terminal has eight bits whatever is asked of it (pty(7) keeps no others).
