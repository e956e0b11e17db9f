"""Pins: who may still try. A lock-out outlives the call in which the wrong PINs were entered.

Counted for each source and route: hanging up and calling again gives no more tries, and one
person's mistakes close nothing to others. On a trunk the source is the calling number as well;
because anybody can send any number, the trunk as a whole has a limit of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.core.calls import Leg

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard

TRIES: Final = 3
"""Wrong PINs of one source."""
TRUNK_TRIES: Final = 12
"""Wrong PINs of all callers of one trunk."""
LOCKED_S: Final = 300.0
"""How long a source is locked out after its last wrong PIN; after so long without one it has all
its tries again."""
KEPT: Final = 1000
"""Sources remembered. Beyond it the callers of trunks with the oldest mistakes are forgotten
first: the trunk still counts them."""

_Key = tuple[str, str, str]


@dataclass(slots=True)
class _Tries:
    wrong: int
    at: float


class Pins:
    """Driven by `wrong` and `right`; asked with `locked`."""

    def __init__(self, board: Switchboard) -> None:
        self.board = board
        self._tries: dict[_Key, _Tries] = {}
        """By route, endpoint and calling number: oldest mistake first."""

    def locked(self, leg: Leg, route: str) -> bool:
        """Whether no PIN of this leg is looked at, right or wrong."""
        return self.left(leg, route) <= 0

    def left(self, leg: Leg, route: str) -> int:
        """How many wrong PINs more its source may enter."""
        return min(limit - self._wrong(key) for key, limit in self._keys(leg, route))

    def wrong(self, leg: Leg, route: str) -> int:
        """A wrong PIN; how many tries are left."""
        for key, _ in self._keys(leg, route):
            n = self._wrong(key) + 1
            self._tries.pop(key, None)
            self._tries[key] = _Tries(n, self.board.now)
        if len(self._tries) > KEPT:
            caller = next((key for key in self._tries if key[2]), next(iter(self._tries)))
            del self._tries[caller]
        return self.left(leg, route)

    def right(self, leg: Leg, route: str) -> None:
        """The right PIN: the source's mistakes are forgiven, the trunk's are not."""
        (key, _), *_rest = self._keys(leg, route)
        self._tries.pop(key, None)

    def _wrong(self, key: _Key) -> int:
        known = self._tries.get(key)
        if known is None:
            return 0
        if self.board.now - known.at >= LOCKED_S:
            del self._tries[key]
            return 0
        return known.wrong

    def _keys(self, leg: Leg, route: str) -> list[tuple[_Key, int]]:
        """What its mistakes count against, and how many each allows."""
        place = self.board.endpoints.get(leg.endpoint)
        if place is None or not place.takes_number:
            return [((route, leg.endpoint, ""), TRIES)]
        calling = leg.number if leg.outbound else leg.calling
        return [
            ((route, leg.endpoint, calling or "anonymous"), TRIES),
            ((route, leg.endpoint, ""), TRUNK_TRIES),
        ]
