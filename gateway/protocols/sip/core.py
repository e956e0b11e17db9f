"""The transaction user's toolbox: queues, transactions, requests of ours across challenges.

`Core` owns what `SipAgent`, its sessions, registrations and subscriptions share.  Nothing here
reads a clock or a socket.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from gateway.errors import PeerError
from gateway.protocols.sip.auth import DigestClient
from gateway.protocols.sip.dialog import Dialog, DialogKey
from gateway.protocols.sip.events import Event
from gateway.protocols.sip.headers import parse_number
from gateway.protocols.sip.message import (
    Header,
    Limits,
    Request,
    Response,
    encode,
    response_headers,
    status_line,
)
from gateway.protocols.sip.names import ACK, CANCEL, INVITE
from gateway.protocols.sip.sessionid import half_for, session_id, session_id_of
from gateway.protocols.sip.timers import Timers, TimerValues
from gateway.protocols.sip.transaction import (
    BRANCH_COOKIE,
    ClientTransaction,
    Flow,
    InviteClient,
    NonInviteClient,
    ServerTransaction,
    Transaction,
)
from gateway.protocols.sip.uri import Uri, host_port

if TYPE_CHECKING:
    from gateway.protocols.sip.session import Session
    from gateway.protocols.sip.subscription import Subscription

NO_STREAMS = 3600.0
"""How long a host that took no TCP is sent UDP only, seconds."""
_OF_CANCEL = ("Via", "Max-Forwards", "Route", "From", "To", "Call-ID", "CSeq", "Session-ID")
DEFAULT_PORTS = {"tls": 5061, "wss": 443, "ws": 80}


class SipConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the agent presents itself and what it puts up with."""

    host: str
    """Address in Via and Contact when the flow does not tell our own."""
    ports: Mapping[str, int] = msgspec.field(
        default_factory=lambda: {"udp": 5060, "tcp": 5060, "tls": 5061}
    )
    """Listening port by transport."""
    user_agent: str = "Crosspoint"
    """User-Agent and Server; empty: not sent."""
    contact_user: str = "gateway"
    timers: TimerValues = TimerValues()
    limits: Limits = Limits()
    max_forwards: int = 70
    session_expires: int = 1800
    """Seconds asked for in Session-Expires (RFC 4028); 0: session timers off."""
    min_se: int = 90
    """Shortest session interval accepted, seconds (RFC 4028 section 5: not under 90)."""
    reliable: bool = True
    """Offer 100rel (RFC 3262); a peer that requires it gets it in any case."""
    auto_options: bool = True
    """Answer OPTIONS without asking the owner."""
    methods: tuple[str, ...] = (
        "INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "PRACK", "UPDATE", "INFO", "REFER",
        "NOTIFY", "SUBSCRIBE", "MESSAGE", "REGISTER", "PUBLISH",
    )  # fmt: skip
    """Allow; other methods of the registry are answered 405, unregistered ones 501."""
    other_replaces: bool = False
    """The owner knows calls by names of its own: an INVITE whose Replaces names no session is its

    to refuse.
    """
    symmetric: bool = False
    """Send requests inside a dialog to where the peer's last message came from, not to its

    Contact; peers seen to be behind a NAT are treated so in any case.
    """
    max_transactions: int = 50_000
    """Server transactions; beyond, requests are answered 503 without state."""
    max_sessions: int = 10000
    retry_after: int = 5
    """Seconds told in a 503."""
    stall: float = 20.0
    """Longest time a message on a stream may stay incomplete, seconds."""
    ring_limit: float = 300.0
    """Longest time an INVITE of ours may go unanswered, seconds."""
    stream_over: int = 1300
    """Octets beyond which a request goes over TCP instead of UDP (RFC 3261 section 18.1.1); 0:

    never.
    """


class Send(msgspec.Struct, frozen=True):
    """Octets to be sent.

    To a stream: over connection ``flow.connection`` if that is open, else over any connection to
    the address, else over a new one.  ``flow.host`` may be a name and ``flow.port`` 0: resolve
    them by RFC 3263.  If it cannot be sent and ``token`` is not empty, tell
    `SipAgent.transport_failed`.
    """

    data: bytes
    flow: Flow
    token: str


Advertise = Callable[[Flow], tuple[str, int]]
"""A flow to the host and port that its peer is to see as ours."""


class DialogUser(Protocol):
    """A use of a dialog other than a session: a subscription."""

    def on_request(
        self, request: Request, transaction: ServerTransaction, flow: Flow, now: float
    ) -> None: ...


class PendingRequest(msgspec.Struct, frozen=True):
    """A request that waits for its owner's answer."""

    request: Request
    transaction: ServerTransaction
    flow: Flow
    session: int | None


class Core:
    """Queues, timers, transactions and identity of one agent."""

    def __init__(self, config: SipConfig, advertise: Advertise | None = None) -> None:
        self.config = config
        self.values = config.timers
        self.timers = Timers()
        self.counters: Counter[str] = Counter()
        self.sends: deque[Send] = deque()
        self.events: deque[Event] = deque()
        self.clients: dict[tuple[str, ...], ClientTransaction] = {}
        self.servers: dict[tuple[str, ...], ServerTransaction] = {}
        self.merged: dict[tuple[str, str, int, str], ServerTransaction] = {}
        self.connections: dict[int, Flow] = {}
        self.allow = ", ".join(config.methods)
        extensions = ["replaces", "norefersub"]
        if config.session_expires:
            extensions.append("timer")
        self.supported = ", ".join([*extensions, "100rel"] if config.reliable else extensions)
        """Supported, as we send it."""
        self.extensions = frozenset(
            (*extensions, "100rel", "path", "outbound", "resource-priority", "answermode")
        )
        """Option tags that a peer may require."""
        self.sessions: dict[int, Session] = {}
        self.dialogs: dict[DialogKey, Session | DialogUser] = {}
        self.invited: dict[tuple[str, ...], Session] = {}
        """Sessions by the INVITE transaction that waits for their answer, for CANCEL."""
        self.kept: dict[str, list[Header]] = {}
        """By Call-ID: header fields of all messages of a session (Session-ID)."""
        self.pending: dict[int, PendingRequest] = {}
        self.subscriptions: dict[int, Subscription] = {}
        self.datagrams_only: OrderedDict[str, float] = OrderedDict()
        """Hosts that took no TCP, and until when that is believed."""
        self._advertise = advertise
        self._serial = 0
        self._tag_secret = os.urandom(16)
        self._random = ""
        """Hexadecimal digits from the system, not used yet: asking for each tag costs a call."""

    # -- the transactions' view (transaction.Wire) --

    def transmit(self, data: bytes, flow: Flow, token: str) -> None:
        self.sends.append(Send(data, flow, token))

    def forget(self, transaction: Transaction) -> None:
        if isinstance(transaction, ClientTransaction):
            self.clients.pop(transaction.key, None)
            # Whom it told holds it in turn.
            transaction.user = _nobody
        else:
            self.servers.pop(transaction.key, None)
            self.invited.pop(transaction.key, None)
            if isinstance(transaction, ServerTransaction) and transaction.merge_key is not None:
                self.merged.pop(transaction.merge_key, None)

    # -- identity --

    def stateless_tag(self, request: Request) -> str:
        """The same To tag for each copy of a request answered without state (section 8.2.7)."""
        text = "\0".join((*request.all("via")[:1], *request.all("call-id")[:1]))
        octets = text.encode("utf-8", "surrogateescape")
        return hashlib.blake2s(octets, key=self._tag_secret, digest_size=8).hexdigest()

    def serial(self) -> int:
        """A number not used before, for sessions, requests and tokens."""
        self._serial += 1
        return self._serial

    def session_id(self, call_id: str, heard: str = "") -> Header:
        """The Session-ID of what carries no trace; ``heard`` is the peer's half of it."""
        kept = self.kept.get(call_id)
        return kept[0] if kept else session_id(half_for(call_id, self._tag_secret), heard)

    def half(self, request: Request) -> str:
        """Our half of a Session-ID that a peer began without a trace of ours."""
        return half_for(request.get("call-id") or "", self._tag_secret)

    def random(self, n_bytes: int = 8) -> str:
        """Hexadecimal digits that nobody can guess."""
        n = 2 * n_bytes
        if len(self._random) < n:
            self._random = os.urandom(max(256, n_bytes)).hex()
        found, self._random = self._random[:n], self._random[n:]
        return found

    def address(self, flow: Flow) -> tuple[str, int]:
        """Our own address as the peer behind ``flow`` is to see it."""
        if self._advertise is not None:
            return self._advertise(flow)
        host, port = flow.local
        if not host or host in ("0.0.0.0", "::"):
            host = self.config.host
            port = self.config.ports.get(flow.transport, 0)
        elif flow.reliable or not port:
            # The local port of a connection we opened is not one that we listen on.
            port = self.config.ports.get(flow.transport, port)
        return host, port

    def via(self, flow: Flow, branch: str) -> str:
        host, port = self.address(flow)
        return f"SIP/2.0/{flow.transport.upper()} {host_port(host, port)};branch={branch};rport"

    def contact(self, flow: Flow, user: str = "", *, secure: bool = False) -> str:
        host, port = self.address(flow)
        suffix = "" if flow.transport == "udp" or secure else f";transport={flow.transport}"
        scheme = "sips" if secure else "sip"
        who = user or self.config.contact_user
        return f"<{scheme}:{who}@{host_port(host, port)}{suffix}>"

    def flow_to(self, uri: Uri, base: Flow | None = None) -> Flow:
        """The way to a next hop; ``base`` gives transport and local address it does not name."""
        transport = uri.transport or (base.transport if base else "udp")
        host = uri.host
        if uri.scheme not in ("sip", "sips") or not host:
            raise PeerError(f"no way to {uri.text[:80]}: not a SIP URI", status=416)
        port = uri.port
        if not port and (":" in host or host.replace(".", "").isdigit()):
            port = DEFAULT_PORTS.get(transport, 5060)
        return Flow(transport, host, port, 0, base.local if base else ("", 0))

    def may_stream(self, flow: Flow, now: float) -> bool:
        """Whether a large request for a UDP flow may try TCP. Not where the peer was heard over
        the flow: through its NAT nothing else leads back."""
        known = self.datagrams_only.get(flow.host, now)
        return flow.transport == "udp" and not flow.local[0] and known <= now

    def no_streams(self, host: str, now: float) -> None:
        """A host took no TCP: do not let the next hour's calls wait for it."""
        self.datagrams_only[host] = now + NO_STREAMS
        self.datagrams_only.move_to_end(host)
        if len(self.datagrams_only) > 1000:
            self.datagrams_only.popitem(last=False)

    def dialog_flow(self, dialog: Dialog, next_hop: Uri, *, pinned: bool) -> Flow:
        """The way for a request inside a dialog."""
        flow = dialog.flow
        if flow.reliable and flow.connection in self.connections:
            return flow
        if pinned or (self.config.symmetric and not dialog.routes):
            return flow
        return self.flow_to(next_hop, flow)

    # -- responses --

    @staticmethod
    def reply_flow(request: Request, flow: Flow) -> Flow:
        """Where responses go: source address, Via port or rport (section 18.2.2, RFC 3581).

        A maddr is not followed: it would let anybody aim our responses.  The port of a stream
        counts when its connection is gone.
        """
        via = request.via
        if "rport" in via.params and not flow.reliable:
            return flow
        return flow._replace(port=via.port or DEFAULT_PORTS.get(via.transport, 5060))

    def response(
        self,
        request: Request,
        status: int,
        headers: list[Header] | None = None,
        body: bytes = b"",
        reason: str | None = None,
        to_tag: str = "",
    ) -> bytes:
        """Write a response to ``request``."""
        lines = response_headers(request, to_tag)
        if self.config.user_agent:
            lines.append(("Server", self.config.user_agent))
        if headers:
            lines += headers
        if self.kept and (kept := self.kept.get(request.get("call-id") or "")):
            lines += kept
        elif "session-id" in request.headers:
            # Only to those who speak of it: what is sent to strangers is kept small.
            lines.append(session_id(self.half(request), session_id_of(request)))
        return encode(status_line(status, reason), lines, body)

    def respond(
        self,
        request: Request,
        transaction: ServerTransaction,
        status: int,
        now: float,
        headers: list[Header] | None = None,
        body: bytes = b"",
        reason: str | None = None,
        to_tag: str = "",
    ) -> None:
        """Answer in a transaction; a To tag is added if the request has none."""
        if not to_tag and status > 100:
            to_tag = self.random()
        data = self.response(request, status, headers, body, reason, to_tag)
        transaction.respond(status, data, now)

    def hold(
        self,
        request: Request,
        transaction: ServerTransaction,
        flow: Flow,
        session: int | None,
        now: float,
    ) -> int:
        """File a request until the owner answers it; returns its number.

        The peer has given up after 64*T1 (timer F), so the request is then forgotten without an
        answer (RFC 4320 section 4.2).
        """
        number = self.serial()
        self.pending[number] = PendingRequest(request, transaction, flow, session)

        def drop(_: float) -> None:
            if self.pending.pop(number, None) is not None:
                self.counters["unanswered"] += 1
                self.forget(transaction)

        self.timers.start(now + self.values.timeout, drop)
        return number

    # -- events --

    def emit(self, event: Event) -> None:
        self.events.append(event)


ResponseUser = Callable[["ClientRequest", Response, float], None]


def _nobody(transaction: ClientTransaction, response: Response, now: float) -> None:
    """Who is told by a transaction that is over."""


class ClientRequest:
    """One request of ours, sent again with credentials when challenged.

    ``on_response`` is told of provisional responses and of the one final response that is not
    a challenge we can answer.  After a 2xx to an INVITE it is told of each further 2xx.
    """

    __slots__ = (
        "_core",
        "_dialog",
        "_extra",
        "_fixed",
        "_routes",
        "_timeout",
        "auth",
        "body",
        "done",
        "flow",
        "method",
        "on_response",
        "seq",
        "target",
        "transaction",
    )

    def __init__(
        self,
        core: Core,
        method: str,
        target: str,
        flow: Flow,
        *,
        routes: list[str],
        from_: str,
        to: str,
        call_id: str,
        seq: int,
        extra: list[Header],
        on_response: ResponseUser,
        body: bytes = b"",
        auth: DigestClient | None = None,
        dialog: Dialog | None = None,
        timeout: float | None = None,
        max_forwards: int | None = None,
    ) -> None:
        self._core = core
        self.method = method
        self.target = target
        self.flow = flow
        self.body = body
        self.auth = auth
        self.seq = seq
        self.on_response = on_response
        self.transaction: ClientTransaction | None = None
        self.done = False
        """A final response was passed on."""
        self._dialog = dialog
        self._timeout = timeout
        self._routes = routes
        hops = core.config.max_forwards if max_forwards is None else max_forwards
        self._fixed: list[Header] = [("Max-Forwards", str(hops))]
        self._fixed += [("Route", route) for route in routes]
        self._fixed += [("From", from_), ("To", to), ("Call-ID", call_id)]
        self._extra = extra

    def send(self, now: float) -> None:
        core = self._core
        branch = BRANCH_COOKIE + core.random(10)
        headers: list[Header] = [("Via", core.via(self.flow, branch)), *self._fixed]
        headers.append(("CSeq", f"{self.seq} {self.method}"))
        if core.config.user_agent:
            headers.append(("User-Agent", core.config.user_agent))
        if self.auth is not None:
            headers += self.auth.headers(self.method, self.target, self.body)
        headers += self._extra
        flow, line = self.flow, f"{self.method} {self.target} SIP/2.0"
        data = encode(line, headers, self.body)
        if 0 < core.config.stream_over < len(data) and core.may_stream(flow, now):
            flow = flow._replace(transport="tcp")
            headers[0] = ("Via", core.via(flow, branch))
            data = encode(line, headers, self.body)
        transaction: ClientTransaction
        if self.method == INVITE:
            transaction = InviteClient(
                core, branch, self.target, flow, headers, data, self._received
            )
        else:
            transaction = NonInviteClient(
                core, branch, self.method, self.target, flow, headers, data, self._received
            )
        self.transaction = transaction
        core.clients[transaction.key] = transaction
        transaction.start(now, self._timeout)

    def _received(self, transaction: ClientTransaction, response: Response, now: float) -> None:
        if transaction is not self.transaction:
            return
        status = response.status
        if status in (401, 407) and self.auth is not None and self.auth.challenged(response):
            self.seq = self._dialog.next_seq() if self._dialog is not None else self.seq + 1
            self.send(now)
            return
        if (
            response.synthetic
            and status == 503
            and transaction.flow.transport != self.flow.transport
        ):
            # No TCP there after all: fragments are better than nothing (RFC 3261 section 18.1.1).
            self._core.no_streams(self.flow.host, now)
            self.send(now)
            return
        if response.synthetic and status == 503 and self._dialog and self.flow.connection:
            # The connection broke before it was sent: the peer is where its Contact says.
            _, _, hop = self._dialog.route()
            self.flow = self._core.flow_to(hop, self.flow)
            self.send(now)
            return
        if status >= 200:
            if status < 300 and self.auth is not None:
                self.auth.succeeded(response)
            self.done = True
        self.on_response(self, response, now)

    def extend(self, name: str, value: str) -> None:
        """Replace one of the extra header fields before sending again."""
        self._extra = [line for line in self._extra if line[0] != name] + [(name, value)]

    def again(self, now: float) -> None:
        """Send as a new transaction (after 422, 491 and their like)."""
        self.done = False
        self.seq = self._dialog.next_seq() if self._dialog is not None else self.seq + 1
        self.send(now)

    def cancel(self, now: float, headers: list[Header]) -> None:
        """Send CANCEL for an INVITE that has had a provisional response (section 9.1)."""
        invite = self.transaction
        if not isinstance(invite, InviteClient):
            return
        lines = [
            (name, value.replace(INVITE, CANCEL) if name == "CSeq" else value)
            for name, value in invite.request_headers
            if name in _OF_CANCEL
        ]
        data = encode(f"CANCEL {invite.target} SIP/2.0", lines + headers)
        cancel = NonInviteClient(
            self._core, invite.branch, CANCEL, invite.target, invite.flow, lines, data, _ignore
        )
        self._core.clients[cancel.key] = cancel
        cancel.start(now)
        invite.limit(now, self._core.values.timeout)


def _ignore(transaction: ClientTransaction, response: Response, now: float) -> None:
    """The INVITE's own final response is what counts."""


def ack_bytes(
    core: Core, dialog: Dialog, seq: int, flow: Flow, body: bytes, auth: list[Header]
) -> bytes:
    """The ACK for a 2xx: a transaction of its own (section 13.2.2.4)."""
    target, routes, _ = dialog.route()
    headers: list[Header] = [
        ("Via", core.via(flow, BRANCH_COOKIE + core.random(10))),
        ("Max-Forwards", str(core.config.max_forwards)),
        *(("Route", route) for route in routes),
        ("From", dialog.local),
        ("To", dialog.remote),
        ("Call-ID", dialog.call_id),
        ("CSeq", f"{seq} {ACK}"),
        *auth,
    ]
    if body:
        headers.append(("Content-Type", "application/sdp"))
    return encode(f"{ACK} {target} SIP/2.0", headers, body)


def retry_after(response: Response) -> float | None:
    """Seconds of a Retry-After header, or None."""
    value = response.get("retry-after")
    if value is None:
        return None
    try:
        return float(parse_number(value, 86400))
    except PeerError:
        return None
