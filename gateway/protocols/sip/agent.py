"""`SipAgent`: a SIP user agent without sockets, clock or threads.

Driven by three inputs, each given ``now`` (seconds, monotonic): the network (`receive_datagram`,
`connection_made`, `receive_stream`, `connection_lost`, `transport_failed`), the user (`invite`,
`ring`, `answer`, ...) and the clock (`tick`, due at `next_timeout`).  After each input drain
`next_send` and `next_event` until both give None::

    agent = SipAgent(SipConfig(host="192.0.2.1"), gate=admit_all)
    agent.receive_datagram(data, ("192.0.2.9", 5060), ("192.0.2.1", 5060), "udp", now)
    while event := agent.next_event():
        match event:
            case Invited(session=session, offer=offer):
                agent.ring(session, now)
                agent.answer(session, sdp_answer_to(offer), now)
            case Ended(session=session, how=how):
                ...
    while send := agent.next_send():
        sock.sendto(send.data, (send.flow.host, send.flow.port))
    wake_at = agent.next_timeout()

Network input never raises: what cannot be understood is answered as RFC 3261 says where that is
possible, and counted in `counters` in any case.  User methods raise `UsageError` when called out
of order, for numbers not known (any more), and for values that hold CR or LF.

Who may do what is the owner's business: `gate.Gate` judges each request from outside.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.errors import PeerError, UsageError
from gateway.protocols.sip import names
from gateway.protocols.sip.auth import Credentials, DigestClient
from gateway.protocols.sip.core import (
    Advertise,
    ClientRequest,
    Core,
    PendingRequest,
    Send,
    SipConfig,
)
from gateway.protocols.sip.events import Event, ResponseReceived
from gateway.protocols.sip.gate import Gate
from gateway.protocols.sip.headers import is_token, parse_name_addr
from gateway.protocols.sip.incoming import Incoming
from gateway.protocols.sip.message import Header, Response
from gateway.protocols.sip.outgoing import Outgoing
from gateway.protocols.sip.receiver import Receiver
from gateway.protocols.sip.refer import accept_refer, notify_refer, send_refer
from gateway.protocols.sip.registration import Registration
from gateway.protocols.sip.session import SDP, Session
from gateway.protocols.sip.subscription import accept_subscription, notify, subscribe
from gateway.protocols.sip.transaction import Flow
from gateway.protocols.sip.uri import Uri, make_uri, parse_uri


class SipAgent(Receiver):
    """See the module's docstring."""

    def __init__(self, config: SipConfig, gate: Gate, advertise: Advertise | None = None) -> None:
        """``advertise`` tells our address as seen behind a flow (NAT); default: its local one."""
        super().__init__(Core(config, advertise), gate)

    # -- output --

    def next_send(self) -> Send | None:
        """The next octets to send, or None."""
        sends = self.core.sends
        return sends.popleft() if sends else None

    def next_event(self) -> Event | None:
        """The next event, or None."""
        events = self.core.events
        return events.popleft() if events else None

    def next_timeout(self) -> float | None:
        """When `tick` is due, or None."""
        return self.core.timers.next_due()

    def tick(self, now: float) -> None:
        """Do what is due."""
        self.core.timers.run(now)

    # -- calls --

    def invite(
        self,
        target: str,
        body: bytes,
        now: float,
        *,
        from_: str = "",
        to: str = "",
        flow: Flow | None = None,
        routes: Sequence[str] = (),
        headers: Sequence[Header] = (),
        credentials: Credentials | None = None,
        timeout: float | None = None,
        max_forwards: int | None = None,
        call_id: str = "",
        pinned: bool = False,
    ) -> int:
        """Call ``target`` (a SIP URI); returns the session.

        ``body`` is our SDP offer, empty to let the peer offer.  ``from_`` and ``to`` are
        addresses without tag (``"Name" <sip:...>``).  ``flow`` says where to send, by default
        the first route's or the target's address; ``pinned``: further requests go there too and
        not to the peer's Contact, which is behind a NAT.  ``timeout`` replaces timer B, seconds.
        """
        uri, flow = self._first_hop(target, routes, flow)
        if len(self.core.sessions) >= self.core.config.max_sessions:
            raise UsageError(f"{len(self.core.sessions)} sessions: no more are allowed")
        if max_forwards is not None and max_forwards < 1:
            raise UsageError("no hops are left for this call (Max-Forwards)")
        tag = self.core.random()
        session = Outgoing(
            self.core,
            uri.text,
            flow,
            routes=list(routes),
            from_=f"{self._address(from_, flow)};tag={tag}",
            local_tag=tag,
            to=self._address(to, flow) if to else f"<{uri.text}>",
            call_id=call_id or self._call_id(),
            body=body,
            extra=list(headers),
            auth=DigestClient(credentials) if credentials else None,
            timeout=timeout,
            max_forwards=max_forwards,
            now=now,
        )
        session.pinned = pinned
        try:
            session.start(now)
        except UsageError:
            self.core.sessions.pop(session.id, None)
            session.drop_dialogs()
            raise
        return session.id

    def ring(
        self,
        session: int,
        now: float,
        status: int = 180,
        body: bytes = b"",
        *,
        headers: Sequence[Header] = (),
        reason: str | None = None,
        reliable: bool | None = None,
    ) -> None:
        """Send a provisional response; with ``body`` (SDP) for early media.

        ``reliable`` None: reliably (RFC 3262) if the peer demands it or, with a body, can do it.
        """
        self._incoming(session).ring(status, body, list(headers), reason, reliable, now)

    def reliable(self, session: int) -> bool:
        """Whether the caller takes provisional responses reliably (RFC 3262)."""
        return self._incoming(session).reliable

    def answer(
        self, session: int, body: bytes, now: float, *, headers: Sequence[Header] = ()
    ) -> None:
        """Answer a call with our SDP: the answer, or the offer if the INVITE had none."""
        self._incoming(session).answer(body, list(headers), now)

    def reject(
        self,
        session: int,
        status: int,
        now: float,
        *,
        headers: Sequence[Header] = (),
        reason: str | None = None,
    ) -> None:
        """Refuse a call, or redirect it with 3xx and Contact among ``headers``."""
        self._incoming(session).reject(status, list(headers), reason, now)

    def hangup(
        self, session: int, now: float, status: int = 480, *, headers: Sequence[Header] = ()
    ) -> None:
        """End a session in whatever state: CANCEL, BYE, or ``status`` if it was not answered.

        Put a Reason header (RFC 3326) among ``headers`` to say why.
        """
        self._session(session).hangup(now, status, list(headers))

    def prove(self, session: int, credentials: Credentials) -> None:
        """Answer challenges to our requests in a session that the peer began."""
        self._session(session).auth = DigestClient(credentials)

    def answer_offer(self, session: int, body: bytes, now: float) -> None:
        """Answer the peer's outstanding offer: in a 200, ACK or PRACK, wherever it belongs.

        After a `ReofferReceived` without offer, ``body`` is our offer.
        """
        self._session(session).give_answer(body, now)

    def reject_offer(
        self, session: int, status: int, now: float, *, headers: Sequence[Header] = ()
    ) -> None:
        """Refuse the peer's re-INVITE or UPDATE (usually 488); the session goes on."""
        self._session(session).refuse_offer(status, now, list(headers))

    def reoffer(self, session: int, body: bytes, now: float) -> None:
        """Change a session (hold, codec): re-INVITE, or UPDATE before the answer.

        While another change is in progress the newest request waits.
        """
        self._session(session).reoffer(body, now)

    def info(
        self,
        session: int,
        content_type: str,
        body: bytes,
        now: float,
        *,
        headers: Sequence[Header] = (),
    ) -> int:
        """Send INFO inside a session; its response comes as `ResponseReceived`."""
        lines = [("Content-Type", content_type), *headers]
        return self._send_inside(session, names.INFO, lines, body, now)

    def dtmf(self, session: int, digit: str, now: float, duration_ms: int = 160) -> int:
        """Send one digit as INFO (application/dtmf-relay)."""
        if len(digit) != 1 or digit not in "0123456789ABCD*#!":
            raise UsageError(f"{digit!r} is not a DTMF digit")
        body = f"Signal={digit}\r\nDuration={duration_ms}\r\n".encode()
        return self.info(session, "application/dtmf-relay", body, now)

    def keep_headers(self, session: int, headers: Sequence[Header]) -> None:
        """Header fields for each further message of a session, such as Session-ID (RFC 7989)."""
        self._session(session).keep(list(headers))

    # -- transfer --

    def refer(
        self,
        session: int,
        target: str,
        now: float,
        *,
        replaces: int | None = None,
        headers: Sequence[Header] = (),
    ) -> int:
        """Ask the peer to call ``target``, in place of session ``replaces`` if given (RFC 3515)."""
        other = self._session(replaces) if replaces is not None else None
        return send_refer(self._session(session), target, other, list(headers), now)

    def accept_refer(self, request: int, now: float) -> int | None:
        """Accept a `Referred`: 202 and a first NOTIFY.

        Returns the token for `notify_refer`, None if the peer wants no news.
        """
        pending = self._pending(request)
        session = self.core.sessions.get(pending.session) if pending.session else None
        return accept_refer(self.core, pending, session, self.refers, now)

    def notify_refer(self, token: int, status: int, now: float) -> None:
        """Tell the referrer how the call goes; a status from 200 on is the last word."""
        notify_refer(self.core, self.refers, token, status, now)

    # -- requests outside sessions --

    def request(
        self,
        method: str,
        target: str,
        now: float,
        *,
        body: bytes = b"",
        content_type: str = "",
        from_: str = "",
        to: str = "",
        flow: Flow | None = None,
        routes: Sequence[str] = (),
        headers: Sequence[Header] = (),
        credentials: Credentials | None = None,
        timeout: float | None = None,
        contact: bool = False,
        max_forwards: int | None = None,
    ) -> int:
        """Send any request but INVITE; its final response comes as `ResponseReceived`."""
        if method in (names.INVITE, names.ACK, names.CANCEL) or not is_token(method):
            raise UsageError(f"{method!r} cannot be sent by itself")
        uri, flow = self._first_hop(target, routes, flow)
        token, call_id = self.core.serial(), self._call_id()
        extra = list(headers)
        if not any(name == "Session-ID" for name, _ in extra):
            extra.append(self.core.session_id(call_id))
        if contact:
            extra.append(("Contact", self.core.contact(flow, secure=uri.scheme == "sips")))
        if body:
            extra.append(("Content-Type", content_type or "text/plain;charset=UTF-8"))

        def finished(_: ClientRequest, response: Response, at: float) -> None:
            if response.status >= 200:
                self.core.emit(ResponseReceived(token=token, session=None, response=response))

        ClientRequest(
            self.core,
            method,
            uri.text,
            flow,
            routes=list(routes),
            from_=f"{self._address(from_, flow)};tag={self.core.random()}",
            to=self._address(to, flow) if to else f"<{uri.text}>",
            call_id=call_id,
            seq=1,
            extra=extra,
            on_response=finished,
            body=body,
            auth=DigestClient(credentials) if credentials else None,
            timeout=timeout,
            max_forwards=max_forwards,
        ).send(now)
        return token

    def options(
        self,
        target: str,
        now: float,
        *,
        flow: Flow | None = None,
        credentials: Credentials | None = None,
        timeout: float | None = None,
    ) -> int:
        """Ask whether a peer is there."""
        return self.request(
            names.OPTIONS,
            target,
            now,
            flow=flow,
            credentials=credentials,
            timeout=timeout,
            contact=True,
            headers=[("Accept", SDP)],
        )

    def message(
        self,
        target: str,
        text: str,
        now: float,
        *,
        from_: str = "",
        flow: Flow | None = None,
        routes: Sequence[str] = (),
        headers: Sequence[Header] = (),
        credentials: Credentials | None = None,
        max_forwards: int | None = None,
    ) -> int:
        """Send an instant message (RFC 3428)."""
        return self.request(
            names.MESSAGE,
            target,
            now,
            body=text.encode(),
            from_=from_,
            flow=flow,
            routes=routes,
            headers=headers,
            credentials=credentials,
            max_forwards=max_forwards,
        )

    def respond(
        self,
        request: int,
        status: int,
        now: float,
        *,
        headers: Sequence[Header] = (),
        body: bytes = b"",
        reason: str | None = None,
    ) -> None:
        """Answer a `RequestReceived` or refuse a `Referred`."""
        pending = self._pending(request)
        self.core.respond(
            pending.request, pending.transaction, status, now, list(headers), body, reason
        )
        self.core.pending.pop(request, None)

    # -- registration --

    def register(
        self,
        registrar: str,
        address: str,
        now: float,
        *,
        credentials: Credentials | None = None,
        expires: int = 600,
        contact_user: str = "",
        contact_params: str = "",
        flow: Flow | None = None,
        routes: Sequence[str] = (),
    ) -> int:
        """Register ``address`` (a SIP URI) and keep it registered; returns the token."""
        uri, flow = self._first_hop(registrar, routes, flow)
        registration = Registration(
            self.core,
            uri.text,
            parse_uri(address).text,
            flow,
            list(routes),
            self._call_id(),
            DigestClient(credentials) if credentials else None,
            expires,
            contact_user,
            contact_params,
            self.registrations,
        )
        self.registrations[registration.token] = registration
        registration.send(now)
        return registration.token

    def unregister(self, token: int, now: float) -> None:
        """Remove a registration; `Unregistered` follows."""
        registration = self.registrations.get(token)
        if registration is None:
            raise UsageError(f"no registration {token}")
        registration.stop(now)

    def refresh(self, token: int, now: float, flow: Flow | None = None) -> None:
        """Send a registration again now instead of when its wait is over, from now on over
        ``flow`` if given."""
        registration = self.registrations.get(token)
        if registration is None:
            raise UsageError(f"no registration {token}")
        registration.refresh(now, flow)

    # -- subscriptions --

    def subscribe(
        self,
        target: str,
        event: str,
        now: float,
        *,
        expires: int = 3600,
        accept: str = "",
        from_: str = "",
        flow: Flow | None = None,
        credentials: Credentials | None = None,
    ) -> int:
        """Subscribe to an event package and stay subscribed (RFC 6665)."""
        uri, flow = self._first_hop(target, (), flow)
        return subscribe(
            self.core,
            uri,
            event,
            flow,
            self._address(from_, flow),
            self._call_id(),
            expires,
            accept,
            DigestClient(credentials) if credentials else None,
            now,
        )

    def accept_subscription(self, request: int, expires: int, now: float) -> int:
        """Accept a SUBSCRIBE told of by `RequestReceived`; `notify` must follow."""
        return accept_subscription(self.core, self._pending(request), request, expires, now)

    def notify(
        self,
        token: int,
        content_type: str,
        body: bytes,
        now: float,
        *,
        state: str = "active",
        reason: str = "",
    ) -> None:
        """Tell a subscriber the state; ``state`` ``terminated`` ends the subscription."""
        notify(self.core, token, content_type, body, state, reason, now)

    def unsubscribe(self, token: int, now: float) -> None:
        """End a subscription of ours."""
        subscription = self.core.subscriptions.get(token)
        if subscription is None:
            raise UsageError(f"no subscription {token}")
        subscription.stop(now)

    def rebind(self, number: int, old: Flow, new: Flow) -> None:
        """The peer of a session or subscription behind a NAT is now heard from elsewhere: go on
        there, if that went over the ``old`` flow.  Nothing if there is no such number."""
        use = self.core.sessions.get(number) or self.core.subscriptions.get(number)
        if use is None or use.dialog is None or not (use.pinned or old.reliable):
            return
        if use.dialog.flow[:3] == old[:3]:
            use.dialog.flow = new

    # -- small parts --

    def _pending(self, number: int) -> PendingRequest:
        pending = self.core.pending.get(number)
        if pending is None:
            raise UsageError(f"no request {number} waits for an answer")
        return pending

    def _session(self, number: int) -> Session:
        session = self.core.sessions.get(number)
        if session is None:
            raise UsageError(f"no session {number}: it has ended or never was")
        return session

    def _incoming(self, number: int) -> Incoming:
        session = self._session(number)
        if not isinstance(session, Incoming):
            raise UsageError(f"session {number} was not started by the peer")
        return session

    def _send_inside(
        self, number: int, method: str, headers: list[Header], body: bytes, now: float
    ) -> int:
        session = self._session(number)
        token = self.core.serial()

        def finished(request: ClientRequest, response: Response, at: float) -> None:
            session.answered_inside(request, response, token, at)

        session.request(method, headers, body, finished, now)
        return token

    def _call_id(self) -> str:
        return f"{self.core.random(12)}@{self.core.config.host}"

    def _address(self, text: str, flow: Flow) -> str:
        """A From or To value without tag."""
        if not text:
            host, _ = self.core.address(flow)
            return f"<{make_uri(host, self.core.config.contact_user)}>"
        try:
            address = parse_name_addr(text if "<" in text else f"<{text}>")
        except PeerError as error:
            raise UsageError(str(error)) from error
        if address.params:
            raise UsageError(f"{text!r} may not carry parameters outside <>")
        return text if "<" in text else f"<{text}>"

    def _first_hop(self, target: str, routes: Sequence[str], flow: Flow | None) -> tuple[Uri, Flow]:
        try:
            uri = parse_uri(target)
            hop = parse_name_addr(routes[0]).uri if routes else uri
            return uri, flow or self.core.flow_to(hop)
        except PeerError as error:
            raise UsageError(str(error)) from error


__all__ = ["Credentials", "Flow", "SipAgent", "SipConfig"]
