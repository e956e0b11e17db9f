"""Wire: what went over the wires lately, in memory, bounded in time and octets."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import Final

import msgspec

MAXIMUM_TEXT: Final = 4096
"""Characters kept of one entry; SDP and headers fit, a firmware image does not."""
_OVERHEAD: Final = 200
"""Octets that an entry costs besides its text, roughly."""


class WireEntry(msgspec.Struct, frozen=True, kw_only=True):
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
    text: str
    """Without secrets."""
    key: str = ""
    """What ties it to others of the same dialogue before a leg is known: a Call-ID."""


class Ring:
    """The last entries: oldest dropped first when they are too old, or too many octets."""

    def __init__(self, *, keep_s: float = 600.0, maximum_bytes: int = 8 << 20) -> None:
        self.keep_s = keep_s
        self.maximum_bytes = maximum_bytes
        self.n_bytes = 0
        self.dropped = 0
        """Entries dropped for want of room before `keep_s` was over."""
        self._entries: deque[WireEntry] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: WireEntry) -> None:
        """Keep an entry; a long text is cut."""
        if len(entry.text) > MAXIMUM_TEXT:
            more = len(entry.text) - MAXIMUM_TEXT
            text = f"{entry.text[:MAXIMUM_TEXT]}... {more} characters more"
            entry = msgspec.structs.replace(entry, text=text)
        self._entries.append(entry)
        self.n_bytes += len(entry.text) + _OVERHEAD
        oldest = entry.mono - self.keep_s
        while self._entries and (
            self._entries[0].mono < oldest or self.n_bytes > self.maximum_bytes
        ):
            gone = self._entries.popleft()
            self.n_bytes -= len(gone.text) + _OVERHEAD
            if gone.mono >= oldest:
                self.dropped += 1

    def of(
        self,
        trace: str,
        legs: Collection[str],
        places: Collection[str] = (),
        *,
        since: float,
        until: float,
    ) -> Iterator[WireEntry]:
        """Entries about a trace's legs or places, and those tied to them by their key, in order.

        since, until: wall clock, seconds since 1970.
        """
        entries = [entry for entry in tuple(self._entries) if since <= entry.at <= until]
        keys = {entry.key for entry in entries if entry.key and entry.about in legs} | {trace}
        for entry in entries:
            if (
                entry.about in legs
                or entry.key in keys
                or (not entry.key and entry.about in places)
            ):
                yield entry
