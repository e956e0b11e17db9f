"""Leg: one call with a station or zone."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from gateway.adapters.intercom.speech import BusSpeech
from gateway.protocols.intercom.fields import Value


class State(Enum):
    """How far a call has got."""

    DIALLED = auto()
    """We call, the bus has not confirmed it."""
    RINGING = auto()
    OFFERED = auto()
    """The station calls."""
    ANSWERING = auto()
    """Connected from either side; the bus has not confirmed it."""
    TALKING = auto()


@dataclass(eq=False)
class Leg:
    """A call; `values` are those of the frame it began with, for the commands' templates."""

    id: str
    name: str
    at: str
    state: State
    values: dict[str, Value] = field(default_factory=dict)
    bus: BusSpeech | None = None
    keyed: bool = False

    @property
    def extra(self) -> dict[str, Value]:
        """`values` for another command about this call."""
        own = ("sequence", "station")
        return {name: value for name, value in self.values.items() if name not in own}
