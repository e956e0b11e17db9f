"""The network's side of the agent: octets to messages to whatever they belong to.

A request takes the first of these ways that fits: its transaction (a copy, or the ACK of an
error), CANCEL, ACK of a 2xx, a dialog, the gate, the owner.
"""

from __future__ import annotations

from functools import partial

from gateway.errors import PeerError, UsageError
from gateway.protocols.sip import names
from gateway.protocols.sip.core import Core
from gateway.protocols.sip.events import CloseConnection, Invited, RequestReceived
from gateway.protocols.sip.gate import (
    Admit,
    Drop,
    Gate,
    Refusal,
    Refuse,
    check_service,
    check_syntax,
)
from gateway.protocols.sip.headers import parse_params, split_list
from gateway.protocols.sip.incoming import Incoming
from gateway.protocols.sip.message import (
    BadMessage,
    Header,
    Request,
    Response,
    StreamFramer,
    parse_datagram,
)
from gateway.protocols.sip.names import ACK, CANCEL, INVITE
from gateway.protocols.sip.refer import Refer, refer_received, refer_subscribed, session_notified
from gateway.protocols.sip.registration import Registration
from gateway.protocols.sip.session import Session
from gateway.protocols.sip.stun import answer, is_stun
from gateway.protocols.sip.timers import Timer
from gateway.protocols.sip.transaction import (
    Flow,
    InviteServer,
    NonInviteServer,
    ServerTransaction,
    invite_key,
    server_key,
)
from gateway.protocols.sip.uri import format_host

Address = tuple[str, int]

TRYING_AFTER = 0.2
"""When a caller is told that its INVITE has come, if it has heard nothing by then, seconds."""
MAX_PENDING = 4096
"""Requests that may wait for the owner; more are answered 503."""


class Receiver:
    """Input of `SipAgent`; see its docstring."""

    def __init__(self, core: Core, gate: Gate) -> None:
        self.core = core
        self.gate = gate
        self.counters = core.counters
        """What happened, by name: ``garbage``, ``bad_request``, ``ignored``, ..."""
        self.refers: dict[int, Refer] = {}
        self.registrations: dict[int, Registration] = {}
        self._framers: dict[int, StreamFramer] = {}
        self._stalls: dict[int, Timer] = {}

    # -- datagrams --

    def receive_datagram(
        self, data: bytes, source: Address, local: Address, transport: str, now: float
    ) -> None:
        """Take in one datagram from ``source``.  Never raises."""
        flow = Flow(transport, source[0], source[1], 0, local)
        if not data[:1].isalpha() and self._keeps_alive(data, flow):
            self.counters["keepalive"] += 1
            return
        try:
            message = parse_datagram(data, self.core.config.limits)
        except BadMessage as error:
            self._bad(error, flow)
            return
        self._dispatch(message, flow, now)

    def _keeps_alive(self, data: bytes, flow: Flow) -> bool:
        """Whether a datagram is no message but keeps a way open; answered if it wants to be."""
        if not data.strip(b"\r\n\0 "):
            # RFC 5626 section 3.5.1 keep-alive, or a NAT binding refresher.
            reply = b"\r\n" if data == b"\r\n\r\n" else b""
        elif is_stun(data):
            reply = answer(data, flow.host, flow.port) or b""
        else:
            return False
        if reply:
            self.core.transmit(reply, flow, "")
        return True

    def transport_failed(self, token: str, now: float) -> None:
        """What `Send.token` names could not be sent (RFC 3261 section 17.1.4)."""
        branch, _, method = token.partition(" ")
        transaction = self.core.clients.get((branch, method))
        if transaction is not None:
            transaction.transport_failed(now)

    # -- streams --

    def connection_made(
        self, connection: int, source: Address, local: Address, transport: str, now: float
    ) -> None:
        """A stream is open, whoever opened it; ``connection`` is the owner's number, not 0."""
        if connection == 0 or connection in self._framers:
            raise UsageError(f"connection number {connection} is taken")
        self.core.connections[connection] = Flow(transport, source[0], source[1], connection, local)
        self._framers[connection] = StreamFramer(self.core.config.limits)

    def receive_stream(self, connection: int, data: bytes, now: float) -> None:
        """Take in octets of a stream.  After `CloseConnection` further ones are ignored."""
        framer = self._framers.get(connection)
        flow = self.core.connections.get(connection)
        if framer is None or flow is None:
            return
        try:
            for message in framer.feed(data):
                self._dispatch(message, flow, now)
        except BadMessage as error:
            self._bad(error, flow)
            self._close(connection, str(error))
            return
        for _ in range(min(framer.pings, 4)):
            self.core.transmit(b"\r\n", flow, "")
        framer.pings = 0
        self._watch(connection, framer, now)

    def connection_lost(self, connection: int, now: float) -> None:
        """A stream is closed; responses and requests for it find another way."""
        self.core.connections.pop(connection, None)
        self._framers.pop(connection, None)
        stall = self._stalls.pop(connection, None)
        if stall is not None:
            stall.stop()

    def _watch(self, connection: int, framer: StreamFramer, now: float) -> None:
        """A message must be complete within ``stall`` seconds of its first octet."""
        stall = self._stalls.get(connection)
        if not framer.incomplete:
            if stall is not None:
                self._stalls.pop(connection).stop()
        elif stall is None:
            self._stalls[connection] = self.core.timers.start(
                now + self.core.config.stall,
                lambda _: self._close(connection, "a message stays incomplete"),
            )

    def _close(self, connection: int, why: str) -> None:
        self.counters["closed"] += 1
        self._framers.pop(connection, None)
        stall = self._stalls.pop(connection, None)
        if stall is not None:
            stall.stop()
        self.core.emit(CloseConnection(connection=connection, why=why))

    # -- messages --

    def _bad(self, error: BadMessage, flow: Flow) -> None:
        """Answer what is broken, if it says enough to be answered, and is not an ACK."""
        self.counters["garbage"] += 1
        request = error.request
        if request is None or request.method.upper() == ACK:
            return
        for key in ("via", "from", "to", "call-id", "cseq"):
            if not request.headers.get(key):
                return
        self._refuse(request, flow, error.status or 400, str(error))

    def _refuse(
        self,
        request: Request,
        flow: Flow,
        status: int,
        why: str,
        headers: list[Header] | None = None,
        reason: str | None = None,
    ) -> None:
        """Answer without state."""
        if request.method == ACK:
            return
        try:
            try:
                note_source(request, flow)
                reply = self.core.reply_flow(request, flow)
            except PeerError:
                # Its Via cannot be read: where it came from is the best guess.
                reply = flow
            lines = list(headers or ())
            if why:
                shown = "".join(c if c.isprintable() and c not in '"\\' else "?" for c in why)
                lines.append(("Warning", f'399 {format_host(self.core.config.host)} "{shown}"'))
            tag = self.core.stateless_tag(request)
            data = self.core.response(request, status, lines, b"", reason, tag)
        except (PeerError, UsageError):
            # What a response must copy cannot be written.
            self.counters["unanswerable"] += 1
            return
        self.core.transmit(data, reply, "")

    def _dispatch(self, message: Request | Response, flow: Flow, now: float) -> None:
        try:
            if isinstance(message, Response):
                self._response(message, flow, now)
                return
            try:
                self._request(message, flow, now)
            except Refusal as refusal:
                self.counters["refused"] += 1
                status = refusal.status or 400
                self._refuse(message, flow, status, str(refusal), refusal.headers)
            except PeerError as error:
                self.counters["bad_request"] += 1
                self._refuse(message, flow, error.status or 400, str(error))
        except PeerError:
            self.counters["garbage"] += 1

    def _response(self, response: Response, flow: Flow, now: float) -> None:
        via = response.via
        transaction = self.core.clients.get((via.branch, response.cseq.method))
        if transaction is None or len(response.headers.get("via", ())) > 1:
            # Two Vias: it was meant for somebody behind us, but we are no proxy (8.1.3.3).
            self.counters["stray_response"] += 1
            return
        _ = response.from_, response.to, response.call_id
        transaction.receive(response, now)

    def _request(self, request: Request, flow: Flow, now: float) -> None:
        core, method = self.core, request.method
        check_syntax(request)
        key = server_key(request)
        transaction = core.servers.get(key)
        if transaction is not None and not (
            method == ACK and transaction.state in ("accepted", "proceeding")
        ):
            transaction.receive(request, now)
            return
        if method == ACK:
            self._ack(request, now)
            return
        note_source(request, flow)
        if len(core.servers) >= core.config.max_transactions:
            self.counters["overload"] += 1
            raise Refusal(503, "", [("Retry-After", str(core.config.retry_after))])
        if method == CANCEL:
            self._cancel(request, flow, now)
        elif request.to.tag:
            self._inside(request, key, flow, now)
        else:
            self._outside(request, key, flow, now)

    def _ack(self, request: Request, now: float) -> None:
        user = self.core.dialogs.get((request.call_id, request.to.tag, request.from_.tag))
        if isinstance(user, Session):
            user.on_ack(request, now)
        else:
            self.counters["stray_ack"] += 1

    def _cancel(self, request: Request, flow: Flow, now: float) -> None:
        invite = self.core.servers.get(invite_key(request))
        if invite is None:
            self._belongs_to_nothing(request, flow, now)
            return
        transaction = self._open(request, server_key(request), flow)
        session = self.core.invited.get(invite.key)
        tag = session.dialog.local_tag if session is not None and session.dialog else ""
        self.core.respond(request, transaction, 200, now, to_tag=tag)
        if session is not None:
            session.on_cancel(request, invite, now)

    def _belongs_to_nothing(self, request: Request, flow: Flow, now: float) -> None:
        """Anybody can send that: it is answered without state, and no oftener than the gate
        wants."""
        if isinstance(self.gate(request, flow, now), Drop):
            self.counters["dropped"] += 1
            return
        raise Refusal(481, "")

    def _open(self, request: Request, key: tuple[str, ...], flow: Flow) -> ServerTransaction:
        """File a request: from here on its copies are known."""
        core = self.core
        reply = core.reply_flow(request, flow)
        transaction: ServerTransaction
        if request.method == INVITE:
            transaction = InviteServer(core, key, reply)
        else:
            transaction = NonInviteServer(core, key, request.method, reply)
        core.servers[key] = transaction
        return transaction

    def _trying(self, request: Request, transaction: ServerTransaction, now: float) -> None:
        """Say 100 unless something else is said in time (RFC 3261 section 17.2.1)."""
        if transaction.flow.reliable:
            # What follows on the stream may end it.
            self._say_trying(request, transaction, now)
            return
        say = partial(self._say_trying, request, transaction)
        self.core.timers.start(now + TRYING_AFTER, say)

    def _say_trying(self, request: Request, transaction: ServerTransaction, now: float) -> None:
        if not transaction.answered:
            transaction.respond(100, self.core.response(request, 100), now)

    def _inside(self, request: Request, key: tuple[str, ...], flow: Flow, now: float) -> None:
        """A request in a dialog."""
        core = self.core
        user = core.dialogs.get((request.call_id, request.to.tag, request.from_.tag))
        if user is None and request.method == names.NOTIFY:
            user = core.dialogs.get((request.call_id, request.to.tag, ""))
        if user is None:
            self._belongs_to_nothing(request, flow, now)
            return
        check_service(request, core.config, core.extensions)
        transaction = self._open(request, key, flow)
        try:
            if request.method == INVITE:
                self._trying(request, transaction, now)
            if request.method == names.REFER and isinstance(user, Session):
                user.sequence(request)
                refer_received(core, request, transaction, flow, user, "", now)
            elif request.method == names.SUBSCRIBE and isinstance(user, Session):
                user.sequence(request)
                refer_subscribed(core, self.refers, user, request, transaction, now)
            elif request.method == names.NOTIFY and isinstance(user, Session):
                user.sequence(request)
                session_notified(core, user, request, transaction, now)
            else:
                user.on_request(request, transaction, flow, now)
        except PeerError as error:
            headers: list[Header] = []
            if error.status == 500:
                # RFC 3261 section 14.2: a random wait keeps the two from colliding again.
                headers.append(("Retry-After", str(core.serial() % 10)))
            elif error.status == 422:
                headers.append(("Min-SE", str(core.config.min_se)))
            elif error.status == 405:
                headers.append(("Allow", core.allow))
            elif error.status == 489 and isinstance(user, Session):
                headers.append(("Allow-Events", "refer"))
            core.respond(request, transaction, error.status or 400, now, headers)

    def _outside(self, request: Request, key: tuple[str, ...], flow: Flow, now: float) -> None:
        """A request outside dialogs: the gate decides."""
        core, method = self.core, request.method
        verdict = self.gate(request, flow, now)
        if isinstance(verdict, Drop):
            self.counters["dropped"] += 1
            return
        if isinstance(verdict, Refuse):
            self.counters["refused"] += 1
            self._refuse(request, flow, verdict.status, "", verdict.headers, verdict.reason)
            return
        check_service(request, core.config, core.extensions)
        if method in (names.BYE, names.PRACK, names.UPDATE, names.INFO, names.NOTIFY):
            raise Refusal(481, "")
        merge_key = (request.call_id, request.from_.tag, request.cseq.number, method)
        if request.from_.tag and merge_key in core.merged:
            raise Refusal(482, "the request came twice by different ways")
        if method == names.OPTIONS and core.config.auto_options:
            self._options(request, flow)
            return
        if method != INVITE and len(core.pending) >= MAX_PENDING:
            self.counters["overload"] += 1
            raise Refusal(503, "", [("Retry-After", str(core.config.retry_after))])
        if method == INVITE:
            self._invited(request, key, flow, verdict, merge_key, now)
            return
        transaction = self._open(request, key, flow)
        transaction.merge_key = merge_key
        core.merged[merge_key] = transaction
        if method == names.REFER:
            try:
                refer_received(core, request, transaction, flow, None, verdict.identity, now)
            except PeerError as error:
                core.respond(request, transaction, error.status or 400, now)
            return
        number = core.hold(request, transaction, flow, None, now)
        core.emit(
            RequestReceived(
                request=number,
                session=None,
                message=request,
                flow=flow,
                identity=verdict.identity,
            )
        )

    def _options(self, request: Request, flow: Flow) -> None:
        """Answered without state: asking twice does no harm."""
        core = self.core
        lines: list[Header] = [
            ("Contact", core.contact(flow)),
            ("Allow", core.allow),
            ("Supported", core.supported),
            ("Accept", "application/sdp"),
        ]
        data = core.response(request, 200, lines, to_tag=core.stateless_tag(request))
        core.transmit(data, core.reply_flow(request, flow), "")

    def _invited(
        self,
        request: Request,
        key: tuple[str, ...],
        flow: Flow,
        verdict: Admit,
        merge_key: tuple[str, str, int, str],
        now: float,
    ) -> None:
        core = self.core
        if len(core.sessions) >= core.config.max_sessions:
            self.counters["overload"] += 1
            raise Refusal(503, "", [("Retry-After", str(core.config.retry_after))])
        replaced = self._replaced(request)
        transaction = InviteServer(core, key, core.reply_flow(request, flow))
        try:
            session = Incoming(core, request, transaction, flow, now)
        except PeerError as error:
            if error.status == 422:
                least = str(core.config.min_se)
                raise Refusal(422, str(error), [("Min-SE", least)]) from error
            raise
        core.servers[key] = transaction
        transaction.merge_key = merge_key
        core.merged[merge_key] = transaction
        session.replaced = replaced
        self._trying(request, transaction, now)
        hops = request.number("max-forwards")
        core.emit(
            Invited(
                session=session.id,
                request=request,
                flow=flow,
                identity=verdict.identity,
                offer=request.sdp,
                replaces=replaced.id if replaced is not None else None,
                replacing=request.get("replaces") or "",
                max_forwards=core.config.max_forwards if hops is None else hops,
            )
        )

    def _replaced(self, request: Request) -> Session | None:
        """The session a Replaces header names (RFC 3891 section 3).  Raises `Refusal`."""
        lines = request.all("replaces")
        if not lines:
            return None
        if len(lines) > 1 or len(split_list(lines[0], 1)) > 1:
            raise Refusal(400, "more than one Replaces")
        call_id, semi, rest = lines[0].partition(";")
        params = parse_params(semi + rest) if semi else {}
        key = (call_id.strip(), params.get("to-tag", ""), params.get("from-tag", ""))
        session = self.core.dialogs.get(key)
        if not isinstance(session, Session):
            if self.core.config.other_replaces:
                return None
            raise Refusal(481, "Replaces names no call here")
        if session.state == "confirmed" and "early-only" in params:
            raise Refusal(486, "the call to be replaced is answered")
        if session.state != "confirmed" and not session.caller:
            raise Refusal(481, "the call to be replaced is not answered")
        return session


def note_source(request: Request, flow: Flow) -> None:
    """Write received and rport into the topmost Via (RFC 3261 section 18.2.1, RFC 3581)."""
    if flow.reliable:
        return
    via = request.via
    wants_port = "rport" in via.params
    if not wants_port and via.host == flow.host:
        return
    values = request.headers["via"]
    if values[0].endswith(";rport") and "," not in values[0] and "received" not in via.params:
        values[0] = f"{values[0][:-6]};received={flow.host};rport={flow.port}"
        return
    first, *others = split_list(values[0], 1)
    base, _, params = first.partition(";")
    kept = [
        piece
        for piece in params.split(";")
        if piece and piece.partition("=")[0].strip().lower() not in ("rport", "received")
    ]
    kept.append(f"received={flow.host}")
    if wants_port:
        kept.append(f"rport={flow.port}")
    values[0] = ",".join([";".join([base.rstrip(), *kept]), *others])
