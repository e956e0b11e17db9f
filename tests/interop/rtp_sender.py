"""Sends RTP as it should not be: a program of its own, so that its clock is nobody else's.

Each line of standard input is one stream in JSON, begun at once:

    from, to        addresses and ports
    octets          file of mu-law octets, sent over and over
    type            payload type
    seconds         how long
    interval_s      from one packet to the next; the timestamp advances by 160 all the same
    lose            of so many packets one is not sent; 0: none
    stall_s         every second, nothing is sent for so long; what waited comes at once
    talk_s, pause_s the caller speaks and is silent in turns; of a silence only the level is sent,
                    as comfort noise (RFC 3389, payload type 13); 0: never silent
    digits          keys sent as RFC 4733 (payload type 96) from the second second on
    digit_packets   so many packets from one key to the next
    digit_ms        each key says to have been pressed for so long; 0: for as long as it was
    report_percent  so much is said to be lost, each second, by RTCP from the next port
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import select
import socket
import struct
import time
from pathlib import Path
from typing import Any

FRAME = 160


class Sender:
    """One stream."""

    def __init__(self, wish: dict[str, Any]) -> None:
        self._wish = wish
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(tuple(wish["from"]))
        self._octets = Path(wish["octets"]).read_bytes()
        self._ssrc = int.from_bytes(os.urandom(4), "big")
        self._begun = time.monotonic()
        self._seq = 1000
        self._n = 0
        self._rtcp: socket.socket | None = None
        if wish["report_percent"]:
            address, port = wish["from"]
            self._rtcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._rtcp.bind((address, port + 1))

    def due(self) -> float:
        """When the next packet is to be sent; negative: no more."""
        at = self._n * self._wish["interval_s"]
        if at >= self._wish["seconds"]:
            return -1.0
        into = at % 1.0
        if into < self._wish["stall_s"]:
            at += self._wish["stall_s"] - into
        return self._begun + float(at)

    def send(self) -> None:
        """Send it."""
        at = self._n * FRAME % len(self._octets)
        timestamp = self._n * FRAME
        lose = self._wish["lose"]
        self._seq += 1
        spoken = self._speaks(timestamp)
        if not spoken:
            self._seq -= 1
        elif not lose or self._n % lose:
            self._packet(self._wish["type"], timestamp, self._octets[at : at + FRAME])
        self._event(timestamp)
        self._n += 1
        if self._rtcp is not None and self._n % 50 == 0:
            self._report(self._rtcp)

    def _speaks(self, timestamp: int) -> bool:
        """Whether it is not silent now; tells once of a silence that begins."""
        talk = round(self._wish["talk_s"] / self._wish["interval_s"])
        pause = round(self._wish["pause_s"] / self._wish["interval_s"])
        if not pause:
            return True
        at = self._n % (talk + pause)
        if at == talk:
            self._packet(13, timestamp, b"\x4b")
            self._seq += 1
        return at < talk

    def _packet(self, kind: int, timestamp: int, payload: bytes) -> None:
        head = struct.pack("!BBHII", 0x80, kind, self._seq & 0xFFFF, timestamp, self._ssrc)
        self._socket.sendto(head + payload, tuple(self._wish["to"]))

    def _report(self, rtcp: socket.socket) -> None:
        """A receiver report and a name on what came last (RFC 3550 sections 6.4.2 and 6.5)."""
        last = b""
        while select.select([self._socket], [], [], 0)[0]:
            last = self._socket.recv(2048)
        if len(last) < 12:
            return
        (seq,) = struct.unpack_from("!H", last, 2)
        lost = round(256 * self._wish["report_percent"] / 100)
        report = struct.pack("!BBHI", 0x81, 201, 7, self._ssrc) + last[8:12]
        report += struct.pack("!IIIII", lost << 24 | self._n // 4, seq, 0, 0, 0)
        name = struct.pack("!BBHIBB", 0x81, 202, 2, self._ssrc, 1, 0) + bytes(2)
        address, port = self._wish["to"]
        rtcp.sendto(report + name, (address, port + 1))

    def _event(self, timestamp: int) -> None:
        """Up to five updates of a digit and its end, beside the audio."""
        digits, every = self._wish["digits"], self._wish["digit_packets"]
        number, step = divmod(self._n - 50, every)
        last = min(5, every - 1)
        if not (0 <= number < len(digits) and step <= last):
            return
        end = 0x80 if step == last else 0
        self._seq += 1
        duration = 8 * self._wish["digit_ms"] or FRAME * (step + 1)
        event = struct.pack("!BBH", int(digits[number]), end | 10, duration)
        self._packet(96, timestamp - step * FRAME, event)


def main() -> None:
    """Until standard input ends."""
    numbers = itertools.count()
    queue: list[tuple[float, int, Sender]] = []
    begun = b""
    while True:
        wait = max(0.0, queue[0][0] - time.monotonic()) if queue else 1.0
        if select.select([0], [], [], wait)[0]:
            octets = os.read(0, 65536)
            if not octets:
                return
            *lines, begun = (begun + octets).split(b"\n")
            for line in lines:
                sender = Sender(json.loads(line))
                heapq.heappush(queue, (sender.due(), next(numbers), sender))
        while queue and queue[0][0] <= time.monotonic():
            _, number, sender = heapq.heappop(queue)
            sender.send()
            due = sender.due()
            if due >= 0:
                heapq.heappush(queue, (due, number, sender))


if __name__ == "__main__":
    main()
