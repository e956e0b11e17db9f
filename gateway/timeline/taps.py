"""Taps: copies of streams' packets, for captures that run and for a memory of recent seconds.

The engine's thread copies into a ring for each stream; here the rings are emptied a few times a
second into chunks of octets, which nobody takes apart before a file is written.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections import Counter, deque
from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import takewhile
from typing import Any, Final, NamedTuple

from gateway.errors import GatewayError
from gateway.media import _engine
from gateway.media.streams import RtpSpec

DRAIN_S: Final = 0.3
SELDOM_S: Final = 0.75
"""Between two rounds at most, and at least: how often depends on the stream that brings most."""
RING: Final = 64 << 10
"""Octets that wait for the next round: three seconds of G.711, half a second of video."""
FOLLOWED_S: Final = 10.0
"""How long what a running capture has not yet fetched is kept."""
_HEAD: Final = struct.Struct(_engine.PACKET)
_SENT, _RTCP = 1, 2


class Chunk(NamedTuple):
    """Packets of one stream, as its ring gave them."""

    number: int
    """Counts all chunks, so that a reader knows where it was."""
    mono: float
    leg: str
    local: tuple[str, int]
    event_type: int | None
    """Payload type of telephone-event, if one was negotiated."""
    data: bytes


class MediaPacket(NamedTuple):
    """One RTP or RTCP packet."""

    mono_ns: int
    outward: bool
    local: tuple[str, int]
    peer: tuple[str, int]
    data: bytes


def packets(chunk: Chunk) -> Iterator[MediaPacket]:
    """The packets of a chunk, oldest first."""
    data, at = chunk.data, 0
    while at + _HEAD.size <= len(data):
        mono_ns, n, flags, family, port, _, ip = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        host, local = chunk.local
        yield MediaPacket(
            mono_ns=mono_ns,
            outward=bool(flags & _SENT),
            local=(host, local + 1 if flags & _RTCP else local),
            peer=(_ip(ip, family), port),
            data=data[at : at + n],
        )
        at += n


@lru_cache(256)
def _ip(packed: bytes, family: int) -> str:
    return str(ipaddress.ip_address(packed if family == 6 else packed[:4]))


def _event_type(spec: Any, clear: bool) -> int | None:
    """Payload type of digits that can be read: what is encrypted hides its own."""
    readable = isinstance(spec, RtpSpec) and (clear or spec.srtp is None)
    return spec.telephone_event if readable else None


class _Tapped(NamedTuple):
    leg: str
    stream: Any
    tap: _engine.Tap
    clear: bool


class Taps:
    """Driven by `opened` (each new stream), `watch` and `unwatch` (captures).

    keep_s: how much of everybody's packets is kept; 0: only what a capture watches.
    """

    def __init__(self, *, keep_s: float = 0.0, maximum_bytes: int = 64 << 20) -> None:
        self.keep_s = keep_s
        self.maximum_bytes = maximum_bytes
        self.n_bytes = 0
        self.dropped = 0
        """Packets that came faster than they were fetched."""
        self.forgotten = 0
        """Chunks dropped for want of room before their time."""
        self.number = 0
        self._chunks: deque[Chunk] = deque()
        self._tapped: dict[int, _Tapped] = {}
        """By number of the stream."""
        self._watched: Counter[str] = Counter()
        self._clear: set[str] = set()
        """Legs whose packets are watched as they are before encryption and after decryption."""
        self._timer: asyncio.TimerHandle | None = None
        self._drained = 0.0
        """When the last round was."""
        self._wait_s = DRAIN_S
        self._unknown = False
        """A tap is there that no whole round has looked at."""

    def opened(self, leg: str, stream: Any) -> None:
        """A leg has a new stream."""
        if self.keep_s or self._watched[leg]:
            self._tap(leg, stream)

    def watch(self, leg: str, stream: Any | None, *, clear: bool = False) -> None:
        """A capture wants a leg's packets: of this stream, and of those it gets later.

        With `clear` those of an encrypted stream are seen decrypted, by all that watch the leg,
        until nobody does any more.
        """
        self._watched[leg] += 1
        if clear and leg not in self._clear:
            self._clear.add(leg)
            self._again(stream)
        if stream is not None:
            self._tap(leg, stream)

    def unwatch(self, leg: str) -> None:
        """A capture is over."""
        self._watched[leg] -= 1
        if self._watched[leg] > 0:
            return
        del self._watched[leg]
        was_clear = leg in self._clear
        self._clear.discard(leg)
        for tapped in list(self._tapped.values()):
            if tapped.leg == leg:
                if not self.keep_s:
                    tapped.stream.untap()
                elif was_clear:
                    self._again(tapped.stream)
                    self._tap(leg, tapped.stream)

    def _again(self, stream: Any | None) -> None:
        """Let go of a stream's tap, so that it gets another."""
        if stream is not None and stream.id in self._tapped:
            self.drain()
            self.dropped += self._tapped.pop(stream.id).tap.dropped

    def since(self, number: int, legs: Collection[str] | None = None) -> list[Chunk]:
        """Chunks after a number, of these legs or of all, what waits in the rings included."""
        self.drain(legs)
        # From the newest: of everybody's last minutes only what came since the last time is new.
        fresh = [*takewhile(lambda chunk: chunk.number > number, reversed(self._chunks))]
        fresh.reverse()
        return [chunk for chunk in fresh if legs is None or chunk.leg in legs]

    def _tap(self, leg: str, stream: Any) -> None:
        if stream.id in self._tapped or not isinstance(stream.spec, RtpSpec):
            return
        try:
            tap = stream.tap(RING, clear=leg in self._clear)
        except GatewayError:
            # The engine has no room for a command: the call matters more than its copy.
            self.dropped += 1
            return
        self._tapped[stream.id] = _Tapped(leg, stream, tap, leg in self._clear)
        # Nobody knows yet how much it brings.
        self._wait_s, self._unknown = DRAIN_S, True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._tapped:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._drained + self._wait_s), self._round)

    def _round(self) -> None:
        self._timer = None
        most = self.drain()
        now = asyncio.get_running_loop().time()
        rate = most / max(now - self._drained, DRAIN_S)
        self._wait_s = min(SELDOM_S, max(DRAIN_S, RING / 4 / rate)) if rate else SELDOM_S
        if self._unknown:
            self._wait_s, self._unknown = DRAIN_S, False
        self._drained = now
        self._arm()

    def drain(self, legs: Collection[str] | None = None) -> int:
        """Empty the rings, of these legs or of all. The octets of the fullest."""
        now = asyncio.get_running_loop().time()
        most = 0
        for number, tapped in list(self._tapped.items()):
            if legs is not None and tapped.leg not in legs:
                continue
            done = tapped.tap.is_done()
            if data := tapped.tap.read():
                stream = tapped.stream
                self.number += 1
                self.n_bytes += len(data)
                most = max(most, len(data))
                self._chunks.append(
                    Chunk(
                        self.number, now, tapped.leg, stream.local,
                        _event_type(stream.spec, tapped.clear), data,
                    )
                )  # fmt: skip
            if done:
                # Read once more after the worker had let go: nothing comes any more.
                self.dropped += tapped.tap.dropped
                del self._tapped[number]
        oldest = now - max(self.keep_s, FOLLOWED_S if self._watched else 0.0)
        while self._chunks and (self._chunks[0].mono < oldest or self.n_bytes > self.maximum_bytes):
            gone = self._chunks.popleft()
            self.n_bytes -= len(gone.data)
            self.forgotten += gone.mono >= oldest
        return most

    def lost(self) -> int:
        """Packets dropped up to now, of streams that are still open too."""
        return self.dropped + sum(each.tap.dropped for each in self._tapped.values())

    def close(self) -> None:
        """Fetch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tapped.clear()
