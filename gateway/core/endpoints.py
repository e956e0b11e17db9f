"""Endpoint: a place that can call, be called, or signal."""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from gateway.errors import UsageError

_ID = re.compile(r"[a-z][a-z0-9_-]*/[A-Za-z0-9][A-Za-z0-9._+-]*\Z")


class Duplex(StrEnum):
    """Which way speech can travel at a time."""

    FULL = "full"
    HALF = "half"
    """One side at a time: radio, push-to-talk intercom. Joined by a floor."""
    LISTEN = "listen"
    """Can only be spoken to: a paging zone, a horn."""
    NONE = "none"
    """Carries no speech: contacts, relays, alarm panels."""


class Condition(StrEnum):
    """Whether an endpoint can be used now."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"
    """Not heard from yet, or stale: never assumed to be good."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A place that can call, be called, or signal: ``fxs/1``, ``sip/telco``, ``mqtt/panel``."""

    id: str
    """``network/local``; unique on this box. The network is what statistics group by."""
    label: str = ""
    """What people call it: "Tunnel km 3.2"."""
    location: str = ""
    number: str = ""
    """Directory number: what other extensions dial to reach it; empty: only routes lead here."""
    duplex: Duplex = Duplex.FULL
    can_ring: bool = True
    """Can be the target of a call."""
    takes_number: bool = False
    """A trunk: the target may carry a number, ``sip/telco:5551234``."""
    capacity: int | None = 1
    """Legs at a time; None is unlimited."""
    borrows: str = ""
    """Endpoint over whose line its legs speak; empty: over its own."""
    digits_beside: bool = False
    """Its far end is told the other side's digits in the signalling, and hears none."""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    alarm: bool = False
    """Raises alarms and takes their acknowledgement."""
    condition: Condition = Condition.UNKNOWN
    reason: str = ""
    """Why it is down, in words for a technician; of one that is up: what is doubtful about it."""
    absent: bool = False
    """It is down because whoever it belongs to is not there (a telephone that is not registered):
    no fault, and callers are told so."""
    detail: dict[str, str] = {}
    """What the adapter wants shown: registered address, firmware, known limits."""

    def __post_init__(self) -> None:
        if not _ID.match(self.id):
            raise UsageError(
                f"endpoint id {self.id!r} is not network/local (lower-case network, then a name "
                "of letters, digits, '.', '_', '+' or '-')"
            )

    @property
    def network(self) -> str:
        """The part before the slash."""
        return self.id.partition("/")[0]

    @property
    def has_audio(self) -> bool:
        """Whether a leg of this endpoint carries speech."""
        return self.duplex is not Duplex.NONE


class Target(msgspec.Struct, frozen=True, gc=False):
    """Where a call goes: an endpoint and, for trunks, a number."""

    endpoint: str
    number: str = ""

    def __str__(self) -> str:
        return f"{self.endpoint}:{self.number}" if self.number else self.endpoint

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``network/local`` or ``network/local:number``.

        Raises `UsageError` when the text has no such form.
        """
        endpoint, _, number = text.partition(":")
        if not _ID.match(endpoint):
            raise UsageError(f"{text!r} is not network/local or network/local:number")
        return cls(endpoint, number)
