"""Global ids: UUID version 7 (RFC 9562 section 5.7), sortable by time."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import SystemRandom

_COUNTER_BITS = 12
_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")


def trace_of(text: str) -> str:
    """A trace id that came from outside as we write it; empty when it is none.

    text: a UUID with or without its hyphens, as RFC 7989 section 5 has it (lower case, not nil).
    """
    bare = text.replace("-", "")
    if not _UUID.fullmatch(text) or len(bare) != 32 or not bare.strip("0"):
        return ""
    return f"{bare[:8]}-{bare[8:12]}-{bare[12:16]}-{bare[16:20]}-{bare[20:]}"


def minted_at(trace: str) -> float | None:
    """Wall clock at which an id of version 7 was minted; None for an id that does not tell."""
    bare = trace.replace("-", "")
    if len(bare) != 32 or bare[12] != "7":
        return None
    try:
        return int(bare[:12], 16) / 1000
    except ValueError:
        return None


class Ids:
    """Mints UUIDv7 texts that grow strictly, also within one millisecond.

    Driven by `uuid7`, which takes the wall clock; `random_bits(n)` gives n random bits.
    """

    def __init__(self, random_bits: Callable[[int], int] | None = None) -> None:
        self._random_bits = random_bits or SystemRandom().getrandbits
        self._last = 0
        self._ms = -1
        self._head = self._tail = ""

    def uuid7(self, wall: float) -> str:
        """A new id; `wall` is seconds since 1970 (UTC)."""
        # RFC 9562 section 6.2 method 1: rand_a is a counter, so that a clock set back or a burst
        # within one millisecond still sorts in the order of minting.
        stamp = int(wall * 1000) << _COUNTER_BITS
        self._last = stamp = stamp if stamp > self._last else self._last + 1
        ms = stamp >> _COUNTER_BITS
        if ms != self._ms:
            # One event and all that it causes mostly fall into one millisecond: the counter alone
            # tells their ids apart, the random bits tell this box from all others.
            tail = self._random_bits(62)
            self._ms, self._head = ms, f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7"
            self._tail = f"-{0x8000 | tail >> 48:04x}-{tail & 0xFFFFFFFFFFFF:012x}"
        return "%s%03x%s" % (self._head, stamp & 0xFFF, self._tail)  # noqa: UP031 (quicker)
