"""How much one source may do: leaky buckets by address, bounded in number."""

from __future__ import annotations

import socket
from collections import OrderedDict
from typing import Final

_REMEMBERED: Final = 4096


def source_of(host: str) -> str:
    """What counts as one source: an IPv4 address, or an IPv6 network of 64 bits, for those who
    have one such address have all of them."""
    if ":" not in host:
        return host
    # Not the text: zeros are left out now here, now there, as the rest of the address has it.
    network = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8]
    return socket.inet_ntop(socket.AF_INET6, network + bytes(8)) + "/64"


class Quota:
    """Allows each source `rate` a second, and `burst` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, source: str, amount: float, now: float) -> float:
        """Note an amount; how many seconds the source is ahead of what it may, 0.0 for not."""
        known = self._levels.get(source)
        level = amount
        if known is None:
            if len(self._levels) >= _REMEMBERED:
                self._levels.popitem(last=False)
        else:
            self._levels.move_to_end(source)
            left = known[0] - (now - known[1]) * self._rate
            if left > 0.0:
                level += left
        burst = self._burst
        # Not for ever: who stops is welcome again within a known time.
        if level > 2 * burst:
            level = 2 * burst
        self._levels[source] = (level, now)
        return (level - burst) / self._rate if level > burst else 0.0
