"""Where a radio's audio is: datagrams, programs, USRP. Used by the pump's thread alone."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final, Protocol

from gateway.adapters.radio.config import AlsaAudio, Audio, CommandAudio, UdpAudio, Usrp, address
from gateway.errors import DeviceError, PeerError
from gateway.protocols.radio import usrp
from gateway.protocols.radio.speech import frame_bytes

F_SETPIPE_SZ: Final = 1031
_READS: Final = 32
_DATAGRAM: Final = 65536
AHEAD: Final = 1000
"""Sequence numbers that are left free for a release sent in our stead."""
LOST_S: Final = 0.2
"""A network radio that sends nothing for so long has stopped speaking."""


class Link(Protocol):
    """The far side of a pump. All calls return at once; `OSError` or `DeviceError`: it broke."""

    rate: int
    carrier: bool | None
    """Whether somebody speaks; None when this link cannot tell."""
    refused: int
    """What arrived and made no sense."""

    def read(self) -> bytes:
        """Samples that arrived since the last call."""

    def write(self, frame: bytes) -> None:
        """One frame on the air."""

    def idle(self) -> None:
        """A frame's time in which nothing is transmitted."""

    def over(self) -> None:
        """Our over is over."""

    def release(self) -> bytes:
        """The datagram that would say so from elsewhere; empty where a line says it."""

    def released(self) -> None:
        """That datagram was sent."""

    def fileno(self) -> int:
        """Descriptor by which the over is ended; -1 where a line does it."""

    def close(self) -> None:
        """Let go of everything."""


class _Wired:
    """A link whose keying is a line's."""

    carrier: bool | None = None
    refused = 0

    def over(self) -> None:
        """The line says it."""

    def release(self) -> bytes:
        """The line says it."""
        return b""

    def released(self) -> None:
        """The line says it."""

    def fileno(self) -> int:
        """The line says it."""
        return -1


class UdpLink(_Wired):
    """Raw samples in datagrams."""

    def __init__(self, config: UdpAudio) -> None:
        self.rate: int = config.rate
        self._socket = _bound(config.listen)
        self._to = address(config.send)
        self._silence = bytes(frame_bytes(config.rate)) if config.idle_silence else b""

    def read(self) -> bytes:
        found = []
        for data, source in _received(self._socket):
            if len(data) % 2 or not data or source[0] != self._to[0]:
                self.refused += 1
                continue
            found.append(_native(data))
        return b"".join(found)

    def write(self, frame: bytes) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._socket.sendto(_native(frame), self._to)

    def idle(self) -> None:
        if self._silence:
            self.write(self._silence)

    def close(self) -> None:
        self._socket.close()


class CommandLink(_Wired):
    """Two programs at pipes."""

    def __init__(self, record: tuple[str, ...], play: tuple[str, ...], rate: int,
                 *, idle_silence: bool) -> None:  # fmt: skip
        self.rate = rate
        self._silence = bytes(frame_bytes(rate)) if idle_silence else b""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._half = b""
        try:
            source = self._start(record, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            sink = self._start(play, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        except OSError as error:
            self.close()
            raise DeviceError(f"{error.filename}: {error.strerror}") from error
        assert source.stdout is not None
        assert sink.stdin is not None
        self._in, self._out = source.stdout.fileno(), sink.stdin.fileno()
        for fd in (self._in, self._out):
            os.set_blocking(fd, False)
        with contextlib.suppress(OSError):
            # What waits in the pipe is heard late: 64 KiB would be two seconds.
            fcntl.fcntl(self._out, F_SETPIPE_SZ, 4096)

    def _start(
        self, command: tuple[str, ...], *, stdin: int, stdout: int
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL, bufsize=0,
            start_new_session=True,
        )  # fmt: skip
        self._processes.append(process)
        return process

    def read(self) -> bytes:
        try:
            data = os.read(self._in, _DATAGRAM)
        except BlockingIOError:
            return b""
        if not data:
            raise DeviceError("the program that records has ended")
        data = self._half + data
        whole = len(data) & ~1
        self._half = data[whole:]
        return _native(data[:whole])

    def write(self, frame: bytes) -> None:
        try:
            if os.write(self._out, _native(frame)) % 2:
                self.refused += 1
        except BlockingIOError:
            self.refused += 1  # the player does not keep up: this frame is lost
        except BrokenPipeError:
            raise DeviceError("the program that plays has ended") from None

    def idle(self) -> None:
        if self._silence:
            self.write(self._silence)

    def close(self) -> None:
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            process.kill()
            process.wait()
        self._processes.clear()


class UsrpLink:
    """A USRP channel: voice is the carrier, a frame without keyup ends it."""

    def __init__(self, config: Usrp) -> None:
        self.rate = usrp.RATE
        self.carrier: bool | None = False
        self.refused = 0
        self._talkgroup = config.talkgroup
        self._to = address(f"{config.host}:{config.port}")
        self._socket = _bound(config.listen)
        # The guard ends an over through this one: it knows no addresses.
        self._farewell = socket.socket(self._socket.family, socket.SOCK_DGRAM)
        try:
            self._farewell.connect(self._to)
        except OSError as error:
            self.close()
            raise DeviceError(f"USRP {config.host}:{config.port}: {error.strerror}") from error
        self._sequence = 0
        self._heard_at = 0.0

    def read(self) -> bytes:
        found = []
        for data, source in _received(self._socket):
            try:
                # From any port of that host: some bridges send from another than they hear on.
                if source[0] != self._to[0]:
                    raise PeerError(f"USRP: a frame from {source[0]}")
                frame = usrp.Frame.parse(data)
            except PeerError:
                self.refused += 1
                continue
            if frame.type is not usrp.Type.VOICE:
                continue
            self.carrier = frame.keyup and bool(frame.payload)
            if self.carrier:
                self._heard_at = time.monotonic()
                found.append(_native(frame.payload))
        if self.carrier and time.monotonic() - self._heard_at > LOST_S:
            self.carrier = False
        return b"".join(found)

    def write(self, frame: bytes) -> None:
        self._send(True, _native(frame))

    def idle(self) -> None:
        """Nothing is sent between overs."""

    def over(self) -> None:
        for _ in range(3):
            self._send(False)

    def release(self) -> bytes:
        number = self._sequence + AHEAD
        return usrp.Frame(number, False, usrp.Type.VOICE, self._talkgroup).pack()

    def released(self) -> None:
        self._sequence += 2 * AHEAD

    def fileno(self) -> int:
        return self._farewell.fileno()

    def close(self) -> None:
        self._socket.close()
        self._farewell.close()

    def _send(self, keyup: bool, payload: bytes = b"") -> None:
        self._sequence += 1
        frame = usrp.Frame(self._sequence, keyup, usrp.Type.VOICE, self._talkgroup, payload)
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._socket.sendto(frame.pack(), self._to)


def open_audio(audio: Audio) -> Link:
    """The link that a configuration names. Raises `DeviceError`."""
    if isinstance(audio, UdpAudio):
        return UdpLink(audio)
    if isinstance(audio, CommandAudio):
        return CommandLink(audio.record, audio.play, audio.rate, idle_silence=audio.idle_silence)
    assert isinstance(audio, AlsaAudio)
    form = ("-q", "-t", "raw", "-f", "S16_LE", "-c", "1", "-r", str(audio.rate),
            "-D", audio.device, "--period-size", str(audio.rate // 50))  # fmt: skip
    return CommandLink(("arecord", *form), ("aplay", *form), audio.rate, idle_silence=True)


def _received(sock: socket.socket) -> Iterator[tuple[bytes, tuple[str, int]]]:
    """The datagrams that are there, each with whose it is; no more than fits into one turn."""
    for _ in range(_READS):
        try:
            yield sock.recvfrom(_DATAGRAM)
        except BlockingIOError:
            return
        except ConnectionError:
            continue


def _bound(listen: str) -> socket.socket:
    where = address(listen)
    made = socket.socket(socket.AF_INET6 if ":" in where[0] else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.bind(where)
    except OSError as error:
        made.close()
        raise DeviceError(f"cannot listen on udp {listen}: {error.strerror}") from error
    return made


async def resolved(text: str) -> str:
    """``host:port`` with the host's address. Raises `DeviceError` when it has none."""
    host, port = address(text)
    loop = asyncio.get_running_loop()
    try:
        found = (await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM))[0][4]
    except OSError as error:
        raise DeviceError(f"{host}: {error.strerror}") from error
    return f"{found[0]}:{port}"


def _native(samples: bytes) -> bytes:
    """Little-endian samples in the machine's order, or the other way round."""
    if sys.byteorder == "little":
        return samples
    swapped = bytearray(samples)
    swapped[0::2], swapped[1::2] = samples[1::2], samples[0::2]
    return bytes(swapped)
