"""Receipts: who gave a sign of having played a page.

Two kinds of sign. Receivers that send RTCP receiver reports (RFC 3550 section 6.4.2) to the group
name themselves by address; inputs of other adapters (an amplifier's contact, a microphone's level)
are followed on the bus. Neither holds a page up: without a sign it is played all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable

from gateway._codecs.rtp import parse_rtcp
from gateway.adapters.base import Host
from gateway.adapters.page.config import Feedback, Zone
from gateway.core.events import InputChanged, PageMember, Quality
from gateway.errors import PeerError

_SENDER_REPORT = 200
_ALL_LOST = 255
_MOST_SOURCES = 4096
"""Addresses that one page remembers; a flood of forged reports must not fill the memory."""


class Receipt:
    """What is known of one page's reception."""

    def __init__(self, zone: Zone, feedback: Inputs) -> None:
        self._zone, self._feedback = zone, feedback
        self._heard: dict[str, set[int]] = {}
        """Reporter's address to the sources that it reported on."""
        self._active: dict[str, Feedback] = {}
        self.own_ssrc: int | None = None
        """Once our own sender report came back to us."""

    def reported(self, address: str, source: int) -> None:
        """A receiver reported on a source of our group."""
        if address in self._heard or len(self._heard) < _MOST_SOURCES:
            self._heard.setdefault(address, set()).add(source)

    def active(self, feedback: Feedback) -> None:
        """An input said that the zone plays."""
        self._active[feedback.label] = feedback

    def look(self) -> None:
        """Take in what the inputs say now: some were active before the page began."""
        for feedback in self._zone.feedback:
            if self._feedback.holds(feedback):
                self.active(feedback)

    @property
    def given(self) -> tuple[PageMember, ...]:
        """Who gave a sign, and which."""
        found = [
            PageMember(
                name=self._zone.members.get(address, address),
                by="rtcp",
                evidence=f"receiver report from {address}",
            )
            for address, sources in self._heard.items()
            if self.own_ssrc is None or self.own_ssrc in sources
        ]
        inputs = [
            PageMember(name=name, by="input", evidence=f"{feedback.endpoint} {feedback.input}")
            for name, feedback in sorted(self._active.items())
        ]
        return (*found, *inputs)

    @property
    def members(self) -> tuple[str, ...]:
        """Who gave a sign: names where they are configured, else addresses."""
        return tuple(each.name for each in self.given)

    @property
    def missing(self) -> tuple[str, ...]:
        """Who should have, and did not."""
        members = set(self.members)
        wanted = (*self._zone.members.values(), *(each.label for each in self._zone.feedback))
        return tuple(name for name in dict.fromkeys(wanted) if name not in members)

    def __str__(self) -> str:
        parts = []
        if members := self.members:
            parts.append(f"played by {', '.join(members)}")
        if missing := self.missing:
            parts.append(f"no sign from {', '.join(missing)}")
        return "; ".join(parts)


class Inputs:
    """The feedback inputs of all zones, as last heard. Driven by `changed`."""

    def __init__(self, zones: Iterable[Zone]) -> None:
        wanted = {(each.endpoint, each.input) for zone in zones for each in zone.feedback}
        self._values: dict[tuple[str, str], InputChanged | None] = dict.fromkeys(wanted)

    @property
    def any(self) -> bool:
        """Whether there is anything to follow."""
        return bool(self._values)

    def changed(self, event: InputChanged) -> bool:
        """Take an event in; whether it concerned one of ours."""
        key = (event.endpoint, event.input)
        if key not in self._values:
            return False
        self._values[key] = event
        return True

    def holds(self, feedback: Feedback) -> bool:
        """Whether the input has its value now, beyond doubt."""
        event = self._values.get((feedback.endpoint, feedback.input))
        return event is not None and event.quality is Quality.GOOD and event.value == feedback.value


class Reports:
    """Listens to the RTCP of one group. Driven by the socket; tells `pages` of the group."""

    def __init__(
        self, host: Host, group: tuple[str, int], interface: str,
        receipts: Callable[[tuple[str, int]], Iterable[tuple[Receipt, tuple[str, int]]]],
    ) -> None:  # fmt: skip
        """receipts: those of the group's present pages, each with our own RTCP address.

        Raises `OSError` when the group cannot be joined.
        """
        self._host, self._group, self._receipts = host, group, receipts
        self.ended: deque[tuple[str, int]] = deque(maxlen=16)
        """Our own addresses of pages that are over: they still say goodbye."""
        sock = self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Bound to the group: what is sent to our own addresses is no business of this one.
            sock.bind((group[0], group[1] + 1))
            request = struct.pack("=4s4s", socket.inet_aton(group[0]), socket.inet_aton(interface))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        except OSError:
            sock.close()
            raise
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)

    def close(self) -> None:
        """Leave the group."""
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()

    def _readable(self) -> None:
        for _ in range(32):
            with contextlib.suppress(OSError):
                data, source = self._sock.recvfrom(2048)
                self._take(data, source)
                continue
            return

    def _take(self, data: bytes, source: tuple[str, int]) -> None:
        try:
            packets = parse_rtcp(data)
        except PeerError:
            self._host.count("bad_rtcp")
            return
        pages = list(self._receipts(self._group))
        for receipt, own in pages:
            if _same(source, own):
                receipt.own_ssrc = next(
                    (packet.ssrc for packet in packets if packet.type == _SENDER_REPORT), None
                )
                return
        if any(packet.type == _SENDER_REPORT for packet in packets) and not any(
            _same(source, own) for own in self.ended
        ):
            self._host.count("foreign_sender")
        for packet in packets:
            for report in packet.reports:
                if report.fraction_lost < _ALL_LOST and report.highest_seq:
                    for receipt, _ in pages:
                        receipt.reported(source[0], report.ssrc)


def _same(source: tuple[str, int], own: tuple[str, int]) -> bool:
    # What is bound to no address sends from whichever the route has.
    return source[1] == own[1] and own[0] in (source[0], "0.0.0.0")
