"""Session timers: noticing that a peer has vanished (RFC 4028)."""

from __future__ import annotations

import msgspec

from gateway.errors import PeerError
from gateway.protocols.sip.headers import parse_number, parse_params
from gateway.protocols.sip.message import Header, Message

LEAST = 90
"""RFC 4028 section 4: no interval is shorter, whatever Min-SE says."""


class Interval(msgspec.Struct, frozen=True):
    """What Session-Expires says."""

    seconds: int
    refresher: str
    """``uac``, ``uas`` (of the transaction that carried it) or empty."""


class TooSmall(PeerError):
    """The peer wants a shorter interval than we accept: answer 422 with Min-SE."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"session interval of {seconds} s is too small", status=422)


def read(message: Message) -> Interval | None:
    """Session-Expires of a message, or None.  Raises `PeerError` (400)."""
    value = message.get("session-expires")
    if value is None:
        return None
    number, semi, rest = value.partition(";")
    params = parse_params(semi + rest) if semi else {}
    refresher = params.get("refresher", "").lower()
    return Interval(parse_number(number, 2**31), refresher if refresher in ("uac", "uas") else "")


def ask(seconds: int, least: int, refresher: str = "") -> list[Header]:
    """Header fields of a request that proposes an interval."""
    if not seconds:
        return []
    suffix = f";refresher={refresher}" if refresher else ""
    return [("Session-Expires", f"{seconds}{suffix}"), ("Min-SE", str(least))]


def negotiate(request: Message, ours: int, least: int) -> tuple[list[Header], Interval | None]:
    """The answering side's choice (section 9): header fields of the 2xx, and the interval.

    ``ours`` is the interval we want, 0 for none; ``least`` our Min-SE.  Raises `TooSmall`.
    """
    if not ours:
        return [], None
    wanted = read(request)
    peer_knows = "timer" in request.tokens("supported") + request.tokens("require")
    peer_least = request.number("min-se") or LEAST
    if wanted is not None and wanted.seconds < max(least, LEAST):
        if peer_knows:
            raise TooSmall(wanted.seconds)
        wanted = None
    seconds = max(ours, peer_least, LEAST)
    if wanted is not None:
        seconds = max(min(wanted.seconds, seconds), peer_least)
    if peer_knows:
        refresher = (wanted.refresher if wanted else "") or "uac"
        headers: list[Header] = [("Require", "timer")]
    else:
        # A peer without the extension cannot refresh; we can, alone.
        refresher, headers = "uas", []
    headers.append(("Session-Expires", f"{seconds};refresher={refresher}"))
    return headers, Interval(seconds, refresher)


def agreed(response: Message, asked: int) -> Interval | None:
    """What a 2xx to our request settled (section 7.2); we refresh alone if it says nothing."""
    found = read(response)
    if found is not None:
        if found.seconds < LEAST:
            found = Interval(LEAST, found.refresher)
        return found if found.refresher else Interval(found.seconds, "uac")
    return Interval(asked, "uac") if asked else None


def expiry(seconds: float) -> float:
    """When the side that does not refresh hangs up, from the last refresh (section 10)."""
    return seconds - min(32.0, seconds / 3)
