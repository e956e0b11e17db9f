"""Capture: what went over the wires as a pcapng file that Wireshark, tshark and sngrep open.

All packets are IP (LINKTYPE_RAW), because most readers take one link type for a file. What had no
IP of its own gets addresses of 198.18.0.0/15 (RFC 2544), which the file names after its endpoints:

- SIP, RTP and RTCP: UDP or TCP between the addresses they had
- MQTT: TCP, port 1883 on the far side, each message as a PUBLISH
- Modbus: TCP, port 502 on the far side, whatever line it went over
- everything else (DAHDI, serial, AT, radio...): a syslog message, UDP port 514

A packet's comment says what it was, and whose. The clock is the gateway's monotonic one, with the
wall clock's offset of when the file was begun, so that order and intervals are right.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable, Mapping
from typing import Final

from gateway.protocols import packets, pcapng
from gateway.timeline import taps
from gateway.timeline.redact import Redactor
from gateway.timeline.wire import WireEntry

SYSLOG: Final = 514
_PORTS: Final = {"mqtt": 1883, "modbus": 502}
_OURS: Final = "198.18.0.1"
_OUR_PORT: Final = 40000
_SEGMENT: Final = 60_000
_PRIORITY: Final = "<134>"
"""Facility local0, severity info (RFC 3164)."""
_HIDDEN_EVENT: Final = 255
"""In place of a digit that nobody may read."""


class Capture:
    """Writes one file: `begin`, then `take` as often as wanted, at last `end`."""

    def __init__(
        self,
        redactor: Redactor,
        *,
        box: str,
        version: str,
        trace: str = "",
        ties: Mapping[str, str] | None = None,
    ) -> None:
        """ties: the leg of each dialogue; may go on growing."""
        self.n_packets = 0
        self._redactor = redactor
        self._box, self._version, self._trace = box, version, trace
        self._ties = {} if ties is None else ties
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._places: dict[str, str] = {}
        self._sequences: dict[tuple[packets.Address, packets.Address], int] = {}
        self._heard: set[tuple[str, packets.Address, packets.Address]] = set()

    def begin(self) -> bytes:
        """What the file begins with."""
        what = f"trace {self._trace}" if self._trace else "everything"
        comment = f"{what} on {self._box}"
        return (
            pcapng.section(f"Crosspoint {self._version}", comment)
            + pcapng.interface(pcapng.LINKTYPE_RAW, self._box, "what the gateway sent and received")
            + pcapng.names({_OURS: self._box})
        )

    def take(self, entries: Iterable[WireEntry], chunks: Iterable[taps.Chunk]) -> bytes:
        """Blocks of what went over the wires, in order of time."""
        found: list[tuple[int, bytes]] = []
        names: dict[str, str] = {}
        for entry in entries:
            found += self._entry(self._redactor.entry(entry), names)
        for chunk in chunks:
            found += self._chunk(chunk)
        found.sort(key=lambda each: each[0])
        self.n_packets += len(found)
        known = pcapng.names(names) if names else b""
        return known + b"".join(block for _, block in found)

    def end(self, dropped: int) -> bytes:
        """The last block. dropped: packets that did not get into the file."""
        at = time.monotonic_ns() + self._offset_ns
        return pcapng.statistics(at, received=self.n_packets + dropped, dropped=dropped)

    def _entry(self, entry: WireEntry, names: dict[str, str]) -> list[tuple[int, bytes]]:
        at_ns = int(entry.mono * 1e9) + self._offset_ns
        about = entry.about or self._ties.get(entry.dialogue, "") or entry.adapter
        comment = ", ".join(part for part in (entry.kind, about, self._of(entry)) if part)
        if entry.words:
            comment = f"{entry.words}\n{comment}"
        data, port = entry.data, _PORTS.get(entry.kind, 0)
        if isinstance(data, bytes) and entry.ends is not None and _same_version(entry.ends):
            transport, ours, theirs = entry.ends
            if transport == "udp":
                source, target = (ours, theirs) if entry.outward else (theirs, ours)
                blocks = [packets.udp(source, target, data[: packets.MAXIMUM])]
            else:
                if transport != "tcp":
                    comment += f", decrypted, was {transport}"
                blocks = self._stream(ours, theirs, data, entry.outward)
        elif isinstance(data, bytes) and port:
            far = self._place(entry, names)
            blocks = self._stream((_OURS, _OUR_PORT), (far, port), data, entry.outward)
        else:
            words = data if isinstance(data, str) else entry.words or data.hex(" ")
            if isinstance(data, bytes) and entry.words:
                words = f"{words} [{data.hex(' ')}]"
            ours, theirs = (_OURS, SYSLOG), (self._place(entry, names), SYSLOG)
            source, target = (ours, theirs) if entry.outward else (theirs, ours)
            line = " ".join(words.split())
            text = f"{_PRIORITY}{entry.kind} {about}: {line}".encode("utf-8", "replace")
            blocks = [packets.udp(source, target, text[: packets.MAXIMUM])]
        return [
            (at_ns, pcapng.packet(at_ns, each, comment=comment, outward=entry.outward))
            for each in blocks
        ]

    def _of(self, entry: WireEntry) -> str:
        trace = self._trace or next(iter(entry.ids or ()), "")
        return f"trace {trace}" if trace else ""

    def _place(self, entry: WireEntry, names: dict[str, str]) -> str:
        """An address for what has none."""
        name = entry.about.rpartition("#")[0] or entry.about or entry.adapter or entry.kind
        known = self._places.get(name)
        if known is None:
            first = int(ipaddress.ip_address(_OURS)) + 1
            known = str(ipaddress.ip_address(first + len(self._places) % 100_000))
            self._places[name] = known
            names[known] = name
        return known

    def _stream(
        self, ours: packets.Address, theirs: packets.Address, data: bytes, outward: bool
    ) -> list[bytes]:
        """Segments whose numbers go on from those before: a reader puts them together."""
        way = (ours, theirs) if outward else (theirs, ours)
        blocks = []
        for at in range(0, len(data), _SEGMENT):
            part = data[at : at + _SEGMENT]
            sequence = self._sequences.get(way, 1)
            back = self._sequences.get((way[1], way[0]), 1)
            blocks.append(packets.tcp(*way, part, sequence=sequence, acknowledged=back))
            self._sequences[way] = sequence + len(part)
        return blocks

    def _chunk(self, chunk: taps.Chunk) -> list[tuple[int, bytes]]:
        found = []
        for packet in taps.packets(chunk):
            at_ns = packet.mono_ns + self._offset_ns
            way = (packet.local, packet.peer)
            source, target = way if packet.outward else (way[1], way[0])
            data = packet.data
            comment = ""
            if not self._redactor.digits and (at := _event_at(data, chunk.event_type)):
                data = data[:at] + bytes((_HIDDEN_EVENT,)) + data[at + 1 :]
                comment = "the digit is hidden"
            if (chunk.leg, source, target) not in self._heard:
                self._heard.add((chunk.leg, source, target))
                comment = ", ".join(part for part in (f"leg {chunk.leg}", comment) if part)
            try:
                block = packets.udp(source, target, data)
            except ValueError:
                continue
            found.append(
                (at_ns, pcapng.packet(at_ns, block, comment=comment, outward=packet.outward))
            )
        return found


def _event_at(data: bytes, event_type: int | None) -> int:
    """Where the digit of a telephone event stands in an RTP packet, also of one that was not
    negotiated (RFC 4733 section 2.3); 0: it holds none."""
    if len(data) < 16 or data[0] >> 6 != 2:
        return 0
    at = 12 + 4 * (data[0] & 0xF)
    if data[0] & 0x10:
        at += 4 + 4 * int.from_bytes(data[at + 2 : at + 4])
    kind = data[1] & 0x7F
    return at if kind == event_type or (kind >= 96 and at < len(data) <= at + 8) else 0


def _same_version(ends: tuple[str, packets.Address, packets.Address]) -> bool:
    try:
        return ipaddress.ip_address(ends[1][0]).version == ipaddress.ip_address(ends[2][0]).version
    except ValueError:
        return False
