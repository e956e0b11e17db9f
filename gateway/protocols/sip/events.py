"""What `SipAgent` tells its owner: immutable facts, in the past tense.

``session`` is the number of an INVITE session, ``request`` of a pending incoming request that
`SipAgent.respond` answers, ``token`` of something the owner started.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from gateway.protocols.sip.headers import NameAddr, Reason
from gateway.protocols.sip.message import Request, Response
from gateway.protocols.sip.transaction import Flow


class How(StrEnum):
    """Why a session ended."""

    LOCAL = "local"
    """We hung up or rejected it."""
    BYE = "bye"
    CANCELLED = "cancelled"
    """The caller gave up before the answer (either direction)."""
    REJECTED = "rejected"
    """The peer refused: ``status`` says why."""
    TIMEOUT = "timeout"
    """The peer did not answer at all."""
    UNREACHABLE = "unreachable"
    """The request could not be sent."""
    NO_ACK = "no-ack"
    """Our 2xx was never acknowledged, or a reliable provisional response was not."""
    EXPIRED = "expired"
    """The session timer ran out (RFC 4028)."""
    GONE = "gone"
    """The peer no longer knows the dialog (481 or 408 inside it)."""
    REPLACED = "replaced"
    """Another call took this one's place (RFC 3891)."""
    FAILED = "failed"
    """The peer broke the protocol so that the session could not go on."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all events."""


class Invited(Event, frozen=True, kw_only=True):
    """Somebody calls.  Answer with ring, answer, reject."""

    session: int
    request: Request
    flow: Flow
    identity: str
    """User name that the gate admitted; empty: not authenticated."""
    offer: bytes | None
    """SDP offer; None: the peer wants ours in the answer."""
    replaces: int | None
    """The session a Replaces header names and matches; answering ends it."""
    replacing: str
    """The Replaces header as it came; empty: none."""
    max_forwards: int
    """Hops left; give one less to the leg this call leads to (RFC 7332)."""


class Progress(Event, frozen=True, kw_only=True):
    """A provisional response above 100 to our INVITE."""

    session: int
    status: int
    body: bytes | None
    """SDP: early media."""
    fork: str
    """The answering phone's To tag: forks differ in it."""
    answer_needed: bool
    """``body`` is an offer: give the answer with `SipAgent.answer_offer`."""
    response: Response


class Answered(Event, frozen=True, kw_only=True):
    """Our INVITE was answered 2xx; the ACK is on its way unless ``answer_needed``."""

    session: int
    body: bytes | None
    answer_needed: bool
    """``body`` is an offer: give the answer with `SipAgent.answer_offer` (it goes in the ACK)."""
    response: Response


class Acked(Event, frozen=True, kw_only=True):
    """Our 2xx to an INVITE was acknowledged: the session stands."""

    session: int
    body: bytes | None
    """SDP answer, if our 2xx made the offer."""


class Ended(Event, frozen=True, kw_only=True):
    """A session is over.  Told exactly once for each session."""

    session: int
    how: How
    status: int
    """Final response, 0 if there was none."""
    reasons: tuple[Reason, ...]
    """Reason header of the BYE, CANCEL or response (RFC 3326)."""
    message: Request | Response | None


class ReofferReceived(Event, frozen=True, kw_only=True):
    """The peer wants to change the session.  Answer with answer_offer or reject_offer."""

    session: int
    method: str
    """INVITE or UPDATE."""
    offer: bytes | None
    """None: the peer asks for our offer (INVITE only)."""
    request: Request


class ReofferAnswered(Event, frozen=True, kw_only=True):
    """Our re-INVITE or UPDATE succeeded, or the peer's ACK brought the answer to our offer."""

    session: int
    body: bytes | None
    answer_needed: bool


class ReofferFailed(Event, frozen=True, kw_only=True):
    """Our re-INVITE or UPDATE was refused: the session goes on as it was."""

    session: int
    status: int
    response: Response


class DtmfReceived(Event, frozen=True, kw_only=True):
    """A digit in an INFO request (application/dtmf-relay or application/dtmf)."""

    session: int
    digit: str
    """``0``-``9``, ``A``-``D``, ``*``, ``#`` or ``!`` (hook flash)."""
    duration_ms: int


class InfoReceived(Event, frozen=True, kw_only=True):
    """INFO with another body; it was answered 200."""

    session: int
    content_type: str
    body: bytes


class Referred(Event, frozen=True, kw_only=True):
    """The peer asks us to call somebody (RFC 3515).  Answer with accept_refer or respond."""

    request: int
    session: int | None
    """None: outside any session."""
    target: NameAddr
    referred_by: str
    replaces: str
    """Unescaped Replaces value carried in the target URI; empty: none."""
    message: Request
    flow: Flow
    identity: str


class ReferProgress(Event, frozen=True, kw_only=True):
    """News about a REFER of ours: response, or NOTIFY with a status line."""

    session: int
    token: int
    status: int
    """100 to 699: state of the referred call; of the REFER itself if ``refused``."""
    final: bool
    refused: bool
    """The REFER itself was refused."""


class RequestReceived(Event, frozen=True, kw_only=True):
    """A request outside any session (REGISTER, MESSAGE, SUBSCRIBE, PUBLISH, OPTIONS if not

    automatic) or a MESSAGE inside one.  Answer with `SipAgent.respond`.
    """

    request: int
    session: int | None
    message: Request
    flow: Flow
    identity: str


class ResponseReceived(Event, frozen=True, kw_only=True):
    """The final response to a request started with message, options, info or request.

    A synthetic response (408: timeout, 503: not sent) is marked so.
    """

    token: int
    session: int | None
    response: Response


class Registered(Event, frozen=True, kw_only=True):
    """A registration of ours holds for ``expires`` seconds; it is refreshed by itself."""

    token: int
    expires: int
    response: Response


class Unregistered(Event, frozen=True, kw_only=True):
    """Our registration was removed as asked."""

    token: int


class RegistrationFailed(Event, frozen=True, kw_only=True):
    """A registration of ours failed; it is tried again in ``retry_in`` seconds (None: never)."""

    token: int
    status: int
    retry_in: float | None
    response: Response


class Notified(Event, frozen=True, kw_only=True):
    """A NOTIFY for a subscription of ours (RFC 6665); it was answered 200."""

    token: int
    state: str
    """``active``, ``pending`` or ``terminated``."""
    reason: str
    content_type: str
    body: bytes


class SubscriptionEnded(Event, frozen=True, kw_only=True):
    """A subscription, ours or the peer's, is over."""

    token: int
    status: int
    """Response that refused it, 0 otherwise."""
    reason: str


class Subscribed(Event, frozen=True, kw_only=True):
    """A peer subscribed or refreshed; tell it the state with `SipAgent.notify`."""

    token: int
    event: str
    """Event package with its parameters."""
    expires: int
    refresh: bool
    message: Request
    identity: str


class CloseConnection(Event, frozen=True, kw_only=True):
    """The framing of a stream is lost, or it stalls: close it after sending what is queued."""

    connection: int
    why: str
