"""Speech: a module's PCM port, between it and the media engine."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import termios
import tty
from collections.abc import Callable
from typing import Final

from gateway.adapters.base import Host
from gateway.errors import DeviceError
from gateway.media.streams import Codec, DeviceSpec, StreamOptions

BLOCK: Final = 320
"""Octets of 20 ms: 8000 samples of 16 bits a second."""
MAX_WAITING: Final = 6 * BLOCK
"""Octets that the module has not taken, 120 ms; then the oldest are dropped."""


class PcmPort:
    """Raw 16-bit samples on a tty. The module sets the pace: the engine gives a block for each
    that came, so that the clocks of both need not agree.

    `lost` is called once, when the port is gone.
    """

    def __init__(
        self,
        host: Host,
        leg: str,
        path: str,
        options: StreamOptions,
        lost: Callable[[str], None],
    ) -> None:
        """Raises `DeviceError`: the port cannot be opened, or the engine has no stream left."""
        self.n_heard = 0
        """Octets from the module."""
        self._host, self._lost = host, lost
        self._loop = asyncio.get_running_loop()
        self._came, self._unsent = bytearray(), bytearray()
        self._fd = _open(path)
        self._near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._far.setblocking(False)
        spec = DeviceSpec(fd=self._near.fileno(), codec=Codec.L16, block_bytes=BLOCK)
        try:
            host.open_stream(leg, spec, options)
        except BaseException:
            os.close(self._fd)
            self._near.close()
            self._far.close()
            raise
        self._loop.add_reader(self._fd, self._readable)
        self._loop.add_reader(self._far, self._spoken)

    def close(self) -> None:
        """Close it; harmless twice."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self._loop.remove_reader(fd)
        self._loop.remove_reader(self._far)
        os.close(fd)
        self._near.close()
        self._far.close()

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, 4096)
        except BlockingIOError:
            return
        except OSError as error:
            self._gone(error.strerror or str(error))
            return
        if not data:
            self._gone("end of the line: unplugged")
            return
        self.n_heard += len(data)
        self._came += data
        while len(self._came) >= BLOCK:
            try:
                self._far.send(self._came[:BLOCK])
            except OSError:
                self._host.count("audio_dropped")
            del self._came[:BLOCK]

    def _spoken(self) -> None:
        for _ in range(8):
            try:
                block = self._far.recv(BLOCK)
            except OSError:
                break
            self._unsent += block
        if not self._unsent:
            return
        try:
            del self._unsent[: os.write(self._fd, self._unsent)]
        except BlockingIOError:
            pass
        except OSError as error:
            self._gone(error.strerror or str(error))
            return
        if (excess := len(self._unsent) - MAX_WAITING) > 0:
            # Whole samples: half a one would make noise of all that follows.
            del self._unsent[: excess + excess % 2]
            self._host.count("audio_late")

    def _gone(self, why: str) -> None:
        self.close()
        self._lost(why)


def _open(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError(f"cannot open {path}: {error.strerror}") from error
    try:
        fcntl.ioctl(fd, termios.TIOCEXCL)
        tty.setraw(fd, termios.TCSANOW)
        # What the module said before, positions of satellites perhaps, is no speech.
        termios.tcflush(fd, termios.TCIOFLUSH)
    except (OSError, termios.error) as error:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise DeviceError(f"{path} is no serial port: {error}") from error
    return fd
