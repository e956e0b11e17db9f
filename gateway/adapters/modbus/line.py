"""Line: one TCP connection or serial port, and whose turn it is on it.

Requests go one at a time, as the protocol wants it on serial lines and many devices on TCP.
Connections are opened when somebody has something to ask, and again at growing intervals; the
devices find out by themselves that nobody answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import termios
from collections.abc import Callable
from typing import Protocol

import serial  # type: ignore[import-untyped, unused-ignore]
import serial.rs485  # type: ignore[import-untyped, unused-ignore]
from pymodbus.pdu import ModbusPDU

from gateway.adapters.base import Host
from gateway.adapters.modbus.config import Line as SerialLine
from gateway.adapters.modbus.config import Serial
from gateway.adapters.modbus.frames import RtuFrames, TcpFrames
from gateway.errors import PeerError

OPEN_S = 3.0
AGAIN_S = 0.2
AGAIN_MAXIMUM_S = 5.0
SILENT_MAXIMUM = 3
LATE_MAXIMUM = 4096
LONGEST_WAIT_S = 3600.0


class NoAnswer(Exception):
    """The device did not answer; why, in words for a technician."""


class Wire(Protocol):
    """An open connection."""

    gone: str
    """Why it is closed; empty while it is not."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class Asker(Protocol):
    """A device on the line."""

    def turn(self) -> tuple[int, float]:
        """Its class (0 for a command, 1 for a poll) and when it wants to ask something."""

    async def step(self) -> None:
        """Ask one thing."""

    async def finish(self) -> None:
        """Leave everything as it should be found when nobody is here."""


class Line:
    """Driven by its devices through `ask`, `wake` and `serve`."""

    def __init__(
        self,
        host: Host,
        name: str,
        *,
        address: tuple[str, int] | None = None,
        port: SerialLine | None = None,
        rtu: bool = False,
    ) -> None:
        self.name = name
        self.host = host
        self.late = rtu
        """An answer that comes too late cannot be told from the next one."""
        self.askers: list[Asker] = []
        self._address, self._port = address, port
        self._wire: Wire | None = None
        self._data = asyncio.Event()
        self._waiting: Callable[[bytes], None] | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._not_before = 0.0
        self._again_s = AGAIN_S
        self._why = ""
        self._silent = 0
        self._quiet_s = max(38.5 / port.baudrate, 0.00175) if port else 0.0
        self._frames: TcpFrames | RtuFrames
        self._frames = (
            RtuFrames(host.count, echo=bool(port and port.echo)) if rtu else TcpFrames(host.count)
        )
        self._rtu = rtu

    async def serve(self) -> None:
        """Give each device its turn until `stop`, then let them finish what is urgent."""
        try:
            while not self._stopping:
                self._wake.clear()
                wait_s = min(asker.turn()[1] for asker in self.askers) - self.host.now()
                wait_s = min(wait_s, LONGEST_WAIT_S)
                if wait_s > 0:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), wait_s)
                    continue
                asker = min(self.askers, key=lambda a: _rank(a, self.host.now()))
                await asker.step()
                # A device that answers at once must not keep the loop from the others.
                await asyncio.sleep(0)
            for asker in self.askers:
                await asker.finish()
        finally:
            self.close("the gateway stopped")

    def wake(self) -> None:
        """A device has something urgent."""
        self._wake.set()

    def stop(self) -> None:
        """Let `serve` end."""
        self._stopping = True
        self._wake.set()

    @property
    def open(self) -> bool:
        """Whether there is a connection."""
        return self._wire is not None

    def close(self, why: str) -> None:
        """Close the connection; the next `ask` opens another."""
        wire, self._wire = self._wire, None
        self._why = why
        if wire is not None:
            wire.close()

    async def ask(self, request: ModbusPDU, timeout_s: float) -> ModbusPDU:
        """The answer. Raises `NoAnswer`, and `PeerError` for one that is refused or spoilt."""
        wire = self._wire or await self._connect()
        if self._quiet_s:
            await asyncio.sleep(self._quiet_s)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[ModbusPDU] = loop.create_future()

        def feed(data: bytes) -> None:
            if answer.done():
                self.host.count("modbus.late_answers", bool(data))
                return
            try:
                found = self._frames.feed(data)
            except PeerError as error:
                answer.set_exception(error)
            else:
                if found is not None:
                    answer.set_result(found)
                elif wire.gone:
                    answer.set_exception(NoAnswer(wire.gone))

        self._waiting = feed
        try:
            wire.write(self._frames.begin(request))
            if wire.gone:
                raise NoAnswer(wire.gone)
            async with asyncio.timeout(timeout_s):
                found = await answer
        except TimeoutError:
            self._silent += 1
            self.host.count("modbus.timeouts")
            if self._silent >= SILENT_MAXIMUM and self._address:
                # The far end may have rebooted without telling: a new connection shows it.
                self.close(f"{SILENT_MAXIMUM} requests in succession were not answered")
            raise NoAnswer(f"no answer within {timeout_s:g} s") from None
        except NoAnswer as error:
            self.close(str(error))
            raise
        except PeerError as error:
            if error.status == -1:
                self.close(str(error))
            elif error.status is None:
                self.host.count("modbus.bad_answers")
            self._silent = 0
            raise
        else:
            self._silent = 0
            return found
        finally:
            answer.cancel()
            self._waiting = None

    # Opening

    async def _connect(self) -> Wire:
        now = self.host.now()
        if now < self._not_before:
            raise NoAnswer(self._why)
        self._frames = (
            RtuFrames(self.host.count, echo=bool(self._port and self._port.echo))
            if self._rtu
            else TcpFrames(self.host.count)
        )
        try:
            async with asyncio.timeout(OPEN_S):
                self._wire = await (self._open_tcp() if self._address else self._open_serial())
        except (OSError, ValueError) as error:
            # ValueError: pyserial, of a setting that the port does not have.
            text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
            if isinstance(error, TimeoutError):
                text = f"no connection within {OPEN_S:g} s"
            self._why = f"{self.name}: {text or error}"
            self._not_before = self.host.now() + self._again_s
            self._again_s = min(self._again_s * 2, AGAIN_MAXIMUM_S)
            self.host.count("modbus.open_failed")
            raise NoAnswer(self._why) from None
        self._again_s, self._silent = AGAIN_S, 0
        self.host.count("modbus.opened")
        return self._wire

    async def _open_tcp(self) -> Wire:
        assert self._address is not None
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(lambda: _TcpWire(self._received), *self._address)
        return wire

    async def _open_serial(self) -> Wire:
        assert self._port is not None
        opening = asyncio.get_running_loop().run_in_executor(None, open_port, self._port)
        try:
            port = await asyncio.shield(opening)
        except BaseException:
            # The thread goes on: what it opens then must not stay open.
            opening.add_done_callback(_close_late)
            raise
        return SerialWire(port, self._received)

    def _received(self, data: bytes) -> None:
        if self._waiting is not None:
            self._waiting(data)
        elif not data:
            # Closed while nobody asks.
            wire = self._wire
            self.close(wire.gone if wire else "")
        elif self._rtu:
            self.host.count("modbus.noise_octets", len(data))
        else:
            try:
                self._frames.feed(data)
            except PeerError as error:
                self.close(str(error))


def _rank(asker: Asker, now: float) -> tuple[int, float]:
    kind, due = asker.turn()
    return (kind, due) if due <= now else (2, due)


class _TcpWire(asyncio.Protocol):
    def __init__(self, received: Callable[[bytes], None]) -> None:
        self.gone = ""
        self._received = received
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        if not self.gone:
            self._received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.gone:
            self.gone = f"connection lost: {exc}" if exc else "the device closed the connection"
            self._received(b"")

    def write(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            self.gone = self.gone or "the device closed the connection"
        else:
            self._transport.write(data)

    def close(self) -> None:
        self.gone = self.gone or "closed"
        if self._transport is not None:
            self._transport.abort()


def open_port(config: Serial) -> serial.Serial:
    """Open a serial port for ourselves alone; blocks. Raises `OSError`, `ValueError`."""
    port = serial.Serial(
        config.device,
        config.baudrate,
        parity=config.parity,
        stopbits=config.stop_bits,
        timeout=0,
        write_timeout=0,
        exclusive=True,
    )
    try:
        if config.rs485:
            port.rs485_mode = serial.rs485.RS485Settings()
    except BaseException:
        port.close()
        raise
    return port


def _close_late(opening: asyncio.Future[serial.Serial]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class SerialWire:
    """An open serial port on the event loop: `received` gets octets, and none when it is gone."""

    def __init__(self, port: serial.Serial, received: Callable[[bytes], None]) -> None:
        self.gone = ""
        self._port, self._received = port, received
        self._fd: int = port.fileno()
        os.set_blocking(self._fd, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._readable)

    def write(self, data: bytes) -> None:
        """Send a frame; `gone` says when that was not possible."""
        if self.gone:
            return
        try:
            if os.write(self._fd, data) < len(data):
                self._end("the serial port takes no more octets")
        except BlockingIOError:
            self._end("the serial port takes no octets")
        except OSError as error:
            self._end(f"the serial port is gone: {os.strerror(error.errno or 0)}")

    def close(self) -> None:
        """Close the port; what it has not sent yet is thrown away."""
        self._end("closed")
        if self._fd >= 0:
            self._fd = -1
            with contextlib.suppress(OSError, termios.error):
                # The kernel would otherwise wait up to 30 s for a far end that holds us off.
                self._port.reset_output_buffer()
            with contextlib.suppress(OSError):
                self._port.close()

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, LATE_MAXIMUM)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._received(data)
        else:
            self._end("the serial port is gone")
            self._received(b"")

    def _end(self, why: str) -> None:
        if not self.gone:
            self.gone = why
            self._loop.remove_reader(self._fd)
