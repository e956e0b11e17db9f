"""One leg over SIP: its sessions, its audio, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from gateway.adapters.sip.audio import Audio
from gateway.adapters.sip.config import DtmfMode
from gateway.core.causes import Cause, from_q850, from_sip
from gateway.core.events import PageDelivered, PageMember
from gateway.protocols.sip.events import Ended, How
from gateway.protocols.sip.transaction import Flow

_HOW: Final = {
    How.TIMEOUT: Cause.NO_RESPONSE,
    How.UNREACHABLE: Cause.OUT_OF_ORDER,
    How.NO_ACK: Cause.TIMER_EXPIRED,
    How.EXPIRED: Cause.TIMER_EXPIRED,
    How.GONE: Cause.TEMPORARY_FAILURE,
    How.FAILED: Cause.PROTOCOL_ERROR,
    How.CANCELLED: Cause.CANCELLED,
    How.REPLACED: Cause.NORMAL,
}
SILENT: Final = (How.TIMEOUT, How.UNREACHABLE)


@dataclass(slots=True, eq=False)
class Leg:
    """A call of one phone or trunk."""

    id: str
    endpoint: str
    audio: Audio
    inbound: bool
    trace: str = ""
    hidden: bool = False
    """Its far end does not want to be shown to others."""
    half: str = ""
    """Our half of its Session-ID (RFC 7989)."""
    peer_half: str = ""
    """The peer's, as last heard."""
    hops: int = 0
    """Max-Forwards of the INVITE it came with (RFC 7332)."""
    sessions: list[int] = field(default_factory=list)
    """More than one while several contacts of a phone ring."""
    offer: bytes | None = None
    """The caller's offer, until it is answered."""
    answer: bytes = b""
    """Our answer to it: the same in 183 and 200."""
    rung: bool = False
    connected: bool = False
    one_way: bool = False
    """It is only spoken to: a page."""
    early: bool = False
    held: bool = False
    held_sends: bool = False
    """Its far end sends audio while it holds."""
    over: bool = False
    dtmf: DtmfMode = DtmfMode.AUTO
    cause: Cause = Cause.NORMAL
    detail: str = ""
    redirect: str = ""
    """The number that it wants to be called instead."""
    redirect_reason: str = ""
    said: bool = False
    """`cause` is what a contact said; the silence of another does not change it."""
    called: str = ""
    """Number that the caller dialled."""
    call: Callable[[Flow], int] | None = None
    """Calls a trunk's server; gives the session."""
    flow: Flow | None = None
    """The server that is being called."""
    flows: list[Flow] = field(default_factory=list)
    """Those to try after it."""
    refer: int | None = None
    """A transfer that the far end asked for and wants news of."""

    @property
    def user(self) -> str:
        """The phone or trunk it belongs to."""
        return self.endpoint.partition("/")[2]

    def paged(self) -> PageDelivered:
        """Of a phone that was paged: its answer is the sign, its receiver reports say how well."""
        if not self.connected:
            return PageDelivered(leg=self.id, missing=(self.endpoint,))
        member = PageMember(name=self.endpoint, by="sip", evidence="200 OK to the INVITE")
        return PageDelivered(leg=self.id, members=(member,))

    def note_end(self, event: Ended) -> None:
        """Take in how one of its sessions ended: an answer says more than silence, and busy more
        than other answers."""
        cause, detail = why(event)
        answered = event.how not in SILENT
        if (answered or not self.said) and not (self.said and self.cause is Cause.BUSY):
            self.cause, self.detail, self.said = cause, detail, answered


_NO_MORE = {16, 31, 127}
"""Values of Q.850 that say less than a CANCEL does; Asterisk writes 127 into each."""


def why(event: Ended) -> tuple[Cause, str]:
    """Our word for how a session ended, and the peer's words."""
    for reason in event.reasons:
        if reason.protocol.lower() == "q.850" and reason.cause is not None:
            if event.how is How.CANCELLED and reason.cause in _NO_MORE:
                break
            text = f"{event.how.value}: Q.850 {reason.cause} {reason.text}"
            return from_q850(reason.cause), text.strip()
    if any(reason.protocol.lower() == "preemption" for reason in event.reasons):
        return Cause.PREEMPTED, f"{event.how.value}: preemption"
    if event.how is How.CANCELLED and any(
        reason.protocol.lower() == "sip" and reason.cause == 200 for reason in event.reasons
    ):
        return Cause.ANSWERED_ELSEWHERE, "CANCEL: call completed elsewhere"
    if event.how is How.REJECTED:
        words = getattr(event.message, "reason", "")
        return from_sip(event.status), f"{event.status} {words}".strip()
    if event.how is How.BYE:
        return Cause.NORMAL, "BYE"
    return _HOW.get(event.how, Cause.NORMAL), event.how.value
