"""Wire: what went over the wires lately, in memory, bounded in time and octets.

What is put in is kept as it is; nobody looks at it, cuts it or hides anything in it before it is
read (`gateway.timeline.redact`). It never goes to disk from here.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, islice
from typing import Final

import msgspec

from gateway.timeline.blocks import Block

MAXIMUM: Final = 64 << 10
"""Octets or characters kept of one entry; a SIP message fits, a firmware image does not."""
STREAMS: Final = 1000
"""Connections whose unfinished message is remembered while something follows them."""
BLOCK: Final = 64 << 10
"""Octets of entries that lie in one piece of memory."""
_OVERHEAD: Final = 100
"""Octets that an entry costs besides what it holds, roughly."""
_TIES: Final = 20_000
_CALL_ID: Final = re.compile(rb"\n(?:call-id|i)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"\n(?:content-length|l)[ \t]*:[ \t]*([0-9]{1,9})", re.IGNORECASE)
_SESSION_ID: Final = re.compile(
    rb"\nsession-id[ \t]*:[ \t]*([0-9a-f]{32})(?:[^\r\n]*?remote=([0-9a-f]{32}))?", re.IGNORECASE
)

Ends = tuple[str, tuple[str, int], tuple[str, int]]
"""Transport (``udp``, ``tcp``, ``tls``, ``ws``, ``wss``), our address and port, the peer's."""


class WireEntry(msgspec.Struct, gc=False):
    """One message, frame or signal between an adapter and its outside world."""

    mono: float
    """Monotonic seconds of the gateway."""
    at: float
    """Wall clock, seconds since 1970."""
    adapter: str
    about: str
    """Leg, else endpoint, that it concerns; empty: the adapter as a whole."""
    outward: bool
    """True: we sent it."""
    kind: str
    """``sip``, ``dahdi``, ``mqtt``, ``modbus``, ``serial``, ``at``..."""
    data: bytes | str
    """Octets as they were on the wire, or words that say what happened."""
    key: str = ""
    """What ties it to others of the same dialogue before a leg is known: a Call-ID."""
    words: str = ""
    """What octets mean, for people; empty: they speak for themselves."""
    ends: Ends | None = None
    """From where to where, when it went over a network."""
    number: int = 0
    """Counts the ring's entries, so that a reader knows what it has seen."""
    ids: tuple[str, ...] | None = None
    """Of a SIP message: the traces that its Session-ID names, once somebody looked."""

    @property
    def dialogue(self) -> str:
        """`key`; of a SIP message its Call-ID, found when it is first asked for."""
        if self.ids is None:
            self.ids = ()
            if self.kind == "sip" and isinstance(self.data, bytes):
                if not self.key and (found := _CALL_ID.search(self.data)):
                    self.key = found[1].strip().decode("utf-8", "replace")
                if found := _SESSION_ID.search(self.data):
                    self.ids = tuple(half.decode() for half in found.groups() if half)
        return self.key


class Assembler:
    """Makes entries of which each holds one SIP message: a stream may cut and join them as it
    likes. Driven by `take`; `begun` is what is not yet complete."""

    def __init__(self) -> None:
        self.begun: dict[tuple[Ends, bool], WireEntry] = {}

    def take(self, entry: WireEntry) -> Iterator[WireEntry]:
        """The messages that an entry completes; of other kinds the entry itself."""
        data = entry.data
        if (
            entry.ends is None
            or entry.ends[0] not in ("tcp", "tls")
            or entry.kind != "sip"
            or not isinstance(data, bytes)
        ):
            yield entry
            return
        way = (entry.ends, entry.outward)
        began = self.begun.pop(way, None)
        if began is not None:
            assert isinstance(began.data, bytes)
            data = began.data + data
        elif _length(data) == len(data):
            yield entry
            return
        first = began or entry
        while data := data.lstrip(b"\r\n"):
            size = _length(data)
            if not 0 < size <= len(data):
                self.begun[way] = msgspec.structs.replace(first, data=data[:MAXIMUM], ids=None)
                return
            yield msgspec.structs.replace(entry, data=data[:size], ids=None)
            data, first = data[size:], entry


def whole(entries: Iterable[WireEntry]) -> list[WireEntry]:
    """Entries with one SIP message each, the last of a stream maybe incomplete."""
    assembler = Assembler()
    found = [each for entry in entries for each in assembler.take(entry)]
    if assembler.begun:
        found += assembler.begun.values()
        found.sort(key=lambda entry: entry.mono)
    return found


def _length(data: bytes) -> int:
    """Octets of the SIP message that data begins with (RFC 3261 section 18.3); 0: not yet known."""
    head = data.find(b"\r\n\r\n") + 4
    if head < 4:
        return 0
    stated = _LENGTH.search(data, 0, head)
    return head + (int(stated[1]) if stated else 0)


_Row = tuple[
    float,
    float,
    str,
    str,
    bool,
    str,
    bytes | str,
    str,
    str,
    Ends | None,
    int,
    tuple[str, ...] | None,
]
"""A `WireEntry`, field by field: half the work where nobody looks at it."""


class _Kept:
    """Entries of one kind, oldest first: blocks of them, then the newest."""

    __slots__ = ("blocks", "n_bytes", "n_newest", "newest")

    def __init__(self) -> None:
        self.blocks: deque[Block] = deque()
        self.newest: deque[_Row] = deque()
        self.n_bytes = self.n_newest = 0
        """What all of them count as, and the newest of it."""

    def close(self) -> None:
        """Make a block of the newest."""
        rows = list(self.newest)
        ats = [row[1] for row in rows]
        self.blocks.append(Block(rows, self.n_newest, mono=rows[-1][0], ats=(min(ats), max(ats))))
        self.newest.clear()
        self.n_newest = 0

    @property
    def oldest(self) -> float:
        """When what is dropped next came, of a block its last. There must be something."""
        return self.blocks[0].mono if self.blocks else self.newest[0][0]

    def drop(self) -> int:
        """Forget the oldest, a block as a whole. How many entries."""
        if self.blocks:
            block = self.blocks.popleft()
            self.n_bytes -= block.n_bytes
            return block.n
        gone = self.newest.popleft()
        size = len(gone[6]) + len(gone[8]) + _OVERHEAD
        self.n_bytes -= size
        self.n_newest -= size
        return 1

    def after(self, number: int) -> Iterator[_Row]:
        """Entries with a higher number, newest first."""
        for rows in chain([self.newest], (block.rows() for block in reversed(self.blocks))):
            for row in reversed(rows):
                if row[10] <= number:
                    return
                yield row

    def of(self, since: float, until: float) -> Iterator[_Row]:
        """Entries of a time by the wall clock, oldest first."""
        for block in self.blocks:
            if block.ats[1] >= since and block.ats[0] <= until:
                yield from block.rows()
        yield from self.newest


class Ring:
    """The last entries: oldest dropped first when they are too old, or too many octets."""

    def __init__(self, *, keep_s: float = 600.0, maximum_bytes: int = 16 << 20) -> None:
        self.keep_s = keep_s
        self.maximum_bytes = maximum_bytes
        self.n_bytes = 0
        self.dropped = 0
        """Entries dropped for want of room before `keep_s` was over."""
        self.copies: list[Callable[[WireEntry], None]] = []
        """Who else gets each entry at once: an exporter."""
        self._number = 0
        self._oldest = 0.0
        self._kinds: dict[str, _Kept] = {}
        """One for each kind: a bus that is polled all day must not push out a call."""
        self._ties: deque[tuple[float, str, str]] = deque(maxlen=_TIES)
        self.n_ties = 0
        """Dialogues that were noted so far, also those that are gone."""

    @property
    def count(self) -> int:
        """Entries so far, also those that are gone."""
        return self._number

    @property
    def held(self) -> int:
        """Octets of memory, roughly."""
        return sum(
            kept.n_newest + sum(block.held for block in kept.blocks)
            for kept in self._kinds.values()
        )

    def __len__(self) -> int:
        return sum(
            len(kept.newest) + sum(block.n for block in kept.blocks)
            for kept in self._kinds.values()
        )

    def put(self, entry: WireEntry) -> None:
        """Keep an entry; what is too long is cut."""
        self.keep(
            entry.mono, entry.at, entry.adapter, entry.about, entry.outward, entry.kind, entry.data,
            entry.key, entry.words, entry.ends,
        )  # fmt: skip

    def keep(
        self,
        mono: float,
        at: float,
        adapter: str,
        about: str,
        outward: bool,
        kind: str,
        data: bytes | str,
        key: str,
        words: str,
        ends: Ends | None,
    ) -> None:
        """Keep what is no entry yet, and need not become one before somebody looks."""
        size = len(data) + len(words)
        if size > MAXIMUM:
            if isinstance(data, bytes):
                data = data[:MAXIMUM]
            else:
                data = f"{data[:MAXIMUM]}... {size - MAXIMUM} characters more"
            words = words[:1024]
            size = len(data) + len(words)
        self._number = number = self._number + 1
        kept = self._kinds.get(kind)
        if kept is None:
            kept = self._kinds[kind] = _Kept()
        row = (mono, at, adapter, about, outward, kind, data, key, words, ends, number, None)
        kept.newest.append(row)
        size += _OVERHEAD
        self.n_bytes += size
        kept.n_bytes += size
        kept.n_newest += size
        if kept.n_newest >= BLOCK:
            kept.close()
        self._oldest = oldest = mono - self.keep_s
        if (kept.blocks[0].mono if kept.blocks else kept.newest[0][0]) < oldest:
            while kept.oldest < oldest:
                self._forget(kept)
        while self.n_bytes > self.maximum_bytes:
            # Most boxes speak SIP all day and hardly anything else: one more than half is it.
            if 2 * kept.n_bytes > self.n_bytes:
                largest = kept
            else:
                largest = max(self._kinds.values(), key=lambda each: each.n_bytes)
            too_old = largest.oldest < oldest
            n = self._forget(largest)
            self.dropped += 0 if too_old else n
        for copy in self.copies:
            copy(WireEntry(*row))

    def _forget(self, kept: _Kept) -> int:
        self.n_bytes -= kept.n_bytes
        n = kept.drop()
        self.n_bytes += kept.n_bytes
        return n

    def unpacked(self) -> list[Block]:
        """Blocks that could be smaller, when there is time for it."""
        return [block for kept in self._kinds.values() for block in kept.blocks if not block.packed]

    def tie(self, mono: float, about: str, key: str) -> None:
        """Note that a dialogue (a Call-ID) is a leg's."""
        ties = self._ties
        while ties and ties[0][0] < mono - self.keep_s:
            ties.popleft()
        ties.append((mono, about, key))
        self.n_ties += 1

    def leg_of(self) -> dict[str, str]:
        """By key: the leg of each dialogue that is known."""
        return {key: about for _, about, key in self._ties}

    def entries(self, *, since: float = 0.0, until: float = float("inf")) -> list[WireEntry]:
        """All of a time, oldest first; since, until: wall clock, seconds since 1970."""
        return self._in_order(
            row
            for kept in self._kinds.values()
            for row in kept.of(since, until)
            if since <= row[1] <= until
        )

    def after(self, number: int) -> list[WireEntry]:
        """Those that came after an entry, oldest first."""
        return self._in_order(row for kept in self._kinds.values() for row in kept.after(number))

    def _in_order(self, rows: Iterable[_Row]) -> list[WireEntry]:
        # A block goes as a whole, when the last of it is too old.
        found = [WireEntry(*row) for row in rows if row[0] >= self._oldest]
        found.sort(key=lambda entry: entry.number)
        return found

    def ties(self, after: int = 0) -> Iterator[tuple[str, str]]:
        """Leg and key of each dialogue that was noted after so many, newest first."""
        newest = islice(reversed(self._ties), max(0, self.n_ties - after))
        return ((about, key) for _, about, key in newest)


class Reader:
    """Entries about one trace, each once: however full the ring is, a look at what came since the
    last one costs as much as that. Driven by `fresh`."""

    def __init__(self, ring: Ring, trace: str) -> None:
        self._ring, self._trace = ring, trace
        self._assembler = Assembler()
        self._known = (0, 0)
        """How many legs and places there were."""
        self._keys: set[str] = set()
        self._count = self._n_ties = 0
        self._until = 0.0
        self._seen: set[int] = set()

    def fresh(
        self,
        legs: Collection[str],
        places: Collection[str] = (),
        *,
        since: float,
        until: float = float("inf"),
        rests: bool = False,
    ) -> list[WireEntry]:
        """What is new about the trace's legs or places, or tied to them by its key, in order.

        legs, places: all of them, of which there are only ever more. since, until: wall clock,
        seconds since 1970. rests: also what is not complete.
        """
        ring, known = self._ring, (len(legs), len(places))
        tied = {key for about, key in ring.ties(self._n_ties) if about in legs} - self._keys
        self._n_ties = ring.n_ties
        if known == self._known and not tied and self._until == until == float("inf"):
            if ring.count == self._count:
                return []
            entries = self._whole(ring.after(self._count))
            if not self._learn(entries, legs):
                return self._pick(entries, legs, places)
        self._known, self._until = known, until
        # Whose dialogue it is may become known after the fact: then what was passed over is ours.
        self._keys |= {key for about, key in ring.ties() if about in legs}
        self._assembler = Assembler()
        entries = self._whole(ring.entries(since=since, until=until))
        if rests and self._assembler.begun:
            entries += self._assembler.begun.values()
            entries.sort(key=lambda entry: entry.mono)
        self._learn(entries, legs)
        return self._pick(entries, legs, places)

    def _whole(self, entries: Iterable[WireEntry]) -> list[WireEntry]:
        self._count = self._ring.count
        found = [each for entry in entries for each in self._assembler.take(entry)]
        if len(self._assembler.begun) > STREAMS:
            self._assembler.begun.clear()
        return found

    def _learn(self, entries: list[WireEntry], legs: Collection[str]) -> bool:
        """Whether there is a dialogue that was not known."""
        session, before = self._trace.replace("-", ""), len(self._keys)
        needle = session.encode()
        for entry in entries:
            if entry.about in legs or (
                _holds(entry, (needle,)) and entry.dialogue and session in (entry.ids or ())
            ):
                self._keys.add(entry.dialogue)
        self._keys.discard("")
        return len(self._keys) > before

    def _pick(
        self, entries: list[WireEntry], legs: Collection[str], places: Collection[str]
    ) -> list[WireEntry]:
        keys = self._keys | {self._trace}
        needles = [key.encode("utf-8", "replace") for key in keys]
        networks = {each.partition("/")[0] for each in (*legs, *places)}
        found = [
            entry
            for entry in entries
            if entry.number not in self._seen
            and (
                entry.about in legs
                or ((entry.key or _holds(entry, needles)) and entry.dialogue in keys)
                or (entry.about in places and not entry.dialogue)
                # A bus is one for all its stations: whose frame it is only its octets tell.
                or (entry.kind == "serial" and entry.adapter in networks)
            )
        ]
        self._seen.update(entry.number for entry in found)
        return found


def _holds(entry: WireEntry, needles: Iterable[bytes]) -> bool:
    """Whether a SIP message may be about one of these: far quicker than to look what it says."""
    data = entry.data
    return entry.kind == "sip" and isinstance(data, bytes) and any(each in data for each in needles)
