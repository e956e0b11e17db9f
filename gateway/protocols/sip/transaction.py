"""The four SIP transactions (RFC 3261 section 17, RFC 6026) as tables.

A transaction repeats what may have been lost and swallows what was repeated.  Each kind is a
table: (state, event) to (next state, what to do).  An event that has no row is ignored and
counted.

INVITE client.  ``calling`` repeats the request (timer A) until anything comes back or timer B
gives up.  A provisional response leads to ``proceeding``, which waits without limit: the user
decides how long it may ring.  A final error response is acknowledged here, again for each copy
(``completed``, timer D); a 2xx goes to the user, who sends the ACK, and so does each further
copy or fork for 64*T1 (``accepted``, timer M: RFC 6026).

Other client requests.  ``trying`` and ``proceeding`` repeat the request (timer E) until a final
response or timer F; ``completed`` swallows copies (timer K).

INVITE server.  ``proceeding`` answers copies of the request with the last provisional response.
An error response is repeated (timer G) until the ACK or timer H; ``confirmed`` swallows copies
of the ACK (timer I).  A 2xx is repeated by the user, not here; ``accepted`` swallows copies of
the INVITE (timer L: RFC 6026).

Other server requests.  ``trying`` swallows copies; ``proceeding`` and ``completed`` answer them
with the last response (timer J).

On reliable transports nothing is repeated and timers D, I, J and K are zero, so that what starts
them ends the transaction: the user is told before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol

from gateway.errors import PeerError
from gateway.protocols.sip.message import Header, Request, Response, encode, status_line
from gateway.protocols.sip.names import ACK, CANCEL, INVITE
from gateway.protocols.sip.timers import Timer, Timers, TimerValues

BRANCH_COOKIE = "z9hG4bK"
"""Marks a branch made by the rules of RFC 3261 (section 8.1.1.7)."""

RELIABLE = frozenset(("tcp", "tls", "ws", "wss", "sctp"))


class Flow(NamedTuple):
    """A way to and from one peer address."""

    transport: str
    """``udp``, ``tcp``, ``tls``: lower case."""
    host: str
    """Peer address; a name where it has not been resolved yet."""
    port: int
    """Peer port; 0 leaves the choice to the resolver (RFC 3263)."""
    connection: int = 0
    """Stream connection; 0: none, any connection to the address will do."""
    local: tuple[str, int] = ("", 0)
    """Our address that the peer reached."""

    @property
    def reliable(self) -> bool:
        return self.transport in RELIABLE


class Wire(Protocol):
    """What a transaction needs from its owner."""

    timers: Timers
    values: TimerValues
    counters: Counter[str]

    def transmit(self, data: bytes, flow: Flow, token: str) -> None: ...
    def forget(self, transaction: Transaction) -> None: ...


Row = tuple[str, tuple[str, ...]]
Table = dict[tuple[str, str], Row]

INVITE_CLIENT: Table = {
    ("calling", "A"): ("calling", ("send", "again_a")),
    ("calling", "B"): ("terminated", ("give_up",)),
    ("calling", "1xx"): ("proceeding", ("stop_all", "pass_up")),
    ("calling", "2xx"): ("accepted", ("stop_all", "start_m", "pass_up")),
    ("calling", "error"): ("completed", ("stop_all", "ack", "pass_up", "start_d")),
    ("calling", "broken"): ("terminated", ("break_up",)),
    ("proceeding", "1xx"): ("proceeding", ("pass_up",)),
    ("proceeding", "2xx"): ("accepted", ("stop_all", "start_m", "pass_up")),
    ("proceeding", "error"): ("completed", ("stop_all", "ack", "pass_up", "start_d")),
    ("proceeding", "B"): ("terminated", ("give_up",)),
    ("proceeding", "broken"): ("terminated", ("break_up",)),
    ("completed", "error"): ("completed", ("ack",)),
    ("completed", "end"): ("terminated", ()),
    ("accepted", "2xx"): ("accepted", ("pass_up",)),
    ("accepted", "end"): ("terminated", ()),
}

CLIENT: Table = {
    ("trying", "E"): ("trying", ("send", "again_e")),
    ("trying", "F"): ("terminated", ("give_up",)),
    ("trying", "1xx"): ("proceeding", ("pass_up",)),
    ("trying", "2xx"): ("completed", ("stop_all", "pass_up", "start_k")),
    ("trying", "error"): ("completed", ("stop_all", "pass_up", "start_k")),
    ("trying", "broken"): ("terminated", ("break_up",)),
    ("proceeding", "E"): ("proceeding", ("send", "again_t2")),
    ("proceeding", "F"): ("terminated", ("give_up",)),
    ("proceeding", "1xx"): ("proceeding", ("pass_up",)),
    ("proceeding", "2xx"): ("completed", ("stop_all", "pass_up", "start_k")),
    ("proceeding", "error"): ("completed", ("stop_all", "pass_up", "start_k")),
    ("proceeding", "broken"): ("terminated", ("break_up",)),
    ("completed", "end"): ("terminated", ()),
}

INVITE_SERVER: Table = {
    ("proceeding", "request"): ("proceeding", ("resend",)),
    ("proceeding", "1xx"): ("proceeding", ("send",)),
    ("proceeding", "2xx"): ("accepted", ("send", "start_l")),
    ("proceeding", "error"): ("completed", ("send", "start_g", "start_h")),
    ("completed", "request"): ("completed", ("resend",)),
    ("completed", "G"): ("completed", ("send", "again_g")),
    ("completed", "H"): ("terminated", ("no_ack",)),
    ("completed", "ack"): ("confirmed", ("stop_all", "start_i")),
    ("confirmed", "end"): ("terminated", ()),
    ("accepted", "2xx"): ("accepted", ("send",)),
    ("accepted", "request"): ("accepted", ()),
    ("accepted", "end"): ("terminated", ()),
}

SERVER: Table = {
    ("trying", "request"): ("trying", ()),
    ("trying", "1xx"): ("proceeding", ("send",)),
    ("trying", "2xx"): ("completed", ("send", "start_j")),
    ("trying", "error"): ("completed", ("send", "start_j")),
    ("proceeding", "request"): ("proceeding", ("resend",)),
    ("proceeding", "1xx"): ("proceeding", ("send",)),
    ("proceeding", "2xx"): ("completed", ("send", "start_j")),
    ("proceeding", "error"): ("completed", ("send", "start_j")),
    ("completed", "request"): ("completed", ("resend",)),
    ("completed", "end"): ("terminated", ()),
}

_CLASS = {1: "1xx", 2: "2xx"}


class Transaction:
    """What the four kinds share."""

    __slots__ = (
        "_ender",
        "_interval",
        "_repeater",
        "_wire",
        "data",
        "flow",
        "key",
        "state",
        "token",
    )
    table: ClassVar[Table] = {}
    _rows: ClassVar[dict[tuple[str, str], tuple[str, tuple[Callable[..., None], ...]]]] = {}
    """The table with the methods that do what it says."""

    def __init_subclass__(cls) -> None:
        cls._rows = {
            when: (then, tuple(getattr(cls, f"_do_{action}") for action in actions))
            for when, (then, actions) in cls.table.items()
        }

    def __init__(self, wire: Wire, key: tuple[str, ...], flow: Flow, state: str) -> None:
        self._wire = wire
        self.key = key
        self.flow = flow
        self.state = state
        self.data = b""
        self.token = ""
        """Names a client transaction to whoever reports a transport error."""
        self._repeater: Timer | None = None
        self._ender: Timer | None = None
        self._interval = 0.0

    def handle(self, event: str, now: float) -> bool:
        """Take one row of the table; False if there is none."""
        row = self._rows.get((self.state, event))
        if row is None:
            self._wire.counters["ignored"] += 1
            return False
        self.state = row[0]
        for action in row[1]:
            action(self, now)
        if self.state == "terminated":
            self._do_stop_all(now)
            self._wire.forget(self)
        return True

    def _repeat(self, event: str, now: float, interval: float) -> None:
        self._interval = interval
        self._repeater = self._wire.timers.start(now + interval, self.handle, event)

    def _end(self, event: str, now: float, after: float) -> None:
        if after <= 0:
            self.handle(event, now)
        else:
            self._ender = self._wire.timers.start(now + after, self.handle, event)

    def _do_send(self, now: float) -> None:
        self._wire.transmit(self.data, self.flow, self.token)

    def _do_resend(self, now: float) -> None:
        if self.data:
            self._wire.counters["retransmitted"] += 1
            self._wire.transmit(self.data, self.flow, self.token)

    def _do_stop_all(self, now: float) -> None:
        if self._repeater is not None:
            self._repeater.stop()
            self._repeater = None
        if self._ender is not None:
            self._ender.stop()
            self._ender = None


ClientUser = Callable[["ClientTransaction", Response, float], None]
"""Told of each response; timeouts and transport errors arrive as synthetic 408 and 503."""


class ClientTransaction(Transaction):
    """Owns one request of ours until its last response."""

    __slots__ = ("_response", "request_headers", "target", "user")

    def __init__(
        self,
        wire: Wire,
        branch: str,
        method: str,
        target: str,
        flow: Flow,
        request_headers: list[Header],
        data: bytes,
        user: ClientUser,
        state: str,
    ) -> None:
        super().__init__(wire, (branch, method), flow, state)
        self.token = f"{branch} {method}"
        self.target = target
        self.request_headers = request_headers
        """As sent, for the ACK and CANCEL that must resemble it."""
        self.data = data
        self.user = user
        self._response: Response | None = None

    @property
    def branch(self) -> str:
        return self.key[0]

    def start(self, now: float, timeout: float | None = None) -> None:
        raise NotImplementedError

    def receive(self, response: Response, now: float) -> None:
        self._response = response
        self.handle(_CLASS.get(response.status // 100, "error"), now)
        # The transaction outlives it by half a minute.
        self._response = None

    def transport_failed(self, now: float) -> None:
        """The request could not be sent (RFC 3261 section 17.1.4)."""
        self.handle("broken", now)

    def _do_pass_up(self, now: float) -> None:
        response = self._response
        if response is not None:
            self.user(self, response, now)

    def _synthetic(self, status: int, reason: str, now: float) -> None:
        headers = {
            name.lower(): [value]
            for name, value in self.request_headers
            if name in ("From", "To", "Call-ID", "CSeq")
        }
        self.user(self, Response(status, reason, headers, synthetic=True), now)

    def _do_give_up(self, now: float) -> None:
        self._wire.counters["timeout"] += 1
        self._synthetic(408, "No answer", now)

    def _do_break_up(self, now: float) -> None:
        self._synthetic(503, "Transport error", now)


class InviteClient(ClientTransaction):
    __slots__ = ("_ack",)
    table = INVITE_CLIENT

    def __init__(
        self,
        wire: Wire,
        branch: str,
        target: str,
        flow: Flow,
        request_headers: list[Header],
        data: bytes,
        user: ClientUser,
    ) -> None:
        super().__init__(wire, branch, INVITE, target, flow, request_headers, data, user, "calling")
        self._ack = b""

    def start(self, now: float, timeout: float | None = None) -> None:
        """Send.  ``timeout`` replaces timer B (64*T1), seconds."""
        values = self._wire.values
        self._do_send(now)
        if not self.flow.reliable:
            self._repeat("A", now, values.t1)
        self._end("B", now, values.timeout if timeout is None else timeout)

    def limit(self, now: float, after: float) -> None:
        """Give up if no final response comes within ``after`` seconds (after CANCEL: 9.1)."""
        if self.state in ("calling", "proceeding"):
            if self._ender is not None:
                self._ender.stop()
            self._end("B", now, after)

    def _do_again_a(self, now: float) -> None:
        self._repeat("A", now, self._interval * 2)

    def _do_start_d(self, now: float) -> None:
        # At least 32 s on UDP (table 4): copies of the response must find an ACK.
        self.data = b""
        self._end("end", now, 0.0 if self.flow.reliable else max(32.0, self._wire.values.timeout))

    def _do_start_m(self, now: float) -> None:
        self.data = b""
        self.request_headers = []
        self._end("end", now, self._wire.values.timeout)

    def _do_ack(self, now: float) -> None:
        """ACK for an error response: same branch, To of the response (section 17.1.1.3)."""
        response = self._response
        if not self._ack and response is not None:
            headers: list[Header] = []
            for name, value in self.request_headers:
                if name in ("Via", "From", "Call-ID", "Max-Forwards", "Route", "Session-ID"):
                    headers.append((name, value))
                elif name == "To":
                    headers.append(("To", response.get("to") or value))
                elif name == "CSeq":
                    headers.append(("CSeq", value.replace(INVITE, ACK)))
            self._ack = encode(f"ACK {self.target} SIP/2.0", headers)
            self.request_headers = []
        self._wire.transmit(self._ack, self.flow, "")


class NonInviteClient(ClientTransaction):
    __slots__ = ()
    table = CLIENT

    def __init__(
        self,
        wire: Wire,
        branch: str,
        method: str,
        target: str,
        flow: Flow,
        request_headers: list[Header],
        data: bytes,
        user: ClientUser,
    ) -> None:
        super().__init__(wire, branch, method, target, flow, request_headers, data, user, "trying")

    def start(self, now: float, timeout: float | None = None) -> None:
        """Send.  ``timeout`` replaces timer F (64*T1), seconds."""
        values = self._wire.values
        self._do_send(now)
        if not self.flow.reliable:
            self._repeat("E", now, values.t1)
        self._end("F", now, values.timeout if timeout is None else timeout)

    def _do_again_e(self, now: float) -> None:
        self._repeat("E", now, min(self._interval * 2, self._wire.values.t2))

    def _do_again_t2(self, now: float) -> None:
        self._repeat("E", now, self._wire.values.t2)

    def _do_start_k(self, now: float) -> None:
        self.data = b""
        self.request_headers = []
        self._end("end", now, 0.0 if self.flow.reliable else self._wire.values.t4)


class ServerTransaction(Transaction):
    """Owns one request of a peer until nobody will repeat it."""

    __slots__ = ("answered", "merge_key", "method")

    def __init__(
        self, wire: Wire, key: tuple[str, ...], method: str, flow: Flow, state: str
    ) -> None:
        super().__init__(wire, key, flow, state)
        self.method = method
        self.answered = 0
        """Last status sent; 0 before any."""
        self.merge_key: tuple[str, str, int, str] | None = None
        """What copies of the request share that came by other ways (section 8.2.2.2)."""

    def receive(self, request: Request, now: float) -> None:
        """A copy of the request, or the ACK that belongs to it."""
        if request.method == ACK:
            self.handle("ack", now)
        else:
            self._wire.counters["repeated"] += 1
            self.handle("request", now)

    def respond(self, status: int, data: bytes, now: float) -> bool:
        """Send a response; False if a final one has been sent before."""
        if self.answered >= 200 and not (self.state == "accepted" and status < 300):
            return False
        previous, self.data = self.data, data
        if not self.handle(_CLASS.get(status // 100, "error"), now):
            self.data = previous
            return False
        self.answered = status
        return True


class InviteServer(ServerTransaction):
    __slots__ = ()
    table = INVITE_SERVER

    def __init__(self, wire: Wire, key: tuple[str, ...], flow: Flow) -> None:
        super().__init__(wire, key, INVITE, flow, "proceeding")

    def _do_start_g(self, now: float) -> None:
        if not self.flow.reliable:
            self._repeat("G", now, self._wire.values.t1)

    def _do_again_g(self, now: float) -> None:
        self._repeat("G", now, min(self._interval * 2, self._wire.values.t2))

    def _do_start_h(self, now: float) -> None:
        self._end("H", now, self._wire.values.timeout)

    def _do_start_i(self, now: float) -> None:
        self.data = b""
        self._end("end", now, 0.0 if self.flow.reliable else self._wire.values.t4)

    def _do_start_l(self, now: float) -> None:
        # Copies of the INVITE are not answered any more: the user repeats its 2xx.
        self.data = b""
        self._end("end", now, self._wire.values.timeout)

    def _do_no_ack(self, now: float) -> None:
        self._wire.counters["no_ack"] += 1


class NonInviteServer(ServerTransaction):
    __slots__ = ()
    table = SERVER

    def __init__(self, wire: Wire, key: tuple[str, ...], method: str, flow: Flow) -> None:
        super().__init__(wire, key, method, flow, "trying")

    def _do_start_j(self, now: float) -> None:
        self._end("end", now, 0.0 if self.flow.reliable else self._wire.values.timeout)


def server_key(request: Request) -> tuple[str, ...]:
    """What tells one server transaction from another (RFC 3261 section 17.2.3).

    An ACK has the key of its INVITE.  Branches without the magic cookie come from RFC 2543
    peers, whose transactions are told apart by the whole request.
    """
    via = request.via
    method = INVITE if request.method == ACK else request.method
    branch = via.branch
    if len(branch) > len(BRANCH_COOKIE) and branch.startswith(BRANCH_COOKIE):
        return (branch, via.host, str(via.port), method)
    try:
        from_tag = request.from_.tag
    except PeerError:
        from_tag = ""
    return (
        "",
        via.host,
        str(via.port),
        method,
        branch,
        request.target,
        from_tag,
        request.call_id,
        str(request.cseq.number),
    )


def invite_key(cancel: Request) -> tuple[str, ...]:
    """The key of the INVITE that a CANCEL is about (RFC 3261 section 9.2)."""
    key = server_key(cancel)
    assert key[3] == CANCEL
    return (*key[:3], INVITE, *key[4:])


def response_bytes(
    status: int, headers: list[Header], body: bytes = b"", reason: str | None = None
) -> bytes:
    return encode(status_line(status, reason), headers, body)
