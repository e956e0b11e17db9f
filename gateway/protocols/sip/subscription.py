"""Event subscriptions, both ends (RFC 6665).

A `Subscriber` is ours: it refreshes itself before it runs out.  A `Notifier` is a peer's: the
owner says what to notify.  Each is one use of one dialog.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import PeerError, UsageError
from gateway.protocols.sip.auth import DigestClient
from gateway.protocols.sip.core import ClientRequest, Core, PendingRequest
from gateway.protocols.sip.dialog import Dialog, behind_nat, dialog_of_client, dialog_of_server
from gateway.protocols.sip.events import Notified, Subscribed, SubscriptionEnded
from gateway.protocols.sip.headers import parse_number, parse_params
from gateway.protocols.sip.message import Header, Request, Response
from gateway.protocols.sip.names import NOTIFY, SUBSCRIBE
from gateway.protocols.sip.sessionid import session_id_of
from gateway.protocols.sip.timers import Timer
from gateway.protocols.sip.transaction import Flow, ServerTransaction
from gateway.protocols.sip.uri import Uri

MAX_SUBSCRIPTIONS = 10000


class Subscription:
    """What both ends share."""

    def __init__(self, core: Core) -> None:
        if len(core.subscriptions) >= MAX_SUBSCRIPTIONS:
            raise UsageError(f"{MAX_SUBSCRIPTIONS} subscriptions: no more are allowed")
        self.core = core
        self.token = core.serial()
        self.dialog: Dialog | None = None
        self.timer: Timer | None = None
        self.heard = ""
        """The peer's half of the Session-ID."""
        self.pinned = False
        """The peer is behind a NAT: it is reached where it was heard."""
        core.subscriptions[self.token] = self

    def stop(self, now: float) -> None:
        raise NotImplementedError

    def on_request(
        self, request: Request, transaction: ServerTransaction, flow: Flow, now: float
    ) -> None:
        raise NotImplementedError

    def end(self, status: int, reason: str) -> None:
        """Forget it and say so, once."""
        if self.core.subscriptions.pop(self.token, None) is None:
            return
        if self.timer is not None:
            self.timer.stop()
        if self.dialog is not None:
            self.core.dialogs.pop(self.dialog.key, None)
        self.core.emit(SubscriptionEnded(token=self.token, status=status, reason=reason))

    def adopt(self, dialog: Dialog) -> None:
        self.dialog = dialog
        self.core.dialogs[dialog.key] = self

    def restart(self, due: float, action: Callable[[float], None]) -> None:
        if self.timer is not None:
            self.timer.stop()
        self.timer = self.core.timers.start(due, action)

    def sequence(self, request: Request) -> None:
        if self.dialog is None or not self.dialog.in_order(request):
            raise PeerError("CSeq is out of order", status=500)
        self.heard = session_id_of(request) or self.heard

    def inside(
        self,
        method: str,
        extra: list[Header],
        body: bytes,
        on_response: Callable[[ClientRequest, Response, float], None],
        auth: DigestClient | None,
        now: float,
    ) -> None:
        """Send a request inside the dialog."""
        dialog = self.dialog
        assert dialog is not None
        target, routes, hop = dialog.route()
        flow = self.core.dialog_flow(dialog, hop, pinned=self.pinned)
        ClientRequest(
            self.core,
            method,
            target,
            flow,
            routes=routes,
            from_=dialog.local,
            to=dialog.remote,
            call_id=dialog.call_id,
            seq=dialog.next_seq(),
            extra=[
                ("Contact", self.core.contact(flow)),
                self.core.session_id(dialog.call_id, self.heard),
                *extra,
            ],
            on_response=on_response,
            body=body,
            auth=auth,
            dialog=dialog,
        ).send(now)


class Subscriber(Subscription):
    """A subscription of ours."""

    def __init__(
        self,
        core: Core,
        uri: Uri,
        event: str,
        flow: Flow,
        from_: str,
        call_id: str,
        expires: int,
        accept: str,
        auth: DigestClient | None,
        now: float,
    ) -> None:
        super().__init__(core)
        self._event = event
        self._expires = expires
        self._accept: list[Header] = [("Accept", accept)] if accept else []
        self._auth = auth
        self._tag = core.random()
        self._local = f"{from_};tag={self._tag}"
        self._call_id = call_id
        self._flow = flow
        self._target = uri.text
        # A NOTIFY may come before the 2xx and before its To tag is known (section 4.1.2.4).
        core.dialogs[(call_id, self._tag, "")] = self
        self._first = ClientRequest(
            core,
            SUBSCRIBE,
            uri.text,
            flow,
            routes=[],
            from_=self._local,
            to=f"<{uri.text}>",
            call_id=call_id,
            seq=1,
            extra=[
                ("Contact", core.contact(flow, secure=uri.scheme == "sips")),
                core.session_id(call_id),
                ("Event", event),
                ("Expires", str(expires)),
                *self._accept,
            ],
            on_response=self._responded,
            auth=auth,
        )
        self._first.send(now)

    def end(self, status: int, reason: str) -> None:
        self.core.dialogs.pop((self._call_id, self._tag, ""), None)
        super().end(status, reason)

    def _responded(self, request: ClientRequest, response: Response, now: float) -> None:
        status = response.status
        if status < 200:
            return
        self.heard = session_id_of(response) or self.heard
        if status >= 300:
            # RFC 5057: these end the subscription; others leave it until it runs out.
            if request is self._first or status in (404, 405, 408, 410, 416, 480, 481, 489, 501):
                self.end(status, "refused")
            return
        try:
            expires = response.number("expires", 2**31)
            if self.dialog is None and response.to.tag:
                self.adopt(
                    dialog_of_client(
                        response, self._local, self._tag, request.seq, self._flow, self._target
                    )
                )
        except PeerError:
            self.core.counters["bad_response"] += 1
            return
        self._refresh_in(self._expires if expires is None else expires, now)

    def _refresh_in(self, seconds: int, now: float) -> None:
        if seconds > 0:
            self.restart(now + max(1.0, seconds * 0.8), lambda at: self._send(self._expires, at))

    def _send(self, expires: int, now: float) -> None:
        if self.dialog is None:
            self.end(408, "no dialog")
            return
        extra = [("Event", self._event), ("Expires", str(expires)), *self._accept]
        self.inside(SUBSCRIBE, extra, b"", self._responded, self._auth, now)

    def stop(self, now: float) -> None:
        """Unsubscribe; the end comes with the last NOTIFY, or after 64*T1 without."""
        self._send(0, now)
        self.restart(now + self.core.values.timeout, lambda _: self.end(0, "unsubscribed"))

    def on_request(
        self, request: Request, transaction: ServerTransaction, flow: Flow, now: float
    ) -> None:
        if request.method != NOTIFY:
            raise PeerError("only NOTIFY is expected here", status=405)
        wanted = self._event.partition(";")[0].strip().lower()
        if (request.get("event") or "").partition(";")[0].strip().lower() != wanted:
            raise PeerError("NOTIFY for another event", status=489)
        if self.dialog is None:
            dialog = dialog_of_server(request, self._tag, flow)
            dialog.local, dialog.local_seq = self._local, 1
            dialog.remote_seq = -1
            self.adopt(dialog)
        self.sequence(request)
        self.core.respond(request, transaction, 200, now)
        state, semi, rest = (request.get("subscription-state") or "active").partition(";")
        state = state.strip().lower()
        params = parse_params(semi + rest) if semi else {}
        self.core.emit(
            Notified(
                token=self.token,
                state=state,
                reason=params.get("reason", ""),
                content_type=request.content_type,
                body=request.body,
            )
        )
        if state == "terminated":
            self.end(0, params.get("reason", ""))
        elif "expires" in params:
            self._refresh_in(parse_number(params["expires"], 2**31), now)


class Notifier(Subscription):
    """A peer's subscription."""

    def __init__(
        self,
        core: Core,
        request: Request,
        transaction: ServerTransaction,
        flow: Flow,
        expires: int,
        now: float,
    ) -> None:
        tag = core.random()
        # First: what cannot be read must not count as a subscription, which nothing would end.
        dialog = dialog_of_server(request, tag, flow)
        super().__init__(core)
        self.pinned = behind_nat(request, dialog)
        self.heard = session_id_of(request)
        self.adopt(dialog)
        self.event = request.get("event") or ""
        self._expires_at = now + expires
        self._most = expires
        core.respond(
            request,
            transaction,
            200,
            now,
            [("Contact", core.contact(flow)), ("Expires", str(expires))],
            to_tag=tag,
        )
        if expires:
            self.restart(now + expires, self._ran_out)

    def _ran_out(self, now: float) -> None:
        self.notify("", b"", "terminated", "timeout", now)

    def stop(self, now: float) -> None:
        self.notify("", b"", "terminated", "deactivated", now)

    def notify(self, content_type: str, body: bytes, state: str, reason: str, now: float) -> None:
        """Send NOTIFY; ``terminated`` ends the subscription."""
        if state not in ("active", "pending", "terminated"):
            raise UsageError(f"{state!r} is not a subscription state")
        left = max(0, int(self._expires_at - now))
        suffix = f";reason={reason}" if reason else ""
        if state != "terminated":
            suffix += f";expires={left}"
        extra: list[Header] = [
            ("Event", self.event),
            ("Subscription-State", f"{state}{suffix}"),
        ]
        if body:
            extra.append(("Content-Type", content_type))
        self.inside(NOTIFY, extra, body, self._notified, None, now)
        if state == "terminated":
            self.end(0, reason)

    def _notified(self, request: ClientRequest, response: Response, now: float) -> None:
        if response.status in (404, 405, 408, 410, 416, 480, 481, 489, 501):
            self.end(response.status, "NOTIFY was refused")

    def on_request(
        self, request: Request, transaction: ServerTransaction, flow: Flow, now: float
    ) -> None:
        if request.method != SUBSCRIBE:
            raise PeerError("only SUBSCRIBE is expected here", status=405)
        self.sequence(request)
        if request.get("event") != self.event:
            raise PeerError("SUBSCRIBE for another event", status=489)
        assert self.dialog is not None
        self.dialog.refresh(request)
        if flow.connection or self.pinned:
            self.dialog.flow = flow
        asked = request.number("expires", 2**31)
        expires = self._most if asked is None else min(asked, self._most)
        self._expires_at = now + expires
        lines: list[Header] = [
            ("Contact", self.core.contact(flow)),
            ("Expires", str(expires)),
        ]
        self.core.respond(request, transaction, 200, now, lines)
        if expires == 0:
            self.notify("", b"", "terminated", "timeout", now)
            return
        self.restart(now + expires, self._ran_out)
        self.core.emit(
            Subscribed(
                token=self.token,
                event=self.event,
                expires=expires,
                refresh=True,
                message=request,
                identity="",
            )
        )


def subscribe(
    core: Core,
    uri: Uri,
    event: str,
    flow: Flow,
    from_: str,
    call_id: str,
    expires: int,
    accept: str,
    auth: DigestClient | None,
    now: float,
) -> int:
    """Start a subscription of ours; returns its token."""
    return Subscriber(core, uri, event, flow, from_, call_id, expires, accept, auth, now).token


def accept_subscription(
    core: Core, pending: PendingRequest, number: int, expires: int, now: float
) -> int:
    """Accept a peer's SUBSCRIBE for at most ``expires`` seconds; returns its token.

    Raises `PeerError` if it makes no dialog; it is then still to be answered.
    """
    request = pending.request
    if request.method != SUBSCRIBE:
        raise UsageError(f"the pending request is {request.method}, not SUBSCRIBE")
    asked = request.number("expires", 2**31)
    granted = expires if asked is None else min(asked, expires)
    found = Notifier(core, request, pending.transaction, pending.flow, granted, now)
    core.pending.pop(number, None)
    return found.token


def notify(
    core: Core,
    token: int,
    content_type: str,
    body: bytes,
    state: str,
    reason: str,
    now: float,
) -> None:
    """Send NOTIFY in a peer's subscription.  Raises `UsageError` if it is over."""
    subscription = core.subscriptions.get(token)
    if not isinstance(subscription, Notifier):
        raise UsageError(f"no subscription {token} of a peer")
    subscription.notify(content_type, body, state, reason, now)
