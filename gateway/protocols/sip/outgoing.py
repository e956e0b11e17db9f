"""Sessions that we start: INVITE, forks, CANCEL and its races.

RFC 3261 sections 9 and 13.2, RFC 3262.

One INVITE may be answered by several phones.  Each To tag is an early dialog of its own; the
first 2xx wins, and any other 2xx is acknowledged and hung up at once, as is a 2xx that crosses
our CANCEL.  A CANCEL waits for the first provisional response, before which the peer may not
know the INVITE (section 9.1).
"""

from __future__ import annotations

from gateway.errors import PeerError, UsageError
from gateway.protocols.sip import sessiontimer
from gateway.protocols.sip.auth import DigestClient
from gateway.protocols.sip.core import ClientRequest, Core
from gateway.protocols.sip.dialog import Dialog, dialog_of_client
from gateway.protocols.sip.events import Answered, How, Progress
from gateway.protocols.sip.message import Header, Request, Response
from gateway.protocols.sip.names import BYE, INVITE, PRACK
from gateway.protocols.sip.session import SDP, Session
from gateway.protocols.sip.transaction import Flow, ServerTransaction

MAX_FORKS = 16
"""Early dialogs of one INVITE; further forks are not told of (their 2xx is still hung up)."""


class Outgoing(Session):
    """A session whose first INVITE is ours."""

    __slots__ = (
        "_cancel_headers", "_forks", "_heard", "_local", "_local_tag", "_offered",
        "_ring_timer", "_rseq", "invite",
    )  # fmt: skip
    caller = True

    def __init__(
        self,
        core: Core,
        target: str,
        flow: Flow,
        *,
        routes: list[str],
        from_: str,
        local_tag: str,
        to: str,
        call_id: str,
        body: bytes,
        extra: list[Header],
        auth: DigestClient | None,
        timeout: float | None,
        max_forwards: int | None,
        now: float,
    ) -> None:
        super().__init__(core, flow, auth)
        self.call_id = call_id
        self.state = "calling"
        self.secure = target.startswith("sips:")
        self._local = from_
        self._local_tag = local_tag
        self._forks: dict[str, Dialog] = {}
        self._rseq: dict[str, int] = {}
        self._heard = False
        self._cancel_headers: list[Header] = []
        self._offered = bool(body)
        self.local_sdp = body
        self.offering = self._offered
        lines = [*self.capabilities(), *sessiontimer.ask(self._asked, self._least)]
        if body:
            lines.append(("Content-Type", SDP))
        self.invite = ClientRequest(
            core,
            INVITE,
            target,
            flow,
            routes=routes,
            from_=from_,
            to=to,
            call_id=call_id,
            seq=1,
            extra=lines + extra,
            on_response=self._responded,
            body=body,
            auth=auth,
            timeout=timeout,
            max_forwards=max_forwards,
        )
        self._ring_timer = core.timers.start(now + core.config.ring_limit, self._rung_out)

    def start(self, now: float) -> None:
        self.invite.send(now)

    def drop_dialogs(self) -> None:
        self._ring_timer.stop()
        super().drop_dialogs()
        for dialog in self._forks.values():
            self.core.dialogs.pop(dialog.key, None)

    def release(self) -> None:
        self.invite.on_response = _done

    def _rung_out(self, now: float) -> None:
        self.hangup(now, 408, [])

    # -- giving up --

    def hangup(self, now: float, status: int, headers: list[Header]) -> None:
        if self.state == "confirmed":
            self.bye(How.LOCAL, now, headers)
        elif self.state in ("calling", "early"):
            self.state = "closing"
            self._cancel_headers = headers
            if self._heard:
                self.invite.cancel(now, headers)

    # -- responses --

    def _responded(self, invite: ClientRequest, response: Response, now: float) -> None:
        status = response.status
        if status < 200:
            self._provisional(response, now)
        elif status < 300:
            self._accepted(response, now)
        elif not self.ended:
            self._refused(response, now)

    def _refused(self, response: Response, now: float) -> None:
        status = response.status
        if self.state == "closing":
            self.end(How.CANCELLED, now, status, response)
        elif status == 422 and self._raise_interval(self.invite, response, now):
            self._heard = False
        elif response.synthetic:
            how = How.TIMEOUT if status == 408 else How.UNREACHABLE
            self.end(how, now, status, response)
        else:
            self.end(How.REJECTED, now, status, response)

    def _fork(self, response: Response) -> Dialog | None:
        """The dialog a response belongs to; None for one too many."""
        tag = response.to.tag
        dialog = self._forks.get(tag)
        if dialog is None:
            if len(self._forks) >= MAX_FORKS:
                self.core.counters["forks_refused"] += 1
                return None
            invite = self.invite
            dialog = dialog_of_client(
                response, self._local, self._local_tag, invite.seq, self.flow, invite.target
            )
            self._forks[tag] = dialog
            self.core.dialogs[dialog.key] = self
        return dialog

    def _provisional(self, response: Response, now: float) -> None:
        if self.ended:
            return
        if not self._heard:
            self._heard = True
            if self.state == "closing":
                self.invite.cancel(now, self._cancel_headers)
        if response.status == 100 or self.state not in ("calling", "early"):
            return
        needs_answer = False
        if response.to.tag:
            dialog = self._fork(response)
            if dialog is None:
                return
            self.dialog = dialog
            self.note_peer(response)
            if "100rel" in response.tokens("require"):
                fresh, needs_answer = self._prack(dialog, response, now)
                if not fresh:
                    return
        self.state = "early"
        sdp = response.sdp
        self.core.emit(
            Progress(
                session=self.id,
                status=response.status,
                body=sdp,
                fork=response.to.tag,
                answer_needed=needs_answer,
                response=response,
            )
        )

    def _prack(self, dialog: Dialog, response: Response, now: float) -> tuple[bool, bool]:
        """Acknowledge a reliable response; whether it is new, and whether we owe an answer."""
        number = response.number("rseq")
        if number is None:
            return True, False
        tag = dialog.remote_tag
        last = self._rseq.get(tag)
        if last is not None and number != last + 1:
            # A copy, or one that overtook another: the peer repeats it (RFC 3262 section 4).
            return False, False
        self._rseq[tag] = number
        rack: Header = ("RAck", f"{number} {self.invite.seq} {INVITE}")

        def send(body: bytes, at: float) -> None:
            extra = [rack, ("Content-Type", SDP)] if body else [rack]
            self.request(PRACK, extra, body, self._pracked, at, dialog)

        sdp = response.sdp
        if sdp is not None and not self._offered:
            self._offered = True
            self.remote_sdp = sdp
            self.answerer = send
            return True, True
        if sdp is not None:
            self.offering = False
            self.remote_sdp = sdp
        send(b"", now)
        return True, False

    def _pracked(self, request: ClientRequest, response: Response, now: float) -> None:
        if response.status >= 300:
            self.core.counters["prack_refused"] += 1

    def _accepted(self, response: Response, now: float) -> None:
        dialog = self.dialog
        tag = response.to.tag
        if self.state == "confirmed" and dialog is not None and dialog.remote_tag == tag:
            self.acknowledge_again(self.invite.seq)
            return
        try:
            fork = self._forks.get(tag) or dialog_of_client(
                response, self._local, self._local_tag, self.invite.seq, self.flow,
                self.invite.target,
            )  # fmt: skip
            # The route set of the 2xx counts, not that of the 1xx (section 13.2.2.4).
            final = dialog_of_client(
                response, self._local, self._local_tag, fork.local_seq, self.flow,
                self.invite.target,
            )  # fmt: skip
            final.remote_seq = fork.remote_seq
        except PeerError:
            self.core.counters["bad_response"] += 1
            if self.state not in ("confirmed", "ended"):
                self.end(How.FAILED, now, response.status, response)
            return
        if self.state in ("calling", "early"):
            self._confirm(final, response, now)
            return
        # Another fork than the one that won, or an answer that crossed our CANCEL.
        self.acknowledge(final, self.invite, b"", now)
        self.request(BYE, [], b"", _done, now, final)
        self.core.counters["extra_answers"] += 1
        if self.state == "closing":
            self.end(How.CANCELLED, now, response.status, response)

    def _confirm(self, dialog: Dialog, response: Response, now: float) -> None:
        core = self.core
        self._ring_timer.stop()
        for other in self._forks.values():
            core.dialogs.pop(other.key, None)
        self._forks = {dialog.remote_tag: dialog}
        self.dialog = dialog
        core.dialogs[dialog.key] = self
        self.state = "confirmed"
        self.note_peer(response)
        try:
            self.start_interval(sessiontimer.agreed(response, self._asked), "uac", now)
        except PeerError:
            core.counters["bad_response"] += 1
        sdp = response.sdp
        needs_answer = not self._offered and sdp is not None
        self.offering = False
        self.remote_sdp = sdp or self.remote_sdp
        if needs_answer:
            self._offered = True

            def answer(body: bytes, at: float) -> None:
                self.acknowledge(dialog, self.invite, body, at)

            self.answerer = answer
        else:
            self.acknowledge(dialog, self.invite, b"", now)
        core.emit(
            Answered(session=self.id, body=sdp, answer_needed=needs_answer, response=response)
        )
        self._next_change(now)

    # -- requests of the peer --

    def on_request(
        self, request: Request, transaction: ServerTransaction, flow: Flow, now: float
    ) -> None:
        if self.state != "confirmed":
            dialog = self._forks.get(request.from_.tag)
            if dialog is None or request.method == BYE:
                raise PeerError("the dialog is not confirmed", status=481)
            self.dialog = dialog
        super().on_request(request, transaction, flow, now)

    def bye(self, how: How, now: float, headers: list[Header] | None = None) -> None:
        if self.state != "confirmed":
            raise UsageError(f"session {self.id} is not confirmed")
        if self.answerer is not None and self._ack is None:
            # The 2xx brought an offer that nobody answered; without an ACK the peer repeats it.
            assert self.dialog is not None
            self.acknowledge(self.dialog, self.invite, b"", now)
        super().bye(how, now, headers)


def _done(request: ClientRequest, response: Response, now: float) -> None:
    """The peer's answer to this BYE changes nothing."""
