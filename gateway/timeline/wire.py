"""Wire: what went over the wires lately, in memory, bounded in time and octets.

What is put in is kept as it is; nobody looks at it, cuts it or hides anything in it before it is
read (`gateway.timeline.redact`). It never goes to disk from here.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice, takewhile
from typing import Final

import msgspec

MAXIMUM: Final = 64 << 10
"""Octets or characters kept of one entry; a SIP message fits, a firmware image does not."""
STREAMS: Final = 1000
"""Connections whose unfinished message is remembered while something follows them."""
_OVERHEAD: Final = 300
"""Octets that an entry costs besides what it holds, roughly."""
_TIES: Final = 20_000
_CALL_ID: Final = re.compile(rb"\n(?:call-id|i)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"\n(?:content-length|l)[ \t]*:[ \t]*([0-9]{1,9})", re.IGNORECASE)
_SESSION_ID: Final = re.compile(
    rb"\nsession-id[ \t]*:[ \t]*([0-9a-f]{32})(?:[^\r\n]*?remote=([0-9a-f]{32}))?", re.IGNORECASE
)

Ends = tuple[str, tuple[str, int], tuple[str, int]]
"""Transport (``udp``, ``tcp``, ``tls``, ``ws``, ``wss``), our address and port, the peer's."""


class WireEntry(msgspec.Struct, kw_only=True, gc=False):
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
        self._kinds: dict[str, deque[WireEntry]] = {}
        """One queue for each kind: a bus that is polled all day must not push out a call."""
        self._sizes: Counter[str] = Counter()
        self._ties: deque[tuple[float, str, str]] = deque(maxlen=_TIES)
        self.n_ties = 0
        """Dialogues that were noted so far, also those that are gone."""

    @property
    def count(self) -> int:
        """Entries so far, also those that are gone."""
        return self._number

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def put(self, entry: WireEntry) -> None:
        """Keep an entry; what is too long is cut."""
        size = len(entry.data) + len(entry.words)
        if size > MAXIMUM:
            if isinstance(entry.data, bytes):
                entry.data = entry.data[:MAXIMUM]
            else:
                entry.data = f"{entry.data[:MAXIMUM]}... {size - MAXIMUM} characters more"
            entry.words = entry.words[:1024]
            size = len(entry.data) + len(entry.words)
        self._number += 1
        entry.number = self._number
        kind = entry.kind
        entries = self._kinds.get(kind)
        if entries is None:
            entries = self._kinds[kind] = deque()
        entries.append(entry)
        size += _OVERHEAD
        self.n_bytes += size
        sizes = self._sizes
        sizes[kind] += size
        oldest = entry.mono - self.keep_s
        while entries[0].mono < oldest:
            self._forget(kind)
        while self.n_bytes > self.maximum_bytes:
            # Most boxes speak SIP all day and hardly anything else: one more than half is it.
            if 2 * sizes[kind] > self.n_bytes:
                largest = kind
            else:
                largest = max(sizes, key=sizes.__getitem__)
            self.dropped += self._kinds[largest][0].mono >= oldest
            self._forget(largest)
        for copy in self.copies:
            copy(entry)

    def _forget(self, kind: str) -> None:
        gone = self._kinds[kind].popleft()
        size = len(gone.data) + len(gone.words) + _OVERHEAD
        self.n_bytes -= size
        self._sizes[kind] -= size

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
        """All of a time, oldest first, as they are kept; since, until: wall clock, seconds since
        1970."""
        found = [
            entry for queue in self._kinds.values() for entry in queue if since <= entry.at <= until
        ]
        found.sort(key=lambda entry: entry.number)
        return found

    def after(self, number: int) -> list[WireEntry]:
        """Those that came after an entry, oldest first, as they are kept."""
        found = [
            entry
            for queue in self._kinds.values()
            for entry in takewhile(lambda entry: entry.number > number, reversed(queue))
        ]
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
