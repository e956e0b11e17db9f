"""Session-ID (RFC 7989): the id under which both ends' logs know a session.

Calls and texts carry the trace of the bus; what has none, such as a registration or a
subscription, carries a half that follows from its Call-ID, so that it is the same in all its
messages and nothing needs to be remembered.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from gateway.protocols.sip.message import Header, Request, Response

_NIL: Final = "0" * 32
_HALF: Final = re.compile(r"\s*([0-9a-f]{32})\b")


def session_id(local: str, remote: str = "") -> Header:
    """Both halves in the form of section 5; no ``remote``: the peer's is not known."""
    return ("Session-ID", f"{local};remote={remote or _NIL}")


def session_id_of(message: Request | Response) -> str:
    """The peer's own half, 32 hexadecimal digits; empty when it sent none."""
    found = _HALF.match(message.get("session-id") or "")
    return found[1] if found and found[1] != _NIL else ""


def half_for(call_id: str, secret: bytes) -> str:
    """A half for what has no trace: one way, for a Call-ID may name hosts (section 4.1)."""
    octets = call_id.encode("utf-8", "surrogateescape")
    return hashlib.blake2s(octets, key=secret, digest_size=16).hexdigest()
