"""Speech: the audio of one leg, between the media engine and wherever the station's speech is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

from gateway.adapters.base import Host
from gateway.adapters.intercom.config import Station
from gateway.errors import DeviceError
from gateway.media.streams import Codec, DeviceSpec, RtpSpec, StreamOptions

BLOCK = 160
"""Octets of 20 ms of G.711."""
_WAITING_BLOCKS = 4


class BusSpeech:
    """Blocks of 20 ms that travel in the bus's frames: `spoken` gets those of the gateway."""

    def __init__(
        self,
        host: Host,
        leg: str,
        codec: str,
        spoken: Callable[[bytes], None],
        options: StreamOptions = StreamOptions(),  # noqa: B008 (frozen)
    ) -> None:
        """Raises `DeviceError` when the engine has no stream left."""
        self._spoken = spoken
        self._near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._far.setblocking(False)
        self._loop = asyncio.get_running_loop()
        spec = DeviceSpec(
            fd=self._near.fileno(), codec=Codec(codec), block_bytes=BLOCK, paced_by_device=False
        )
        try:
            host.open_stream(leg, spec, options)
        except BaseException:
            self._near.close()
            self._far.close()
            raise
        self._loop.add_reader(self._far, self._readable)

    def heard(self, block: bytes) -> bool:
        """A block of the station's; False: the engine takes none just now."""
        try:
            self._far.send(block)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close both ends; the engine has its own copy until the leg's stream is closed."""
        if self._far.fileno() >= 0:
            self._loop.remove_reader(self._far)
        self._near.close()
        self._far.close()

    def _readable(self) -> None:
        for _ in range(_WAITING_BLOCKS):
            try:
                block = self._far.recv(BLOCK)
            except OSError:
                return
            self._spoken(block)


def open_elsewhere(host: Host, leg: str, station: Station) -> None:
    """Give the leg another adapter's port, a device or an RTP socket: the bus carries the control
    alone.

    Raises `DeviceError`.
    """
    if station.borrowed:
        host.borrow_stream(leg, station.borrowed)
        return
    codec, options = Codec(station.audio_local_codec), StreamOptions(**station.shaping)
    if (remote := station.remote) is not None:
        host.open_stream(
            leg,
            RtpSpec(
                local_ip=station.audio_local_ip,
                remote_ip=remote[0],
                remote_port=remote[1],
                codec=codec,
                payload_type=0 if codec is Codec.PCMU else 8,
            ),
            options,
        )
        return
    try:
        fd = os.open(station.audio, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        raise DeviceError(f"cannot open {station.audio}: {error.strerror}") from error
    try:
        host.open_stream(leg, DeviceSpec(fd=fd, codec=codec), options)
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
