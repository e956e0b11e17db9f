"""INVITE sessions: what both sides share once a dialog stands.

States of a session::

    calling -> early -> confirmed -> ended          (we called: `outgoing.Outgoing`)
    ringing ----------> answered -> confirmed -> ended    (we were called: `incoming.Incoming`)
         any state but ended -> ended;  calling/early -> closing -> ended (we cancelled)

``answered`` means that our 2xx waits for its ACK.  `Ended` is emitted when, and only when,
``ended`` is entered; whatever arrives later is answered by the transactions alone, and a 2xx to
an INVITE we gave up is acknowledged and hung up.

One change of the session (re-INVITE, UPDATE) is in progress at a time (RFC 3261 section 14,
RFC 3311).  A change the owner asks for meanwhile waits, the latest replacing earlier ones; a
peer's is answered 491 if ours is on its way and 500 if its own last one is unanswered.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache

from gateway.errors import PeerError, UsageError
from gateway.protocols.sip import sessiontimer
from gateway.protocols.sip.ackwait import AckWait
from gateway.protocols.sip.auth import DigestClient
from gateway.protocols.sip.core import ClientRequest, Core, ack_bytes, retry_after
from gateway.protocols.sip.dialog import Dialog
from gateway.protocols.sip.dtmf import read_digit
from gateway.protocols.sip.events import (
    DtmfReceived,
    Ended,
    How,
    InfoReceived,
    ReofferAnswered,
    ReofferFailed,
    ReofferReceived,
    RequestReceived,
    ResponseReceived,
)
from gateway.protocols.sip.headers import parse_reasons, tokens
from gateway.protocols.sip.message import Header, Request, Response
from gateway.protocols.sip.names import (
    BYE,
    INFO,
    INVITE,
    MESSAGE,
    NOTIFY,
    OPTIONS,
    PRACK,
    REFER,
    UPDATE,
)
from gateway.protocols.sip.timers import Timer
from gateway.protocols.sip.transaction import Flow, ServerTransaction
from gateway.protocols.sip.uri import CACHEABLE

SDP = "application/sdp"

Answerer = Callable[[bytes, float], None]
Rejecter = Callable[[int, float, list[Header]], None]


@lru_cache(maxsize=256)
def _methods(lines: tuple[str, ...]) -> frozenset[str]:
    """What Allow names. Peers of one make say the same in each call: kept once."""
    return frozenset(tokens(lines))


class Session:
    """One INVITE session; `Outgoing` and `Incoming` add how it begins."""

    __slots__ = (
        "_ack", "_asked", "_change", "_expiry_timer", "_glare_timer", "_incoming_change",
        "_interval", "_least", "_next_offer", "_refresh_timer", "_refresher", "ack_wait",
        "answerer", "auth", "call_id", "contact", "core", "dialog", "extra", "flow", "id",
        "local_sdp", "offering", "on_ack_body", "peer_allows", "pinned", "refers",
        "rejecter", "remote_sdp", "secure", "state",
    )  # fmt: skip
    caller = False
    """We sent the first INVITE, so the Call-ID is ours."""

    def __init__(self, core: Core, flow: Flow, auth: DigestClient | None) -> None:
        self.core = core
        self.id = core.serial()
        self.state = ""
        self.flow = flow
        self.auth = auth
        self.dialog: Dialog | None = None
        self.secure = False
        """It was asked for with sips: our Contact says sips too (RFC 5630 section 5.1)."""
        self.pinned = False
        """Requests go to where the peer's come from: it is behind a NAT."""
        self.peer_allows: frozenset[str] = frozenset()
        self.local_sdp = b""
        """Our last description, for refreshes."""
        self.remote_sdp = b""
        self.answerer: Answerer | None = None
        """Takes our answer to the peer's outstanding offer."""
        self.rejecter: Rejecter | None = None
        self.offering = False
        """An offer of ours is on its way."""
        self.ack_wait: AckWait | None = None
        self.on_ack_body: Callable[[bytes | None], None] | None = None
        self._change: ClientRequest | None = None
        self._incoming_change: ServerTransaction | None = None
        self._next_offer: bytes | None = None
        self._ack: tuple[int, bytes, Flow] | None = None
        self._interval: sessiontimer.Interval | None = None
        self._refresher = False
        self._refresh_timer: Timer | None = None
        self._expiry_timer: Timer | None = None
        self._glare_timer: Timer | None = None
        """What both sides asked for at once is asked for again then, or what is newer."""
        self._asked = core.config.session_expires
        self._least = core.config.min_se
        self.refers: dict[int, int] = {}
        """CSeq of a REFER of ours to its token."""
        self.extra: list[Header] = []
        """Header fields in each request of the session (Session-ID)."""
        self.call_id = ""
        self.contact = ""
        core.sessions[self.id] = self

    # -- ending --

    @property
    def ended(self) -> bool:
        return self.state == "ended"

    def end(
        self,
        how: How,
        now: float,
        status: int = 0,
        message: Request | Response | None = None,
    ) -> None:
        """Enter ``ended``; a second call does nothing."""
        if self.state == "ended":
            return
        self.state = "ended"
        core = self.core
        if self.ack_wait is not None:
            self.ack_wait.stop()
            self.ack_wait = None
        for timer in (self._refresh_timer, self._expiry_timer, self._glare_timer):
            if timer is not None:
                timer.stop()
        # What refers to itself stays until the collector of garbage comes, and that comes seldom.
        self.answerer = self.rejecter = self.on_ack_body = None
        core.sessions.pop(self.id, None)
        self.drop_dialogs()
        if self.call_id in core.kept:
            # The answer to a BYE, and to its repetitions, is still of this session.
            core.timers.start(now + core.values.timeout, self._let_go)
        reasons = tuple(parse_reasons(message.all("reason"))) if message is not None else ()
        core.emit(Ended(session=self.id, how=how, status=status, reasons=reasons, message=message))

    def keep(self, headers: list[Header]) -> None:
        """Put header fields into each further message, until well after the end."""
        self.extra = self.core.kept[self.call_id] = headers

    def _let_go(self, now: float) -> None:
        self.release()
        if self.core.kept.get(self.call_id) is self.extra:
            del self.core.kept[self.call_id]

    def release(self) -> None:
        """Half a minute after the end: nothing comes any more that would have to be told."""

    def drop_dialogs(self) -> None:
        if self.dialog is not None:
            self.core.dialogs.pop(self.dialog.key, None)

    def bye(self, how: How, now: float, headers: list[Header] | None = None) -> None:
        """Hang up a dialog that stands; the session has ended at once for its owner."""
        dialog = self.dialog
        if self.ended or dialog is None:
            return
        if self._incoming_change is not None and self.rejecter is not None:
            self.rejecter(487, now, [])
        self.request(BYE, list(headers or ()), b"", _done, now)
        self.end(how, now)

    def replaced_by_other(self, now: float) -> None:
        """Another call took this one's place (RFC 3891 section 3)."""
        if self.state in ("confirmed", "answered"):
            self.bye(How.REPLACED, now)
        elif not self.ended:
            self.hangup(now, 487, [])

    def hangup(self, now: float, status: int, headers: list[Header]) -> None:
        raise NotImplementedError

    # -- requests of ours inside the dialog --

    def request(
        self,
        method: str,
        extra: list[Header],
        body: bytes,
        on_response: Callable[[ClientRequest, Response, float], None],
        now: float,
        dialog: Dialog | None = None,
    ) -> ClientRequest:
        """Send a request inside the dialog.  Raises `UsageError` before there is one."""
        dialog = dialog or self.dialog
        if dialog is None:
            raise UsageError(f"session {self.id} has no dialog for {method} yet")
        target, routes, hop = dialog.route()
        flow = self.core.dialog_flow(dialog, hop, pinned=self.pinned)
        made = ClientRequest(
            self.core,
            method,
            target,
            flow,
            routes=routes,
            from_=dialog.local,
            to=dialog.remote,
            call_id=dialog.call_id,
            seq=dialog.next_seq(),
            extra=extra + self.extra,
            on_response=on_response,
            body=body,
            auth=self.auth,
            dialog=dialog,
        )
        made.send(now)
        return made

    def my_contact(self) -> Header:
        dialog = self.dialog
        flow = dialog.flow if dialog is not None else self.flow
        secure = self.secure or (dialog.secure if dialog is not None else False)
        return ("Contact", self.contact or self.core.contact(flow, secure=secure))

    def capabilities(self) -> list[Header]:
        """Header fields of requests and 2xx that say what we can do."""
        return [self.my_contact(), ("Allow", self.core.allow), ("Supported", self.core.supported)]

    @property
    def changing(self) -> bool:
        """A re-INVITE or UPDATE is in progress, ours or the peer's, or ours has to wait."""
        return (
            self._change is not None
            or self._glare_timer is not None
            or self._incoming_change is not None
            or self.ack_wait is not None
        )

    @property
    def waiting(self) -> bool:
        """An offer of ours has not been sent yet."""
        return self._next_offer is not None

    def reoffer(self, body: bytes, now: float) -> None:
        """Ask for a change of the session; ``body`` empty asks the peer for its offer."""
        early = self.state not in ("confirmed", "answered")
        if early and (UPDATE not in self.peer_allows or self.dialog is None or not body):
            raise UsageError(f"session {self.id} cannot be changed before it is answered")
        if self.changing or self.offering or self.answerer is not None:
            self._next_offer = body
            return
        self._send_change(UPDATE if early else INVITE, body, now)

    def _send_change(self, method: str, body: bytes, now: float) -> None:
        extra = self.capabilities()
        refresher = ("uac" if self._refresher else "uas") if self._interval else ""
        extra += sessiontimer.ask(self._asked, self._least, refresher)
        if body:
            extra.append(("Content-Type", SDP))
            self.offering = True
        self._change = self.request(method, extra, body, self._change_answered, now)

    def _change_answered(self, change: ClientRequest, response: Response, now: float) -> None:
        status = response.status
        if status < 200:
            return
        dialog = self.dialog
        if dialog is None:
            return
        if change is not self._change:
            # A further copy of the 2xx to a re-INVITE: its ACK was lost.
            if change.method == INVITE and status < 300:
                self.acknowledge_again(change.seq)
            return
        if self.ended:
            if change.method == INVITE and status < 300:
                self.acknowledge(dialog, change, b"", now)
            self._change = None
            return
        if status == 422 and self._raise_interval(change, response, now):
            return
        self._change = None
        self.offering = False
        if status < 300:
            self._change_accepted(change, response, now)
        elif status == 491 or (
            status == 500 and change.method == INVITE and retry_after(response) is not None
        ):
            if status == 500:
                # Section 14.2: the peer has not done with what was asked before.
                wait = min(max(retry_after(response) or 0.0, 1.0), 10.0)
            else:
                # Section 14.1: the owner of the Call-ID waits longer, so that one of the two wins.
                wait = random.uniform(2.1, 4.0) if self.caller else random.uniform(0.0, 2.0)
            if self._next_offer is None:
                self._next_offer = change.body
            self._glare_timer = self.core.timers.start(now + wait, self._try_again)
        elif status in (408, 481):
            if status == 408:
                self.bye(How.GONE, now)
            self.end(How.GONE, now, status, response)
        else:
            if change.body and change.body != self.local_sdp:
                self.core.emit(ReofferFailed(session=self.id, status=status, response=response))
            elif self._refresher and self._interval is not None:
                # A refresh that failed is tried again until the session runs out.
                self._refresh_timer = self.core.timers.start(now + 10.0, self._refresh)
            self._next_change(now)

    def _raise_interval(self, change: ClientRequest, response: Response, now: float) -> bool:
        """After 422, ask again for what Min-SE says (RFC 4028 section 7.3)."""
        try:
            least = response.number("min-se", 86400)
        except PeerError:
            return False
        if least is None or least <= self._asked:
            return False
        self._asked = self._least = least
        change.extend("Session-Expires", str(least))
        change.extend("Min-SE", str(least))
        change.again(now)
        return True

    def _change_accepted(self, change: ClientRequest, response: Response, now: float) -> None:
        dialog = self.dialog
        assert dialog is not None
        sdp = response.sdp
        try:
            dialog.refresh(response)
            self.start_interval(sessiontimer.agreed(response, self._asked), "uac", now)
        except PeerError:
            self.core.counters["bad_response"] += 1
        if change.method == INVITE and not change.body and sdp is not None:
            self.remote_sdp = sdp

            def answer(body: bytes, at: float) -> None:
                self.acknowledge(dialog, change, body, at)

            self.answerer = answer
            self.core.emit(ReofferAnswered(session=self.id, body=sdp, answer_needed=True))
            return
        if change.method == INVITE:
            self.acknowledge(dialog, change, b"", now)
        if change.body:
            fresh = change.body != self.local_sdp or sdp != self.remote_sdp
            self.local_sdp = change.body
            self.remote_sdp = sdp or self.remote_sdp
            if fresh:
                self.core.emit(ReofferAnswered(session=self.id, body=sdp, answer_needed=False))
        self._next_change(now)

    def _try_again(self, now: float) -> None:
        self._glare_timer = None
        self._next_change(now)

    def _next_change(self, now: float) -> None:
        """Send the change that waited, if nothing is in its way."""
        if self._next_offer is None or self.ended or self.state != "confirmed":
            return
        if not (self.changing or self.offering or self.answerer is not None):
            body, self._next_offer = self._next_offer, None
            self._send_change(INVITE, body, now)

    def acknowledge(self, dialog: Dialog, invite: ClientRequest, body: bytes, now: float) -> None:
        """Send the ACK for a 2xx and keep it for further copies of that 2xx."""
        _, _, hop = dialog.route()
        flow = self.core.dialog_flow(dialog, hop, pinned=self.pinned)
        auth = self.auth.headers("ACK", dialog.route()[0], body) if self.auth else []
        data = ack_bytes(self.core, dialog, invite.seq, flow, body, auth + self.extra)
        if dialog is self.dialog:
            self._ack = (invite.seq, data, flow)
        self.core.transmit(data, flow, "")

    def acknowledge_again(self, seq: int) -> None:
        if self._ack is not None and self._ack[0] == seq:
            self.core.transmit(self._ack[1], self._ack[2], "")

    def give_answer(self, body: bytes, now: float) -> None:
        """Our answer to the peer's outstanding offer, wherever that stood."""
        answerer = self.answerer
        if answerer is None:
            raise UsageError(f"session {self.id} has no offer waiting for an answer")
        self.answerer = self.rejecter = None
        self.local_sdp = body or self.local_sdp
        answerer(body, now)
        self._next_change(now)

    def refuse_offer(self, status: int, now: float, headers: list[Header]) -> None:
        """Refuse the peer's re-INVITE or UPDATE; the session goes on as it was."""
        rejecter = self.rejecter
        if rejecter is None:
            raise UsageError(f"session {self.id} has no change waiting that can be refused")
        self.answerer = self.rejecter = None
        rejecter(status, now, headers)
        self._next_change(now)

    # -- session timer --

    def start_interval(
        self, interval: sessiontimer.Interval | None, our_role: str, now: float
    ) -> None:
        """(Re)start the session timer; ``our_role`` in the transaction that settled it."""
        for timer in (self._refresh_timer, self._expiry_timer):
            if timer is not None:
                timer.stop()
        self._refresh_timer = self._expiry_timer = None
        self._interval = interval
        if interval is None:
            return
        self._refresher = interval.refresher == our_role
        start = self.core.timers.start
        if self._refresher:
            self._refresh_timer = start(now + interval.seconds / 2, self._refresh)
        self._expiry_timer = start(now + sessiontimer.expiry(interval.seconds), self._expired)

    def _refresh(self, now: float) -> None:
        if self.ended:
            return
        if self.changing or self.answerer is not None or self.state != "confirmed":
            self._refresh_timer = self.core.timers.start(now + 5.0, self._refresh)
            return
        if UPDATE in self.peer_allows:
            self._send_change(UPDATE, b"", now)
        elif self.local_sdp:
            self._send_change(INVITE, self.local_sdp, now)

    def _expired(self, now: float) -> None:
        self.core.counters["session_expired"] += 1
        self.bye(How.EXPIRED, now, [("Reason", 'SIP;cause=408;text="Session expired"')])

    # -- requests of the peer inside the dialog --

    def note_peer(self, message: Request | Response) -> None:
        """Learn what the peer supports."""
        lines = message.headers.get("allow")
        if lines:
            short = sum(map(len, lines)) <= CACHEABLE
            self.peer_allows = _methods(tuple(lines)) if short else frozenset(tokens(lines))

    def on_ack(self, request: Request, now: float) -> None:
        """An ACK for a 2xx of ours."""
        wait = self.ack_wait
        if wait is None or request.cseq.number != wait.seq:
            self.core.counters["stray_ack"] += 1
            return
        wait.stop()
        self.ack_wait = None
        taker, self.on_ack_body = self.on_ack_body, None
        if taker is not None:
            taker(request.sdp)
        if not self.ended:
            self._next_change(now)

    def on_request(
        self, request: Request, transaction: ServerTransaction, flow: Flow, now: float
    ) -> None:
        """A request inside our dialog.  Raises `PeerError` with the status to answer."""
        dialog = self.dialog
        assert dialog is not None
        self.sequence(request)
        if flow.connection or self.pinned or self.core.config.symmetric:
            dialog.flow = flow
        core, method = self.core, request.method
        if method == BYE:
            core.respond(request, transaction, 200, now)
            self.on_bye(request, now)
        elif method == INVITE:
            self._reinvited(request, transaction, now)
        elif method == UPDATE:
            self._updated(request, transaction, now)
        elif method == PRACK:
            self.on_prack(request, transaction, now)
        elif method == INFO:
            self._informed(request, transaction, now)
        elif method == MESSAGE:
            number = core.hold(request, transaction, flow, self.id, now)
            core.emit(
                RequestReceived(
                    request=number, session=self.id, message=request, flow=flow, identity=""
                )
            )
        elif method == OPTIONS:
            core.respond(request, transaction, 200, now, self.capabilities())
        elif method in (REFER, NOTIFY):
            raise UsageError(f"{method} is dealt with by the agent")
        else:
            raise PeerError(f"{method} makes no sense here", status=405)

    def on_bye(self, request: Request, now: float) -> None:
        if self.rejecter is not None:
            self.rejecter(487, now, [])
        self.end(How.BYE, now, 0, request)

    def on_cancel(self, request: Request, invite: ServerTransaction, now: float) -> None:
        """A CANCEL: here for a re-INVITE that waits for our answer."""
        if self._incoming_change is invite and self.rejecter is not None:
            self.refuse_offer(487, now, [])

    def sequence(self, request: Request) -> None:
        """Note a request's CSeq.  Raises `PeerError` (500) if it is older than one seen."""
        if self.dialog is None or not self.dialog.in_order(request):
            raise PeerError("CSeq is out of order", status=500)

    def on_prack(self, request: Request, transaction: ServerTransaction, now: float) -> None:
        raise PeerError("no reliable provisional response waits for this PRACK", status=481)

    @property
    def owes_answer(self) -> bool:
        """The offer of the peer's INVITE has no answer yet."""
        return False

    def _busy_with_change(self, request: Request) -> None:
        if self.owes_answer:
            # RFC 3311 section 5.2.
            raise PeerError("the first offer has no answer yet", status=500)
        if self._incoming_change is not None or self.state not in ("confirmed", "answered"):
            if request.method == UPDATE and self._incoming_change is None and not self.answerer:
                if self.offering:
                    raise PeerError("our offer is on its way", status=491)
                return
            raise PeerError("an earlier request is not finished", status=500)
        if self._change is not None or self.offering:
            raise PeerError("our own change is on its way", status=491)
        if self.ack_wait is not None or self.answerer is not None:
            raise PeerError("an earlier change is not finished", status=491)

    def _reinvited(self, request: Request, transaction: ServerTransaction, now: float) -> None:
        self._busy_with_change(request)
        timer_headers, interval = self._negotiate(request)
        dialog = self.dialog
        assert dialog is not None
        dialog.refresh(request)
        self.note_peer(request)
        offer = request.sdp
        seq = request.cseq.number
        self._incoming_change = transaction
        self.core.invited[transaction.key] = self

        def answer(body: bytes, at: float) -> None:
            self._incoming_change = None
            headers = self.capabilities() + timer_headers
            if body:
                headers.append(("Content-Type", SDP))
            data = self.core.response(request, 200, headers, body)
            transaction.respond(200, data, at)
            self.ack_wait = AckWait(self.core, data, transaction.flow, seq, at, self._no_ack)
            self.start_interval(interval, "uas", at)
            if offer is None:
                self.offering = True
                self.on_ack_body = self._answered_in_ack

        def reject(status: int, at: float, headers: list[Header]) -> None:
            self._incoming_change = None
            self.core.respond(request, transaction, status, at, headers)

        self.remote_sdp = offer or self.remote_sdp
        self.answerer, self.rejecter = answer, reject
        self._guard(transaction, now)
        self.core.emit(
            ReofferReceived(session=self.id, method=INVITE, offer=offer, request=request)
        )

    def _guard(self, transaction: ServerTransaction, now: float) -> None:
        """Refuse a change that the owner leaves unanswered, so that the session is not stuck."""

        def refuse(at: float) -> None:
            if self._incoming_change is transaction and not self.ended:
                self.core.counters["unanswered"] += 1
                self.refuse_offer(500, at, [])

        self.core.timers.start(now + self.core.values.timeout, refuse)

    def _answered_in_ack(self, body: bytes | None) -> None:
        self.offering = False
        self.remote_sdp = body or self.remote_sdp
        self.core.emit(ReofferAnswered(session=self.id, body=body, answer_needed=False))

    def _no_ack(self, now: float) -> None:
        self.core.counters["no_ack"] += 1
        self.ack_wait = None
        self.bye(How.NO_ACK, now)

    def _updated(self, request: Request, transaction: ServerTransaction, now: float) -> None:
        offer = request.sdp
        if offer is not None:
            self._busy_with_change(request)
        timer_headers, interval = self._negotiate(request)
        dialog = self.dialog
        assert dialog is not None
        dialog.refresh(request)
        self.note_peer(request)
        if offer is None:
            self.core.respond(request, transaction, 200, now, self.capabilities() + timer_headers)
            self.start_interval(interval, "uas", now)
            return
        self._incoming_change = transaction

        def answer(body: bytes, at: float) -> None:
            self._incoming_change = None
            headers = [*self.capabilities(), *timer_headers, ("Content-Type", SDP)]
            self.core.respond(request, transaction, 200, at, headers, body)
            self.start_interval(interval, "uas", at)

        def reject(status: int, at: float, headers: list[Header]) -> None:
            self._incoming_change = None
            self.core.respond(request, transaction, status, at, headers)

        self.remote_sdp = offer
        self.answerer, self.rejecter = answer, reject
        self._guard(transaction, now)
        self.core.emit(
            ReofferReceived(session=self.id, method=UPDATE, offer=offer, request=request)
        )

    def _negotiate(self, request: Request) -> tuple[list[Header], sessiontimer.Interval | None]:
        config = self.core.config
        return sessiontimer.negotiate(request, config.session_expires, config.min_se)

    def _informed(self, request: Request, transaction: ServerTransaction, now: float) -> None:
        core, kind = self.core, request.content_type
        if "info-package" in request.headers:
            # No packages were announced in Recv-Info (RFC 6086 section 4.2.2).
            core.respond(request, transaction, 469, now, [("Recv-Info", "")])
            return
        if kind in ("application/dtmf-relay", "application/dtmf"):
            digit, duration = read_digit(kind, request.body)
            if not digit:
                raise PeerError("no digit in the body", status=400)
            core.respond(request, transaction, 200, now)
            core.emit(DtmfReceived(session=self.id, digit=digit, duration_ms=duration))
            return
        core.respond(request, transaction, 200, now)
        core.emit(InfoReceived(session=self.id, content_type=kind, body=request.body))

    def answered_inside(
        self, request: ClientRequest, response: Response, token: int, now: float
    ) -> None:
        """The final response to an INFO, MESSAGE or OPTIONS inside the dialog."""
        if response.status < 200:
            return
        self.core.emit(ResponseReceived(token=token, session=self.id, response=response))
        if response.status == 481:
            self.end(How.GONE, now, 481, response)


def _done(request: ClientRequest, response: Response, now: float) -> None:
    """Nothing depends on the response."""
