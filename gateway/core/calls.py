"""Leg and Call, and the table of a leg's states.

States are the connection states of ECMA-269 (CSTA) section 6.1.5 as far as a gateway has them:

    INITIATED   we dialled; nothing heard yet          (CSTA initiated)
    OFFERED     somebody calls us; not yet answered    (CSTA alerting, delivered to us)
    ALERTING    the far end rings                      (CSTA alerting)
    CONNECTED   speech can flow                        (CSTA connected)
    HELD        the far end does not listen            (CSTA hold)
    CLOSING     we hung up and wait for the end        (CSTA fail/null, on the way)
    NULL        over                                   (CSTA null)

An event that a state does not list is counted and ignored: a late answer to a leg we hung up
must not start a second call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from gateway.core.actions import Talk
from gateway.core.causes import Cause
from gateway.core.events import (
    Diversion,
    Impairment,
    LegAnswered,
    LegEnded,
    LegHeld,
    LegProgressed,
    LegRetrieved,
    LegRinging,
    PageMember,
    Priority,
)

if TYPE_CHECKING:
    from gateway.core.plans import Plan
    from gateway.core.routes import Announcement, OutputSetting
    from gateway.core.timers import Timer


class LegState(StrEnum):
    """Where a leg stands; see the module's table."""

    INITIATED = "initiated"
    OFFERED = "offered"
    ALERTING = "alerting"
    CONNECTED = "connected"
    HELD = "held"
    CLOSING = "closing"
    NULL = "null"


_I, _O, _A, _C, _H, _X, _N = LegState
TRANSITIONS: Final[dict[tuple[LegState, type], LegState]] = {
    (_I, LegRinging): _A,
    (_I, LegProgressed): _I,
    (_I, LegAnswered): _C,
    (_A, LegRinging): _A,
    (_A, LegProgressed): _A,
    (_A, LegAnswered): _C,
    (_O, LegAnswered): _C,
    (_C, LegHeld): _H,
    (_H, LegHeld): _H,
    (_H, LegRetrieved): _C,
    **{(state, LegEnded): _N for state in (_I, _O, _A, _C, _H, _X)},
}
"""Which event takes a leg from which state to which."""
_OVER: Final = (LegState.CLOSING, LegState.NULL)


@dataclass(slots=True, eq=False)
class Leg:
    """One endpoint's half of a conversation."""

    id: str
    endpoint: str
    call: Call
    outbound: bool
    """True: we dialled it."""
    state: LegState
    number: str = ""
    """What was dialled: by us on an outbound leg, by the caller on an inbound one."""
    calling: str = ""
    display: str = ""
    began_at: float = 0.0
    answered_at: float | None = None
    early: bool = False
    """Audio flows before the answer."""
    answering: bool = False
    """We asked the adapter to answer and wait for it to take effect."""
    cause: Cause | None = None
    detail: str = ""
    hidden: bool = False
    """Number and name of its far end are not shown to others."""
    asks_answer: bool = False
    """Its far end asks that the called side answers by itself."""
    redirect: str = ""
    """The number that its far end wants to be called instead."""
    redirect_reason: str = ""
    diverted: tuple[Diversion, ...] = ()
    """Who sent its call on before, the latest first."""
    one_way: bool = False
    """Only spoken to: a page."""
    sends: bool = False
    """While it is held: its far end plays something to us."""
    held_by: str = ""
    """The endpoint that it talks to, and is on hold by."""
    muted: bool = False
    """It is sent nothing meanwhile."""
    music: bool = False
    """It hears what its route plays meanwhile."""
    borrows: str = ""
    """The endpoint over whose line it speaks, where that is not its own."""
    bridge: str = ""
    saying: str = ""
    """The play that its far end hears now."""
    keyed: bool = False
    """Its transmitter is keyed, for the floor's holder or for a play."""
    watched: bool = False
    """Its voice asks for the floor."""
    speaking: bool = False
    """That voice is heard now."""
    impaired: frozenset[Impairment] = frozenset()
    """What is wrong now with what it sends."""
    played: tuple[PageMember, ...] = ()
    """Who gave a sign of having played a page, once it is over."""
    missing: tuple[str, ...] = ()
    secret: bool = False
    """What is pressed here is a PIN: it must not be written down."""
    giving_up: Timer | None = None
    """When its end is no longer waited for."""
    plan: Plan | None = None
    """Who decides what this leg's events mean."""

    @property
    def live(self) -> bool:
        """Neither over nor on the way there."""
        return self.state not in _OVER

    @property
    def connected(self) -> bool:
        """Answered and not yet ended."""
        return self.state in (LegState.CONNECTED, LegState.HELD)


@dataclass(slots=True, eq=False)
class Call:
    """The legs that belong together, from one demand to its end."""

    id: str
    trace: str
    demanded_at: float
    priority: Priority = Priority.ROUTINE
    route: str = ""
    why: str = ""
    """Why this route, in words."""
    legs: list[Leg] = field(default_factory=list)
    answered_at: float | None = None
    record: bool = False
    talk: Talk = field(default_factory=Talk)
    """How its telephones come to the floor, from the route."""
    hold: Announcement | None = None
    """What is heard while the other side holds, from the route."""
    yields: bool = False
    """It makes room for anybody, also for calls of its own priority."""
    after: tuple[OutputSetting, ...] = ()
    """Outputs to set when the call is over."""

    def partners(self, leg: Leg) -> list[Leg]:
        """The other legs that are neither over nor closing."""
        return [other for other in self.legs if other is not leg and other.live]
