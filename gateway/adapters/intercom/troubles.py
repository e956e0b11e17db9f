"""Troubles: what goes wrong on a bus, as a count, a line in the log and an input of the bus."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.adapters.base import Host
from gateway.core.events import InputChanged

INPUTS: Final = {
    "noise": "noise",
    "half": "noise",
    "checksum": "noise",
    "unknown_frame": "noise",
    "unknown_station": "strangers",
    "echo": "echo",
    "collision": "collisions",
    "flood": "flood",
    "no_reply": "no_reply",
}
"""Kind of trouble to the input of the bus that is 1 while it lasts."""
OVER_S: Final = 10.0
"""So long without it, it is over."""


class _Spell(msgspec.Struct):
    last: float
    n: int = 0


class Troubles:
    """Counts each; reports the first and the last of a spell. Driven by `report` and `watch`."""

    def __init__(self, host: Host, endpoint: str) -> None:
        self._host, self._endpoint = host, endpoint
        self._spells: dict[str, _Spell] = {}

    def report(self, kind: str, what: str, place: str = "") -> None:
        """Something happened."""
        host, now = self._host, self._host.now()
        host.count(kind)
        known = INPUTS.get(kind)
        if known is None:
            return
        spell = self._spells.get(known)
        if spell is None:
            self._spells[known] = spell = _Spell(now)
            host.log.warning("trouble on the bus", kind=kind, what=what, station=place)
            host.emit(
                InputChanged(
                    endpoint=self._endpoint, input=known, value=1.0, trace=host.new_trace()
                )
            )
        spell.last = now
        spell.n += 1

    def watch(self) -> None:
        """To be called now and then: says what is over."""
        now = self._host.now()
        for name, spell in list(self._spells.items()):
            if now - spell.last >= OVER_S:
                del self._spells[name]
                self._host.log.info("trouble on the bus is over", input=name, times=spell.n)
                self._host.emit(InputChanged(endpoint=self._endpoint, input=name, value=0.0))
