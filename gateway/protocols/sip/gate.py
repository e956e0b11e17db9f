"""The door: what an owner decides about requests from outside, and what we refuse by ourselves.

The gate is asked about each well-formed request that is not part of something known, before any
state is kept for it.  Refusals are sent without state (RFC 3261 section 8.2.7), so challenges
and floods cost no memory.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.errors import PeerError
from gateway.protocols.sip.core import SipConfig
from gateway.protocols.sip.message import Header, Request
from gateway.protocols.sip.names import ACK, CANCEL, INVITE, MESSAGE, METHODS, REGISTER
from gateway.protocols.sip.transaction import Flow


class Admit(msgspec.Struct, frozen=True):
    """Let it in, as ``identity``."""

    identity: str = ""


class Refuse(msgspec.Struct, frozen=True):
    """Answer it with ``status``: a challenge, 403, 503 and their like."""

    status: int
    headers: list[Header] = []
    reason: str | None = None


class Drop(msgspec.Struct, frozen=True):
    """Say nothing."""


Verdict = Admit | Refuse | Drop
Gate = Callable[[Request, Flow, float], Verdict]


def admit_all(request: Request, flow: Flow, now: float) -> Verdict:
    """Nobody is asked who they are: for tests and closed networks only."""
    return Admit()


class Refusal(PeerError):
    """A request refused by us, with header fields for the response."""

    def __init__(self, status: int, why: str, headers: list[Header] | None = None) -> None:
        self.headers = headers or []
        super().__init__(why, status=status)


def check_syntax(request: Request) -> None:
    """What must hold before a request can even be filed.  Raises `PeerError`.

    From without tag, a missing Max-Forwards and branches without cookie are accepted: RFC 2543
    peers send them (RFC 4475 section 3.4.1).
    """
    if request.version != "SIP/2.0":
        raise Refusal(505, f"version {request.version} is not spoken here")
    method = request.method
    for value in request.headers.get("via", ()):
        if not value or value.rstrip().endswith(","):
            raise PeerError("malformed Via", status=400)
    _ = request.via
    _ = request.call_id
    if not request.call_id:
        raise PeerError("empty Call-ID", status=400)
    _ = request.from_
    _ = request.to
    if request.cseq.method != method:
        if method not in METHODS:
            raise Refusal(501, f"{method} is not known here")
        raise PeerError("CSeq names another method", status=400)
    uri = request.uri
    if uri.scheme in ("sip", "sips") and uri.headers:
        # They would become header fields of ours (RFC 4475 section 3.1.2.11).
        raise PeerError("Request-URI carries header fields", status=400)
    if "max-forwards" in request.headers:
        request.number("max-forwards")
    if "contact" in request.headers and request.get("contact") != "*":
        request.addresses("contact")
    if method == REGISTER and request.to.uri.scheme not in ("sip", "sips", "tel"):
        raise PeerError("To of a REGISTER is not an address of record", status=400)
    if "expires" in request.headers and method not in (ACK, CANCEL):
        request.number("expires")


def check_service(request: Request, config: SipConfig, extensions: frozenset[str]) -> None:
    """What we serve at all (RFC 3261 section 8.2).  Raises `Refusal`."""
    method = request.method
    if method not in config.methods:
        allow: Header = ("Allow", ", ".join(config.methods))
        if method not in METHODS:
            raise Refusal(501, f"{method[:32]} is not known here", [allow])
        raise Refusal(405, f"{method} is not served here", [allow])
    if request.uri.scheme not in ("sip", "sips", "tel"):
        raise Refusal(416, f"scheme {request.uri.scheme[:32]} is not served here")
    if "require" in request.headers:
        unsupported = [tag for tag in request.tokens("require") if tag.lower() not in extensions]
        if unsupported:
            raise Refusal(420, "extension not supported", [("Unsupported", ", ".join(unsupported))])
    if method in (INVITE, MESSAGE) and request.number("max-forwards") == 0:
        # A gateway forwards calls and texts: it counts as a hop (RFC 7332).
        raise Refusal(483, "Max-Forwards is 0")
    if method != INVITE:
        return
    encoding = request.get("content-encoding")
    if encoding and encoding.lower() != "identity":
        raise Refusal(415, "content encoding", [("Accept-Encoding", "identity")])
    if request.body and request.sdp is None:
        disposition = request.get("content-disposition") or ""
        if "handling=optional" not in disposition.lower():
            raise Refusal(415, "body is not SDP", [("Accept", "application/sdp")])
    if "accept" not in request.headers:
        return
    accepted = [piece.partition(";")[0].strip().lower() for piece in request.values("accept")]
    if accepted and not {"application/sdp", "application/*", "*/*"} & set(accepted):
        raise Refusal(406, "the peer does not take SDP", [("Accept", "application/sdp")])
