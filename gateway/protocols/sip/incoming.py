"""Sessions that a peer starts: ringing, reliable provisional responses, the answer, its ACK.

RFC 3261 sections 8.2 and 13.3, RFC 3262.  One reliable provisional response is outstanding at a
time; further ones and the answer wait until it is acknowledged by PRACK.
"""

from __future__ import annotations

from gateway.errors import PeerError, UsageError
from gateway.protocols.sip import sessiontimer
from gateway.protocols.sip.ackwait import AckWait
from gateway.protocols.sip.core import Core
from gateway.protocols.sip.dialog import behind_nat, dialog_of_server
from gateway.protocols.sip.events import Acked, How, ReofferAnswered, ReofferReceived
from gateway.protocols.sip.message import Header, Request
from gateway.protocols.sip.names import INVITE, PRACK
from gateway.protocols.sip.session import SDP, Session
from gateway.protocols.sip.timers import Timer
from gateway.protocols.sip.transaction import Flow, InviteServer, ServerTransaction

REPEAT_PROVISIONAL = 60.0
"""A proxy forgets an INVITE that is silent for three minutes (section 13.3.1.1)."""

MAX_WAITING = 8
"""Reliable provisional responses that may wait for their turn; more are dropped."""

Waiting = tuple[int, bytes, list[Header], str | None]


class Incoming(Session):
    """A session whose first INVITE is the peer's."""

    __slots__ = (
        "_after_ack", "_answer_sent", "_bye_headers", "_deferred", "_last", "_may_prack",
        "_must_prack", "_offer_sent", "_offer_taken", "_queue", "_repeater", "_routes",
        "_rseq", "_settled", "_timer_headers", "_unacked", "_unacked_ender", "invite",
        "replaced", "transaction",
    )  # fmt: skip

    def __init__(
        self,
        core: Core,
        request: Request,
        transaction: InviteServer,
        flow: Flow,
        now: float,
    ) -> None:
        """Raises `PeerError` (400, 422) before anything is registered."""
        config = core.config
        self._timer_headers, self._settled = sessiontimer.negotiate(
            request, config.session_expires, config.min_se
        )
        dialog = dialog_of_server(request, core.random(), flow)
        super().__init__(core, flow, None)
        self.call_id = request.call_id
        self.state = "ringing"
        self.secure = request.uri.scheme == "sips"
        self.invite = request
        self.transaction = transaction
        self.dialog = dialog
        core.dialogs[dialog.key] = self
        core.invited[transaction.key] = self
        self.note_peer(request)
        self.pinned = behind_nat(request, dialog)
        required = request.tokens("require")
        self._must_prack = "100rel" in required
        self._may_prack = self._must_prack or "100rel" in request.tokens("supported")
        self.replaced: Session | None = None
        self._routes: list[Header] = [("Record-Route", v) for v in request.all("record-route")]
        self._offer_taken = request.sdp is not None
        self.remote_sdp = request.sdp or b""
        self._answer_sent = False
        """The offer of the INVITE was answered in a reliable provisional response."""
        self._offer_sent = False
        """Our offer went out in a reliable provisional response."""
        self._rseq = 0
        self._unacked: Timer | None = None
        self._unacked_ender: Timer | None = None
        self._queue: list[Waiting] = []
        self._deferred: tuple[bytes, list[Header]] | None = None
        self._last: tuple[int, bytes] | None = None
        self._repeater: Timer | None = None
        self._after_ack = False
        self._bye_headers: list[Header] = []

    def drop_dialogs(self) -> None:
        self.core.invited.pop(self.transaction.key, None)
        for timer in (self._repeater, self._unacked, self._unacked_ender):
            if timer is not None:
                timer.stop()
        super().drop_dialogs()

    # -- provisional responses --

    @property
    def reliable(self) -> bool:
        """Whether a description may go to the peer in a reliable provisional response."""
        return self._must_prack or (self._may_prack and self.core.config.reliable)

    def ring(
        self,
        status: int,
        body: bytes,
        headers: list[Header],
        reason: str | None,
        reliable: bool | None,
        now: float,
    ) -> None:
        """Send a provisional response, ``body`` being SDP for early media."""
        if self.state != "ringing":
            raise UsageError(f"session {self.id} is {self.state}: it cannot ring")
        if not 101 <= status <= 199:
            raise UsageError(f"{status} is not a provisional status above 100")
        if reliable is None:
            reliable = self._must_prack or (
                self._may_prack and bool(body) and self.core.config.reliable
            )
        if reliable and not self._may_prack:
            raise UsageError("the peer does not support reliable provisional responses")
        if body:
            self.local_sdp = body
        if not reliable:
            lines = self._early_headers(headers, body)
            assert self.dialog is not None
            data = self.core.response(
                self.invite, status, lines, body, reason, self.dialog.local_tag
            )
            self.transaction.respond(status, data, now)
            self._last = (status, data)
            self._repeat_later(now)
            return
        if self._unacked is not None:
            if len(self._queue) >= MAX_WAITING:
                self.core.counters["dropped_provisional"] += 1
            else:
                self._queue.append((status, body, headers, reason))
            return
        self._ring_reliably((status, body, headers, reason), now)

    def _early_headers(self, headers: list[Header], body: bytes) -> list[Header]:
        lines = [*self._routes, *self.capabilities(), *headers]
        if body:
            lines.append(("Content-Type", SDP))
        return lines

    def _repeat_later(self, now: float) -> None:
        if self._repeater is not None:
            self._repeater.stop()
        self._repeater = self.core.timers.start(now + REPEAT_PROVISIONAL, self._repeat)

    def _repeat(self, now: float) -> None:
        if self.state == "ringing" and self._last is not None:
            self.transaction.respond(self._last[0], self._last[1], now)
            self._repeat_later(now)

    def _ring_reliably(self, waiting: Waiting, now: float) -> None:
        status, body, headers, reason = waiting
        core = self.core
        if self._answer_sent or self._offer_sent:
            body = b""
        elif body:
            self._answer_sent = self._offer_taken
            self._offer_sent = not self._offer_taken
        # Any start below 2**31 will do (RFC 3262 section 3).
        self._rseq += 1
        lines = [("Require", "100rel"), ("RSeq", str(self._rseq))]
        lines += self._early_headers(headers, body)
        assert self.dialog is not None
        data = core.response(self.invite, status, lines, body, reason, self.dialog.local_tag)
        self.transaction.respond(status, data, now)
        interval = core.values.t1

        def repeat(at: float) -> None:
            nonlocal interval
            core.transmit(data, self.transaction.flow, "")
            interval *= 2
            self._unacked = core.timers.start(at + interval, repeat)

        self._unacked = core.timers.start(now + interval, repeat)
        self._unacked_ender = core.timers.start(now + core.values.timeout, self._never_pracked)

    def _never_pracked(self, now: float) -> None:
        self.core.counters["no_prack"] += 1
        self._finish(504, [], None, now)
        self.end(How.NO_ACK, now, 504)

    def on_prack(self, request: Request, transaction: ServerTransaction, now: float) -> None:
        words = (request.get("rack") or "").split()
        wanted = [str(self._rseq), str(self.invite.cseq.number), INVITE]
        if self._unacked is None or words != wanted:
            raise PeerError("no reliable provisional response waits for this PRACK", status=481)
        self._unacked.stop()
        if self._unacked_ender is not None:
            self._unacked_ender.stop()
        self._unacked = self._unacked_ender = None
        sdp = request.sdp
        if sdp is not None and self._offer_sent and not self._offer_taken:
            self._offer_taken = self._answer_sent = True
            self.core.respond(request, transaction, 200, now)
            self.remote_sdp = sdp
            self.core.emit(ReofferAnswered(session=self.id, body=sdp, answer_needed=False))
        elif sdp is not None:
            self._offered_in_prack(request, transaction, sdp)
            return
        else:
            self.core.respond(request, transaction, 200, now)
        self._continue(now)

    def _offered_in_prack(
        self, request: Request, transaction: ServerTransaction, offer: bytes
    ) -> None:
        def answer(body: bytes, at: float) -> None:
            self.core.respond(request, transaction, 200, at, [("Content-Type", SDP)], body)
            self._continue(at)

        def reject(status: int, at: float, headers: list[Header]) -> None:
            self.core.respond(request, transaction, status, at, headers)
            self._continue(at)

        self.remote_sdp = offer
        self.answerer, self.rejecter = answer, reject
        self.core.emit(ReofferReceived(session=self.id, method=PRACK, offer=offer, request=request))

    def _continue(self, now: float) -> None:
        """After a PRACK: what waited for it."""
        if self.state != "ringing":
            return
        if self._deferred is not None:
            body, headers = self._deferred
            self._deferred = None
            self._queue.clear()
            self.answer(body, headers, now)
        elif self._queue:
            self._ring_reliably(self._queue.pop(0), now)

    @property
    def owes_answer(self) -> bool:
        return self.state == "ringing" and self._offer_taken and not self._answer_sent

    # -- final responses --

    def answer(self, body: bytes, headers: list[Header], now: float) -> None:
        """Answer 200; ``body`` is the answer, or our offer if the INVITE had none.

        An empty body repeats the description given in a provisional response.
        """
        if self.state != "ringing":
            raise UsageError(f"session {self.id} is {self.state}: it cannot be answered")
        if self._unacked is not None:
            self._deferred = (body, headers)
            return
        body = body or self.local_sdp
        self.local_sdp = body
        sent = b"" if self._answer_sent or self._offer_sent else body
        lines = [*self._routes, *self.capabilities(), *self._timer_headers]
        lines += headers
        if sent:
            lines.append(("Content-Type", SDP))
        assert self.dialog is not None
        core, request = self.core, self.invite
        data = core.response(request, 200, lines, sent, None, self.dialog.local_tag)
        if not self.transaction.respond(200, data, now):
            raise UsageError(f"session {self.id} can no longer be answered")
        if self._repeater is not None:
            self._repeater.stop()
        self.state = "answered"
        self.offering = bool(sent) and not self._offer_taken
        self.ack_wait = AckWait(
            core, data, self.transaction.flow, request.cseq.number, now, self._no_ack
        )
        self.on_ack_body = self._acked
        self.start_interval(self._settled, "uas", now)
        if self.replaced is not None:
            self.replaced.replaced_by_other(now)

    def _acked(self, body: bytes | None) -> None:
        self.offering = False
        if self.state == "answered":
            self.state = "confirmed"
            # Nothing is answered any more: what calls that stand keep of it is what PRACK names.
            invite = self.invite
            self.invite = Request(INVITE, invite.target, {"cseq": invite.headers["cseq"]})
            self.remote_sdp = body or self.remote_sdp
            self.core.emit(Acked(session=self.id, body=body))

    def on_ack(self, request: Request, now: float) -> None:
        super().on_ack(request, now)
        if self._after_ack:
            self._after_ack = False
            self.bye(How.LOCAL, now, self._bye_headers)

    def _finish(self, status: int, headers: list[Header], reason: str | None, now: float) -> None:
        assert self.dialog is not None
        data = self.core.response(self.invite, status, headers, b"", reason, self.dialog.local_tag)
        self.transaction.respond(status, data, now)

    def reject(self, status: int, headers: list[Header], reason: str | None, now: float) -> None:
        """Refuse the call with a final status from 300 on."""
        if self.state != "ringing":
            raise UsageError(f"session {self.id} is {self.state}: it cannot be rejected")
        if not 300 <= status <= 699:
            raise UsageError(f"{status} is not a status that refuses a call")
        self._finish(status, headers, reason, now)
        self.end(How.LOCAL, now, status)

    def hangup(self, now: float, status: int, headers: list[Header]) -> None:
        if self.state == "ringing":
            self.reject(status, headers, None, now)
        elif self.state == "confirmed":
            self.bye(How.LOCAL, now, headers)
        elif self.state == "answered":
            # Section 15: the callee's BYE waits for the ACK (or its timeout).
            self._after_ack = True
            self._bye_headers = headers

    # -- the peer gives up --

    def on_cancel(self, request: Request, invite: ServerTransaction, now: float) -> None:
        if invite is not self.transaction:
            super().on_cancel(request, invite, now)
        elif self.state == "ringing":
            self._finish(487, [], None, now)
            self.end(How.CANCELLED, now, 487, request)

    def on_bye(self, request: Request, now: float) -> None:
        if self.state == "ringing":
            self._finish(487, [], None, now)
        super().on_bye(request, now)
