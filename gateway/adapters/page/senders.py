"""Senders: how each dialect begins a page, carries its audio, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from typing import Protocol

from gateway.adapters.page.config import Dialect, PageSection, Zone, parse_group
from gateway.core.actions import Dial
from gateway.drivers._framer import Framer
from gateway.errors import DeviceError
from gateway.media.streams import Codec, DeviceSpec, Direction, RtpSpec, StreamSpec
from gateway.protocols import paging
from gateway.protocols.paging import PolyCodec, PolyOperation, SpaCommand, SpaControl

_PAYLOAD_TYPES = {Codec.PCMU: 0, Codec.PCMA: 8, Codec.G722: 9}
_POLY_CODECS = {
    Codec.PCMU: PolyCodec.PCMU, Codec.PCMA: PolyCodec.PCMA, Codec.G722: PolyCodec.G722
}  # fmt: skip
_HURRIED_ENDS = 3
"""What Poly receivers believe at the least."""


class Sender(Protocol):
    """One page's way to one zone. `open` first; `close` at last, in any case."""

    def open(self) -> StreamSpec:
        """Open what is needed; the stream to open. Raises `DeviceError`."""

    async def begin(self) -> None:
        """Tell the receivers that a page comes; the audio counts from its end on."""

    async def finish(self, *, hurry: bool) -> None:
        """Tell them that it is over. hurry: something more urgent waits for the zone."""

    def abort(self) -> None:
        """Tell them at once, without waiting for anything; harmless when told already."""

    def facts(self) -> str:
        """What of it a receipt should say; empty for nothing."""

    def close(self) -> None:
        """Free what was opened."""


def make_sender(section: PageSection, zone: Zone, action: Dial) -> Sender:
    """The sender of a page that is asked for."""
    match zone.dialect:
        case Dialect.RTP:
            return RtpSender(section, zone, action)
        case Dialect.SPA:
            return SpaSender(section, zone, action)
        case Dialect.POLY:
            return PolySender(section, zone, action)


def sending_socket(section: PageSection, zone: Zone, group: tuple[str, int]) -> socket.socket:
    """A UDP socket connected to a group through the zone's interface. Raises `DeviceError`."""
    interface = zone.interface or section.interface
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, section.dscp << 2)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, zone.ttl or section.ttl)
        if interface != "0.0.0.0":
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
            sock.bind((interface, 0))
        sock.connect(group)
    except OSError as error:
        sock.close()
        way = f" from {interface}" if interface != "0.0.0.0" else ""
        raise DeviceError(
            f"cannot send to {group[0]}{way}: {error.strerror or error} (does the address exist, "
            "is there a route for multicast?)"
        ) from error
    return sock


class RtpSender:
    """Plain RTP: the engine sends straight to the group."""

    def __init__(self, section: PageSection, zone: Zone, action: Dial) -> None:
        self._section, self._zone, self._action = section, zone, action

    @property
    def group(self) -> tuple[str, int]:
        """Where the audio goes."""
        return self._zone.destination(self._action.priority)

    def open(self) -> StreamSpec:
        section, zone = self._section, self._zone
        # The kernel refuses here what the engine could only count.
        sending_socket(section, zone, self.group).close()
        host, port = self.group
        return RtpSpec(
            local_ip=zone.interface or section.interface,
            remote_ip=host,
            remote_port=port,
            codec=zone.codec,
            payload_type=_PAYLOAD_TYPES[zone.codec],
            rate=16000 if zone.codec is Codec.G722 else 8000,
            ptime_ms=20,
            direction=Direction.SENDONLY,
            symmetric=False,
            multicast_ttl=zone.ttl or section.ttl,
            dscp=section.dscp,
        )

    async def begin(self) -> None:
        """Receivers begin with the first packet."""

    async def finish(self, *, hurry: bool) -> None:
        """The engine says goodbye in RTCP; receivers also end by themselves after 100 ms."""

    def abort(self) -> None: ...

    def facts(self) -> str:
        return ""

    def close(self) -> None: ...


class SpaSender(RtpSender):
    """RTP between two control packets to start and two to stop."""

    def __init__(self, section: PageSection, zone: Zone, action: Dial) -> None:
        super().__init__(section, zone, action)
        self._identifier = random.getrandbits(32)
        self._sock: socket.socket | None = None
        self._started = False

    def open(self) -> StreamSpec:
        self._sock = sending_socket(self._section, self._zone, parse_group(self._zone.control))
        return super().open()

    async def begin(self) -> None:
        self._started = True
        await self._say(SpaCommand.START)

    async def finish(self, *, hurry: bool) -> None:
        if self._started:
            await self._say(SpaCommand.STOP)
            self._started = False

    def abort(self) -> None:
        if self._started:
            self._started = False
            for _ in range(paging.SPA_TIMES):
                self._send(SpaCommand.STOP)

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    async def _say(self, command: SpaCommand) -> None:
        for n in range(paging.SPA_TIMES):
            if n:
                await asyncio.sleep(paging.SPA_SPACING_S)
            self._send(command)

    def _send(self, command: SpaCommand) -> None:
        host, port = self.group
        packet = SpaControl(identifier=self._identifier, command=command, group=host, port=port)
        if self._sock is not None:
            # Sent twice because one may be lost, also here.
            with contextlib.suppress(OSError):
                self._sock.send(packet.encode())


class PolySender:
    """Poly packets: the engine's frames go through a framer thread, never through Python."""

    def __init__(self, section: PageSection, zone: Zone, action: Dial) -> None:
        self._section, self._zone = section, zone
        self._group = zone.destination(action.priority)
        self._channel = zone.override(action.priority).channel or zone.channel
        self._caller_id = action.display or action.calling or "Page"
        self._sock: socket.socket | None = None
        self._framer: Framer | None = None
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._started = False

    def open(self) -> StreamSpec:
        sock = self._sock = sending_socket(self._section, self._zone, self._group)
        near, far = self._pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        codec = _POLY_CODECS[self._zone.codec]
        prefix = self._header(PolyOperation.TRANSMIT) + paging.poly_audio_header(codec)
        try:
            self._framer = Framer(
                far.fileno(),
                sock.fileno(),
                prefix,
                frame_bytes=paging.POLY_FRAME_BYTES,
                step=paging.POLY_TICKS,
                count=random.getrandbits(32),
            )
        except OSError as error:
            raise DeviceError(str(error)) from error
        return DeviceSpec(
            fd=near.fileno(),
            codec=self._zone.codec,
            rate=16000 if self._zone.codec is Codec.G722 else 8000,
            block_bytes=paging.POLY_FRAME_BYTES,
            paced_by_device=False,
        )

    def _header(self, operation: PolyOperation) -> bytes:
        serial = self._section.poly_serial
        return paging.poly_header(operation, self._channel, serial, self._caller_id)

    async def begin(self) -> None:
        self._started = True
        await self._repeat(PolyOperation.ALERT, paging.POLY_ALERTS)
        await asyncio.sleep(paging.POLY_SPACING_S)
        if self._framer is not None:
            self._framer.forward(True)

    async def finish(self, *, hurry: bool) -> None:
        if not self._started:
            return
        if self._framer is not None:
            self._framer.forward(False)
        if not hurry:
            await asyncio.sleep(paging.POLY_PAUSE_S)
        await self._repeat(PolyOperation.END, _HURRIED_ENDS if hurry else paging.POLY_ENDS)
        self._started = False

    def abort(self) -> None:
        if self._started:
            self._started = False
            if self._framer is not None:
                self._framer.forward(False)
            for _ in range(paging.POLY_ENDS):
                self._send(PolyOperation.END)

    async def _repeat(self, operation: PolyOperation, times: int) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for n in range(times):
            if n:
                due += paging.POLY_SPACING_S
                await asyncio.sleep(due - loop.time())
            self._send(operation)

    def _send(self, operation: PolyOperation) -> None:
        if self._sock is not None:
            # One of many; whoever misses all of them ends by the silence.
            with contextlib.suppress(OSError):
                self._sock.send(self._header(operation))

    def facts(self) -> str:
        sent, _, errors, gap_ns = self._framer.counts() if self._framer else (0, 0, 0, 0)
        said = [f"longest gap {gap_ns / 1e6:.1f} ms"] if sent > 1 else []
        return ", ".join([*said, *([f"{errors} packets not sent"] if errors else [])])

    def close(self) -> None:
        if self._framer is not None:
            self._framer.close()
            self._framer = None
        for sock in (self._sock, *(self._pair or ())):
            if sock is not None:
                sock.close()
        self._sock = self._pair = None
