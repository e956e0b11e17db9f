"""Calls that were sent on: Diversion (RFC 5806) and History-Info (RFC 7044), and 301 and 302.

What came by a trunk is believed if its configuration says so. What goes out is written anew from
numbers alone, so that no host or header of one network shows in another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.adapters.sip.config import Diverting, Phone, Trunk
from gateway.adapters.sip.identity import e164, number_of, privacy_of
from gateway.core.events import Diversion
from gateway.errors import PeerError
from gateway.protocols.sip.events import Ended
from gateway.protocols.sip.headers import NameAddr, format_name_addr
from gateway.protocols.sip.message import Header, Request, Response
from gateway.protocols.sip.registrar import quality
from gateway.protocols.sip.uri import make_uri

MOST: Final = 8
"""Diversions of one call that are remembered; the newest."""
_REASONS: Final = frozenset(
    (
        "unknown", "user-busy", "no-answer", "unavailable", "unconditional", "time-of-day",
        "do-not-disturb", "deflection", "follow-me", "out-of-service", "away",
    )
)  # fmt: skip
_CAUSES: Final = {
    "user-busy": 486, "no-answer": 408, "unconditional": 302, "deflection": 480,
    "unavailable": 503, "out-of-service": 503,
}  # fmt: skip
"""Causes of RFC 4458 in History-Info (RFC 7544 section 5); others are 404, unknown."""
_WORDS: Final = {486: "user-busy", 408: "no-answer", 302: "unconditional", 480: "deflection",
                 487: "deflection", 503: "unavailable"}  # fmt: skip
_INDEX: Final = re.compile(r"\d{1,3}(\.\d{1,3}){0,20}\Z")


def diverted_of(message: Request | Response) -> tuple[Diversion, ...]:
    """Who sent the call on, the latest first. What cannot be read is passed over."""
    if told := _diversions(message):
        return told
    try:
        return _history(message.addresses("history-info"))
    except PeerError:
        return ()


def believed(request: Request, trunk: Trunk | None) -> tuple[Diversion, ...]:
    """What a call says of who sent it on, with numbers as ours; nothing where it is not to be
    believed, and no numbers where they are to be hidden (RFC 7044 section 10.1)."""
    if trunk is None or trunk.diversion is Diverting.NONE:
        return ()
    hidden = privacy_of(request) & {"history", "header", "session"}
    return tuple(
        Diversion(
            number="" if hidden else e164(each.number, trunk.numbers),
            reason=each.reason,
        )
        for each in diverted_of(request)
    )


def outward(diverted: Sequence[Diversion], trunk: Trunk) -> tuple[Diversion, ...]:
    """Diversions as a trunk may see them: where callers may not be shown to it, those neither."""
    return tuple(
        Diversion(
            number=each.number and (trunk.number or e164(each.number, trunk.numbers)),
            reason=each.reason,
        )
        for each in diverted
    )


def _diversions(message: Request | Response) -> tuple[Diversion, ...]:
    try:
        return tuple(_diversion(line) for line in message.addresses("diversion")[:MOST])
    except PeerError:
        return ()


def _diversion(line: NameAddr) -> Diversion:
    reason = line.params.get("reason", "").strip('"').lower()
    hidden = line.params.get("privacy", "off").strip('"').lower() not in ("off", "")
    return Diversion(
        number="" if hidden else _named(line),
        reason=reason if reason in _REASONS else "unknown",
    )


def _named(line: NameAddr) -> str:
    number = number_of(line.uri)
    return "" if number.lower() == "anonymous" else number


def _history(entries: list[NameAddr]) -> tuple[Diversion, ...]:
    """An entry with a cause was sent there by the one that `mp` or `rc` names, or by its parent."""
    numbers: dict[str, str] = {}
    found: list[Diversion] = []
    for entry in entries[: 4 * MOST]:
        index = entry.params.get("index", "")
        if not _INDEX.match(index):
            continue
        hidden = "privacy=" in entry.uri.headers.lower()
        numbers[index] = "" if hidden else _named(entry)
        cause = entry.uri.params.get("cause", "")
        if not cause:
            continue
        by = entry.params.get("mp") or entry.params.get("rc") or index.rpartition(".")[0]
        if by in numbers:
            word = _WORDS.get(int(cause) if cause.isascii() and cause.isdigit() else 0, "unknown")
            found.append(Diversion(number=numbers[by], reason=word))
    return tuple(reversed(found[-MOST:]))


def diversions(
    host: str, diverted: Sequence[Diversion], how: Diverting, target: str = ""
) -> list[Header]:
    """What we say to a peer about who sent the call on. `target`: URI that is called now."""
    if not diverted or how is Diverting.NONE:
        return []
    told = diverted[:MOST]
    lines: list[Header] = []
    if how in (Diverting.DIVERSION, Diverting.BOTH):
        for each in told:
            hidden = "" if each.number else ";privacy=full"
            lines.append(("Diversion", f"{_address(host, each)};reason={each.reason}{hidden}"))
    if how in (Diverting.HISTORY_INFO, Diverting.BOTH):
        index, why = "1", ""
        for each in reversed(told):
            lines.append(("History-Info", _entry(_uri(host, each), index, why)))
            index, why = f"{index}.1", each.reason
        lines.append(("History-Info", _entry(target, index, why)))
    return lines


def _uri(host: str, diversion: Diversion) -> str:
    if not diversion.number:
        return "sip:anonymous@anonymous.invalid"
    return make_uri(host, diversion.number)


def _address(host: str, diversion: Diversion) -> str:
    return format_name_addr(_uri(host, diversion))


def _entry(uri: str, index: str, why: str) -> str:
    if not why:
        return f"<{uri}>;index={index}"
    cause = _CAUSES.get(why, 404)
    return f"<{uri};cause={cause}>;index={index};mp={index.rpartition('.')[0]}"


def sent_on(event: Ended, phone: Phone | None, trunk: Trunk | None) -> tuple[str, str]:
    """The number that a 301 or 302 sends the caller to and why, if whoever says so may; else
    empty."""
    may = (phone is not None and phone.forwards) or (trunk is not None and trunk.redirects)
    if not may or event.status not in (301, 302) or event.message is None:
        return "", ""
    try:
        contacts = event.message.addresses("contact")
    except PeerError:
        return "", ""
    # Not its History-Info: that tells again how the call came there (RFC 7044 section 5).
    believes = trunk is None or trunk.diversion in (Diverting.DIVERSION, Diverting.BOTH)
    said = _diversions(event.message) if believes else ()
    why = said[0].reason if said else "unconditional"
    # Of several the one that it likes best (RFC 3261 section 8.1.3.4).
    number = number_of(max(contacts, key=quality).uri) if contacts else ""
    # To name an endpoint would be to go round the routes.
    return (number, why) if number and "/" not in number else ("", "")
