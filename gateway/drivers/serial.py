"""Serial lines through pyserial: a device, RS-485, ``socket://`` and ``rfc2217://``.

Octets in, octets out, no policy. Nothing here waits on the event loop's thread: a device is
polled by the loop, a socket is the loop's own, everything else has two threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, cast
from urllib.parse import urlsplit

import msgspec
import serial
from serial.rs485 import RS485Settings

from gateway.errors import DeviceError

MAX_UNSENT: Final = 65_536
"""Octets that may wait for a line that takes none."""
OPEN_S: Final = 5.0
_CHUNK: Final = 4096
_TICK_S: Final = 0.1


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a line is set. `rs485`: the driver switches the transmitter by RTS."""

    baud: int = 9600
    data_bits: int = 8
    parity: str = "N"
    stop_bits: float = 1
    rs485: bool = False
    rts_before_s: float = 0.0
    rts_after_s: float = 0.0
    rts: bool = False
    """RTS after opening; low, as DTR, so that what hangs on it is not keyed."""
    dtr: bool = False


class SerialPort:
    """An open line. `received` and `lost` are called on the loop's thread, `lost` once at most."""

    unsent_dropped: int = 0
    """Octets that were given up because the line took none."""

    @staticmethod
    async def open(
        url: str,
        settings: Settings,
        received: Callable[[bytes], None],
        lost: Callable[[str], None],
    ) -> SerialPort:
        """Open a path or URL. Raises `DeviceError` naming it, the reason and a remedy."""
        try:
            async with asyncio.timeout(OPEN_S):
                if url.startswith("socket://"):
                    return await _Socket.connect(url, received, lost)
                if "://" not in url:
                    return _Device(_open(url, settings), received, lost)
                opening = asyncio.create_task(asyncio.to_thread(_open, url, settings))
                try:
                    port = await asyncio.shield(opening)
                except asyncio.CancelledError:
                    # The thread cannot be stopped; what it opens in the end is closed.
                    opening.add_done_callback(_close_late)
                    raise
                return _Threaded(port, received, lost)
        except TimeoutError:
            raise DeviceError(f"{url}: no answer within {OPEN_S:g} s") from None
        except (OSError, ValueError) as error:
            text = getattr(error, "strerror", None) or str(error)
            raise DeviceError(f"cannot open {url}: {text}{_remedy(error)}") from error

    def write(self, data: bytes) -> bool:
        """Send; what the line does not take at once waits. False: dropped, too much waits."""
        raise NotImplementedError

    def set_rts(self, on: bool) -> None:
        """Switch RTS. Raises `DeviceError` where there is none."""
        raise DeviceError("this line has no RTS")

    def set_dtr(self, on: bool) -> None:
        """Switch DTR. Raises `DeviceError` where there is none."""
        raise DeviceError("this line has no DTR")

    def close(self) -> None:
        """Close it; harmless twice. What was written still goes out where it can."""
        raise NotImplementedError


def _remedy(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) or getattr(error, "errno", 0) == 2:
        return " (is it plugged in? /dev/serial/by-id names it for good)"
    if isinstance(error, PermissionError) or getattr(error, "errno", 0) == 13:
        return " (add the service's user to the group that owns it, mostly dialout)"
    if getattr(error, "errno", 0) in (11, 16):
        return " (another program has it open)"
    return ""


def _open(url: str, settings: Settings) -> Any:
    port = serial.serial_for_url(url, do_not_open=True)
    port.baudrate = settings.baud
    port.bytesize = settings.data_bits
    port.parity = settings.parity
    port.stopbits = settings.stop_bits
    port.timeout = 0 if "://" not in url else _TICK_S
    port.write_timeout = None if "://" in url else 0
    if "://" not in url:
        port.exclusive = True
    # Before the line is open: pyserial raises both while it opens, which would key a transmitter.
    port.rts = settings.rts
    port.dtr = settings.dtr
    if settings.rs485:
        if "://" in url:
            raise ValueError("rs485 is set by the server at the other end of a URL, not here")
        port.rs485_mode = RS485Settings(
            delay_before_tx=settings.rts_before_s, delay_before_rx=settings.rts_after_s
        )
    try:
        port.open()
    except ValueError as error:
        port.close()
        if settings.rs485:
            raise ValueError(f"{error}: this port's driver has no RS-485 mode") from None
        raise
    with contextlib.suppress(OSError, ValueError, AttributeError, NotImplementedError):
        # USB adapters otherwise collect octets for 16 ms.
        port.set_low_latency_mode(True)
    return port


def _close_late(opening: asyncio.Task[Any]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class _Lines(SerialPort):
    """What pyserial's own ports have in common."""

    def __init__(
        self, port: Any, received: Callable[[bytes], None], lost: Callable[[str], None]
    ) -> None:
        self._port = port
        self._received, self._lost = received, lost
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def set_rts(self, on: bool) -> None:
        self._set("rts", on)

    def set_dtr(self, on: bool) -> None:
        self._set("dtr", on)

    def _set(self, name: str, on: bool) -> None:
        try:
            setattr(self._port, name, on)
        except (OSError, ValueError) as error:
            raise DeviceError(f"cannot switch {name.upper()}: {error}") from error

    def _gone(self, why: str) -> None:
        if not self._closed:
            self.close()
            self._lost(why)


class _Device(_Lines):
    """A character device: the loop waits for it."""

    def __init__(
        self, port: Any, received: Callable[[bytes], None], lost: Callable[[str], None]
    ) -> None:
        super().__init__(port, received, lost)
        self._fd: int = port.fileno()
        self._unsent = bytearray()
        os.set_blocking(self._fd, False)
        self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._gone(error.strerror or str(error))
            return
        if data:
            self._received(data)
        else:
            self._gone("end of the line: unplugged")

    def write(self, data: bytes) -> bool:
        if self._closed:
            return False
        if not self._unsent:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                pass
            except OSError as error:
                # Not at once: the caller is in the middle of something.
                self._loop.call_soon(self._gone, error.strerror or str(error))
                return False
        if not data:
            return True
        if len(self._unsent) + len(data) > MAX_UNSENT:
            self.unsent_dropped += len(data)
            return False
        if not self._unsent:
            self._loop.add_writer(self._fd, self._writable)
        self._unsent += data
        return True

    def _writable(self) -> None:
        try:
            del self._unsent[: os.write(self._fd, self._unsent)]
        except BlockingIOError:
            return
        except OSError as error:
            self._gone(error.strerror or str(error))
            return
        if not self._unsent:
            self._loop.remove_writer(self._fd)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        if self._unsent:
            self._loop.remove_writer(self._fd)
            with contextlib.suppress(OSError):
                os.write(self._fd, self._unsent)
        with contextlib.suppress(OSError):
            self._port.close()


class _Socket(SerialPort, asyncio.Protocol):
    """Raw octets over TCP, as serial device servers offer them."""

    def __init__(self, received: Callable[[bytes], None], lost: Callable[[str], None]) -> None:
        self._received, self._lost = received, lost
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(
        cls, url: str, received: Callable[[bytes], None], lost: Callable[[str], None]
    ) -> _Socket:
        place = urlsplit(url)
        if not place.hostname or not place.port:
            raise ValueError("write socket://host:port")
        found = cls(received, lost)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: found, place.hostname, place.port)
        return found

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._transport = None
            self._lost(str(exc) if exc else "the other end closed the connection")

    def write(self, data: bytes) -> bool:
        if self._transport is None or self._transport.is_closing():
            return False
        if self._transport.get_write_buffer_size() + len(data) > MAX_UNSENT:
            self.unsent_dropped += len(data)
            return False
        self._transport.write(data)
        return True

    def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            if transport.get_write_buffer_size():
                # A peer that reads nothing would keep the connection for ever.
                asyncio.get_running_loop().call_later(1.0, transport.abort)
            transport.close()


class _Threaded(_Lines):
    """Any other URL of pyserial: one thread reads, one writes."""

    def __init__(
        self, port: Any, received: Callable[[bytes], None], lost: Callable[[str], None]
    ) -> None:
        super().__init__(port, received, lost)
        self._unsent: queue.Queue[bytes | tuple[str, bool] | None] = queue.Queue(maxsize=512)
        self._threads = [
            threading.Thread(target=work, name=f"serial {what}", daemon=True)
            for work, what in ((self._read, "reader"), (self._write, "writer"))
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        while not self._closed:
            try:
                data = self._port.read(max(1, self._port.in_waiting))
            except Exception as error:
                self._say(self._gone, str(error) or type(error).__name__)
                return
            if data:
                self._say(self._received_there, bytes(data))

    def _received_there(self, data: bytes) -> None:
        if not self._closed:
            self._received(data)

    def _write(self) -> None:
        while (data := self._unsent.get()) is not None:
            try:
                if isinstance(data, tuple):
                    setattr(self._port, *data)
                else:
                    self._port.write(data)
            except Exception as error:
                self._say(self._gone, str(error) or type(error).__name__)
                break
        # The last to use it closes it.
        self._threads[0].join(2 * _TICK_S)
        with contextlib.suppress(Exception):
            self._port.close()

    def _say(self, what: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(what, *arguments)

    def _set(self, name: str, on: bool) -> None:
        # Each such command of RFC 2217 waits for its answer, some 50 ms.
        try:
            self._unsent.put_nowait((name, on))
        except queue.Full:
            raise DeviceError(f"cannot switch {name.upper()}: the line takes nothing") from None

    def write(self, data: bytes) -> bool:
        if self._closed:
            return False
        try:
            self._unsent.put_nowait(data)
        except queue.Full:
            self.unsent_dropped += len(data)
            return False
        return True

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        while True:
            try:
                self._unsent.put_nowait(None)
                return
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._unsent.get_nowait()
