"""Dialogs: the peer-to-peer state that requests after the first share (RFC 3261 section 12)."""

from __future__ import annotations

from gateway.errors import PeerError
from gateway.protocols.sip.headers import parse_name_addr, split_list
from gateway.protocols.sip.message import Message, Request, Response
from gateway.protocols.sip.transaction import Flow
from gateway.protocols.sip.uri import Uri, parse_uri

DialogKey = tuple[str, str, str]
"""Call-ID, our tag, the peer's tag."""

MAX_ROUTES = 32
"""A longer route set is refused: it would be copied into every request."""


class Dialog:
    """Identity, sequence numbers and routing of one dialog."""

    __slots__ = (
        "call_id",
        "flow",
        "local",
        "local_seq",
        "local_tag",
        "remote",
        "remote_seq",
        "remote_tag",
        "routes",
        "secure",
        "target",
    )

    def __init__(
        self,
        *,
        call_id: str,
        local: str,
        local_tag: str,
        remote: str,
        remote_tag: str,
        target: str,
        routes: list[str],
        local_seq: int,
        remote_seq: int,
        flow: Flow,
    ) -> None:
        self.call_id = call_id
        self.local = local
        """Our From (or To) value, with tag."""
        self.local_tag = local_tag
        self.remote = remote
        self.remote_tag = remote_tag
        self.target = target
        """Where requests go: the URI of the peer's last Contact."""
        self.routes = routes
        """Route set, in the order we send it."""
        self.local_seq = local_seq
        self.remote_seq = remote_seq
        """Last CSeq number received; -1 before any."""
        self.flow = flow
        """How the peer was last reached or heard."""
        self.secure = target.lower().startswith("sips:")

    @property
    def key(self) -> DialogKey:
        return (self.call_id, self.local_tag, self.remote_tag)

    def next_seq(self) -> int:
        self.local_seq += 1
        return self.local_seq

    def in_order(self, request: Request) -> bool:
        """Note the CSeq of a request; False if it is older than one seen (section 12.2.2)."""
        number = request.cseq.number
        if number <= self.remote_seq:
            return False
        self.remote_seq = number
        return True

    def refresh(self, message: Message) -> None:
        """Take the Contact of a target refresh request or its 2xx as the new remote target."""
        contact = first_contact(message)
        if contact is not None:
            self.target = contact

    def route(self) -> tuple[str, list[str], Uri]:
        """Request-URI, Route values and next hop for a request (section 12.2.1.1)."""
        if not self.routes:
            return self.target, [], parse_uri(self.target)
        first = parse_name_addr(self.routes[0]).uri
        if first.loose:
            return self.target, self.routes, first
        # A strict router wants itself in the Request-URI and the target at the end.
        bare = first.text.partition("?")[0]
        return bare, [*self.routes[1:], f"<{self.target}>"], first


def first_contact(message: Message) -> str | None:
    """The URI of the first Contact, or None.  Raises `PeerError` (400) if malformed."""
    lines = message.all("contact")
    if not lines or lines[0] == "*":
        return None
    uri = parse_name_addr(split_list(lines[0], 1)[0]).uri
    if uri.scheme not in ("sip", "sips"):
        raise PeerError("Contact is not a SIP URI", status=400)
    return uri.text


def record_route(message: Message) -> list[str]:
    """Record-Route values in order.  Raises `PeerError` (400)."""
    values = message.values("record-route")
    if len(values) > MAX_ROUTES:
        raise PeerError(f"{len(values)} Record-Route values are over {MAX_ROUTES}", status=400)
    for value in values:
        if parse_name_addr(value).uri.scheme not in ("sip", "sips"):
            raise PeerError("Record-Route is not a SIP URI", status=400)
    return values


def dialog_of_server(request: Request, local_tag: str, flow: Flow) -> Dialog:
    """The dialog a request to us creates (section 12.1.1).  Raises `PeerError` (400)."""
    target = first_contact(request)
    if target is None:
        # RFC 2543 peers may leave Contact out; From is then the best there is.
        target = request.from_.uri.text
        if request.from_.uri.scheme not in ("sip", "sips"):
            raise PeerError("no Contact, and From is not a SIP URI", status=400)
    return Dialog(
        call_id=request.call_id,
        local=f"{request.headers['to'][0]};tag={local_tag}",
        local_tag=local_tag,
        remote=request.headers["from"][0],
        remote_tag=request.from_.tag,
        target=target,
        routes=record_route(request),
        local_seq=0,
        remote_seq=request.cseq.number,
        flow=flow,
    )


def dialog_of_client(
    response: Response, local: str, local_tag: str, seq: int, flow: Flow, target: str
) -> Dialog:
    """The dialog a response to us creates (section 12.1.2).  Raises `PeerError` (400).

    ``target`` is the Request-URI, used if the response has no Contact.
    """
    return Dialog(
        call_id=response.call_id,
        local=local,
        local_tag=local_tag,
        remote=response.headers["to"][0],
        remote_tag=response.to.tag,
        target=first_contact(response) or target,
        routes=record_route(response)[::-1],
        local_seq=seq,
        remote_seq=-1,
        flow=flow,
    )


def behind_nat(request: Request, dialog: Dialog) -> bool:
    """Whether Via names an address that we do not see, and no proxy stands between: a NAT does."""
    host = request.via.host
    return (
        not dialog.flow.reliable
        and len(request.values("via")) == 1
        and not dialog.routes
        and host != dialog.flow.host
        and (":" in host or host.replace(".", "").isdigit())
    )
