"""Who calls whom: numbers, names and trace ids between SIP header fields and the bus.

Caller identity follows RFC 3325 (P-Asserted-Identity) and RFC 3323 (Privacy), the trace RFC 7989
(Session-ID), "answer by yourself" RFC 5373 and what phones understand in its place.
"""

from __future__ import annotations

import re
import uuid
from typing import Final, NamedTuple

from gateway.adapters.sip.config import Identity, Numbers
from gateway.core.causes import Cause, to_q850
from gateway.core.events import Priority
from gateway.core.ids import trace_of
from gateway.errors import PeerError
from gateway.protocols.sip.headers import format_name_addr, format_reason
from gateway.protocols.sip.message import Header, Request
from gateway.protocols.sip.uri import Uri, make_uri

# Every maker has its own way to say "answer by yourself"; they do not disturb each other.
AUTO_ANSWER: Final[tuple[Header, ...]] = (
    ("Call-Info", "<sip:intercom>;answer-after=0"),
    ("Alert-Info", "<http://intercom>;info=alert-autoanswer;delay=0"),
    ("Answer-Mode", "Auto"),
)
_AUTO_ANSWERS = re.compile(
    r"answer-after\s*=\s*0|alert-autoanswer|intercom|(auto|ring) ?answer", re.IGNORECASE
)
_VISUAL = str.maketrans("", "", "-.() ")
_NUMBER = re.compile(r"\+?[0-9*#A-Da-d]+\Z")
_LONGEST: Final = 128
_WHOLE: Final = 7
_PRIORITIES: Final = {Priority.EMERGENCY: "emergency", Priority.URGENT: "urgent"}


class Caller(NamedTuple):
    """Who calls, as others may see it."""

    number: str
    display: str


def clean(text: str, longest: int = _LONGEST) -> str:
    """Text from outside that can be stored and shown: printable, bounded, valid Unicode."""
    if text.isprintable() and text.isascii():
        return text[:longest]
    shown = "".join(sign for sign in text[:longest] if sign.isprintable())
    return shown.encode("utf-8", "replace").decode()


def number_of(uri: Uri) -> str:
    """The number or name a URI stands for: no parameters, and no visual separators in a number
    (RFC 3966 section 5.1.1)."""
    user = uri.user.partition(";")[0]
    bare = user.translate(_VISUAL)
    if _NUMBER.match(bare):
        user = bare
    return clean(user)


def called_of(request: Request, account: str) -> str:
    """The number that is called.

    account: user of our own registration. An exchange that sends calls to the contact as it was
    registered names the number in To alone.
    """
    number = number_of(request.uri)
    return number_of(request.to.uri) if account and number == account else number


def caller_of(request: Request, *, trusted: bool) -> Caller:
    """Who calls. A trusted peer's P-Asserted-Identity, else its Remote-Party-ID, counts for more
    than From."""
    address = request.from_
    if trusted:
        if private(request):
            return Caller("", "")
        for name in ("p-asserted-identity", "remote-party-id"):
            try:
                said = request.addresses(name)
            except PeerError:
                continue
            if said:
                if said[0].params.get("privacy", "off").lower() not in ("off", ""):
                    return Caller("", "")
                address = said[0]
                break
    number = number_of(address.uri)
    if number.lower() == "anonymous":
        return Caller("", "")
    return Caller(number, clean(address.display, 80))


def private(request: Request) -> bool:
    """Whether the caller does not want to be shown (RFC 3323 section 4.2)."""
    return bool(privacy_of(request) & {"id", "user", "header"})


def privacy_of(request: Request) -> set[str]:
    """What the caller wants to be hidden (RFC 3323 section 4.2), in lower case."""
    words = ";".join(request.all("privacy")).split(";")
    return {word.strip().lower() for word in words}


def from_value(host: str, caller: Caller) -> str:
    """The From of a call of ours; a caller without number is anonymous (RFC 3323 section 4.1)."""
    if not caller.number:
        return format_name_addr("sip:anonymous@anonymous.invalid", "Anonymous")
    return format_name_addr(make_uri(host, caller.number), clean(caller.display, 80))


def asserted(
    host: str, caller: Caller, how: Identity = Identity.PAI, *, hidden: bool = False
) -> list[Header]:
    """What we say to a trunk about who really calls (RFC 3325 section 9.1); ``hidden``: that it is
    for the trunk alone."""
    if hidden and caller.number and how is not Identity.FROM:
        name, value = asserted(host, caller, how)[0]
        return [("Privacy", "id"), (name, value.replace(";privacy=off", ";privacy=full"))]
    if not caller.number:
        nobody = format_name_addr("sip:anonymous@anonymous.invalid", "Anonymous")
        rpid: list[Header] = [("Remote-Party-ID", f"{nobody};party=calling;privacy=full")]
        return [("Privacy", "id"), *(rpid if how is Identity.RPID else ())]
    address = format_name_addr(make_uri(host, caller.number), clean(caller.display, 80))
    match how:
        case Identity.PAI:
            return [("P-Asserted-Identity", address)]
        case Identity.PPI:
            return [("P-Preferred-Identity", address)]
        case Identity.RPID:
            return [("Remote-Party-ID", f"{address};party=calling;screen=yes;privacy=off")]
        case Identity.FROM:
            return []


def e164(number: str, rules: Numbers) -> str:
    """A number with plus and country code (E.164); one without a prefix of ours is left as it is:
    it may be an extension, or 112."""
    code, abroad, home = rules.country_code, rules.international_prefix, rules.national_prefix
    if not code or not number.isascii() or not number.isdigit():
        return number
    if abroad and number.startswith(abroad):
        return "+" + number[len(abroad) :]
    if home and number.startswith(home):
        return f"+{code}{number[len(home) :]}"
    # Without a prefix for the own country only the length tells a whole number.
    return f"+{code}{number}" if not home and len(number) >= _WHOLE else number


def dialled(number: str, rules: Numbers) -> str:
    """A called number as a trunk wants it."""
    return e164(rules.prefix + number[rules.strip :], rules)


def urgency(priority: Priority) -> list[Header]:
    """The Priority header of a call that is not routine (RFC 3261 section 20.26)."""
    word = _PRIORITIES.get(priority)
    return [("Priority", word)] if word else []


def wants_auto_answer(request: Request) -> bool:
    """Whether the caller asks that the called side answers by itself."""
    for name in ("answer-mode", "priv-answer-mode"):
        if (request.get(name) or "").strip().lower().startswith("auto"):
            return True
    if (request.get("p-auto-answer") or "").strip().lower() == "normal":
        return True
    lines = [*request.all("call-info"), *request.all("alert-info")]
    return any(_AUTO_ANSWERS.search(line) for line in lines)


def half_of(trace: str) -> str:
    """Our half of the Session-ID of what has a trace, 32 hexadecimal digits."""
    known = trace_of(trace)
    return known.replace("-", "") if known else uuid.uuid5(uuid.NAMESPACE_OID, trace).hex


def reason(cause: Cause) -> Header:
    """Why, in Q.850 (RFC 3326); telephones that note missed calls look for what section 3.1 of it
    says of those that somebody else took."""
    why = format_reason("Q.850", to_q850(cause), cause.value)
    if cause is Cause.ANSWERED_ELSEWHERE:
        why = f"{why}, {format_reason('SIP', 200, 'Call completed elsewhere')}"
    return ("Reason", why)
