"""Bridge: who hears whom; and the floor of a half-duplex one."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.core.actions import BridgeKind
from gateway.core.events import Priority


class Floor:
    """Who may speak where only one can: held by one leg, asked for by others.

    A higher rank takes the floor at once; an equal or lower one waits until it is released. Rank
    is the call's priority first, then the leg's standing: a radio user who transmits cannot be
    stopped, as he does not hear us, so he has the floor before a telephone, unless its route
    says otherwise.
    """

    def __init__(self) -> None:
        self.holder: str | None = None
        self._rank: dict[str, tuple[int, int]] = {}

    def waits(self, leg: str) -> bool:
        """Whether the leg has asked for the floor and somebody else has it."""
        return leg in self._rank and leg != self.holder

    def request(self, leg: str, *, priority: Priority, standing: int = 0) -> bool:
        """Ask for the floor; True when the holder changed."""
        self._rank.pop(leg, None)
        self._rank[leg] = (int(priority), standing)
        if self.holder is None or self._rank[leg] > self._rank[self.holder]:
            changed = self.holder != leg
            self.holder = leg
            return changed
        return False

    def release(self, leg: str) -> bool:
        """Give it back, or stop waiting for it; True when the holder changed.

        The one who waits with the highest rank gets it; among equals, who asked first.
        """
        self._rank.pop(leg, None)
        if self.holder != leg:
            return False
        self.holder = max(self._rank, key=lambda waiting: self._rank[waiting], default=None)
        return True


@dataclass(slots=True, eq=False)
class Bridge:
    """The legs that are joined, and how."""

    id: str
    kind: BridgeKind
    members: list[str] = field(default_factory=list)
    floor: Floor = field(default_factory=Floor)
    given: str | None = None
    """Whom the engine was last told to let be heard."""
    quiet_until: float = 0.0
    """Nobody gets the floor by voice before."""
    keyed: set[str] = field(default_factory=set)
    """Half-duplex legs whose transmitter is keyed on behalf of the floor's holder."""
    room: str = ""
    """Name of the conference, when it has one."""
