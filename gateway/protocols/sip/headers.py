"""Header field values: typed on access, printed back (RFC 3261 section 25).

Every parser here takes the unfolded value of one header field and raises `PeerError` with
status 400 when it does not follow the grammar. White space around separators is accepted as
RFC 3261 allows; white space inside ``<...>``, empty parameters, unbalanced quotes and commas in
unquoted display names are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

import msgspec

from gateway.errors import PeerError, UsageError
from gateway.protocols.sip._lines import plain_params
from gateway.protocols.sip.names import SAME
from gateway.protocols.sip.uri import CACHEABLE, Uri, parse_uri

# A quantifier that never gives back (RFC 3261 allows rows of blanks in many places): else a header
# of 60,000 blanks is tried at each of them.
_NAME_ADDR = re.compile(
    r'\s*+(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"\s*+|([^<>",;\\]*+))<([^<>\s"]+)>\s*+(;.*)?', re.DOTALL
)
_ADDR_SPEC = re.compile(r'\s*([^\s<>",;?]+)\s*(;.*)?', re.DOTALL)
_VIA = re.compile(
    r"\s*SIP\s*/\s*(\d+\.\d+)\s*/\s*([^\s/;,]+)\s+"
    r"(\[[0-9a-fA-F:.]{2,64}\]|[^\s:;,\[\]<>\"]+)(?:\s*:\s*(\d{1,5}))?\s*",
    re.IGNORECASE,
)
_CSEQ = re.compile(r"\s*(\d{1,10})\s+([^\s]+)\s*")
_PARAM = re.compile(r'\s*([^\s;="<>,]+)\s*(?:=\s*("[^"\\]*+(?:\\.[^"\\]*+)*+"|[^\s;"<>,]+)\s*)?')
_AUTH_PARAM = re.compile(
    r'\s*+([^\s=,"]++)\s*+=\s*+(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"|([^\s,"]*+))\s*+(?:,|$)'
)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
# A quoted string counts as one, to its end or the value's.
_SEPARATOR = re.compile(r'[<>,]|"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?$)', re.DOTALL)
_TOKEN = re.compile(r"[A-Za-z0-9.!%*_+`'~-]+")

MAX_ADDRESSES = 256
"""Of one kind in one message; each costs as much as a whole header of another."""
MAX_ELEMENTS = 4096
"""Where a comma list is split; nobody means more."""
CSEQ_LIMIT = 2**31
"""RFC 3261 section 8.1.1.5: a sequence number is less than 2**31."""


class CSeq(NamedTuple):
    number: int
    method: str


class NameAddr(msgspec.Struct, frozen=True):
    """From, To, Contact, Route, Refer-To and their like."""

    uri: Uri
    display: str = ""
    """Without quotes and escapes."""
    params: Mapping[str, str] = {}
    """Header parameters: names lower case, values as written (quotes removed)."""

    @property
    def tag(self) -> str:
        return self.params.get("tag", "")


class Via(msgspec.Struct, frozen=True):
    """One Via value."""

    transport: str
    """Lower case."""
    host: str
    """Lower case, without brackets."""
    port: int
    """0: none given."""
    params: Mapping[str, str]

    @property
    def branch(self) -> str:
        return self.params.get("branch", "")


class Reason(NamedTuple):
    """One value of a Reason header (RFC 3326)."""

    protocol: str
    cause: int
    text: str


def is_token(text: str) -> bool:
    """RFC 3261 ``token``: what methods, option tags and parameter names are made of."""
    return _TOKEN.fullmatch(text) is not None


def quote(text: str) -> str:
    """A quoted-string.  Raises `UsageError` for CR or LF, which no escape can carry."""
    if "\r" in text or "\n" in text:
        raise UsageError("a SIP header value may not contain CR or LF")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unquote(text: str) -> str:
    # A template would be filled in for each pair; the pieces between them are the same text.
    return "".join(_QUOTED_PAIR.split(text)) if "\\" in text else text


def parse_params(text: str) -> Mapping[str, str]:
    """Parameters of a header value, ``text`` beginning with the first semicolon."""
    plain = plain_params(text)
    if plain is not None:
        return plain
    pairs: dict[str, str] = {}
    at, end = 0, len(text)
    while at < end:
        if text[at] != ";":
            raise PeerError(f"malformed parameters {text[:80]!r}", status=400)
        found = _PARAM.match(text, at + 1)
        if found is None:
            raise PeerError(f"malformed parameters {text[:80]!r}", status=400)
        name, value = found[1].lower(), found[2] or ""
        if name in pairs:
            raise PeerError(f"parameter {name[:40]!r} is given twice", status=400)
        pairs[name] = unquote(value[1:-1]) if value[:1] == '"' else value
        at = found.end()
    return pairs


def split_list(value: str, most: int = MAX_ELEMENTS) -> list[str]:
    """Split a comma list, minding quotes and angle brackets; empty elements are kept.

    most: how often at most; what follows stays together.
    """
    if "," not in value:
        return [value]
    if '"' not in value and "<" not in value:
        return value.split(",", most)
    pieces: list[str] = []
    start = 0
    angled = False
    for found in _SEPARATOR.finditer(value):
        char = found[0]
        if char == "<":
            angled = True
        elif char == ">":
            angled = False
        elif char == "," and not angled:
            pieces.append(value[start : found.start()])
            start = found.end()
            if len(pieces) == most:
                break
    pieces.append(value[start:])
    return pieces


def _name_addr(value: str) -> NameAddr:
    # From and To of a person are the same in each of its calls, but for the tag.
    before, mark, tag = value.rpartition(">;tag=")
    if mark and _TOKEN.fullmatch(tag):
        address = parse_name_addr(before + ">")
        return NameAddr(address.uri, address.display, {"tag": tag})
    found = _NAME_ADDR.fullmatch(value)
    if found is not None:
        quoted, plain, uri, params = found.groups()
        display = unquote(quoted) if quoted is not None else (plain or "").strip()
    else:
        found = _ADDR_SPEC.fullmatch(value)
        if found is None:
            raise PeerError(f"not an address: {value[:80]!r}", status=400)
        uri, params = found.groups()
        display = ""
    return NameAddr(parse_uri(uri), display, parse_params(params.rstrip()) if params else {})


def _sent_by(value: str) -> tuple[str, str, int]:
    """Transport, host and port of a Via value without its parameters."""
    found = _VIA.fullmatch(value)
    if found is None:
        raise PeerError(f"malformed Via {value[:80]!r}", status=400)
    _, transport, host, port = found.groups()
    number = int(port) if port else 0
    if number > 65535:
        raise PeerError(f"Via port {port} is out of range", status=400)
    if host[0] == "[":
        host = host[1:-1]
    return transport.lower(), host.lower(), number


_sent_by_cached = lru_cache(maxsize=1024)(_sent_by)
# A From or To with its tag is of use for the messages of one call: these are enough for a hundred
# that are being set up. More would lie scattered over all memory that a rush takes, and hold it.
_name_addr_cached = lru_cache(maxsize=512)(_name_addr)


def parse_name_addr(value: str) -> NameAddr:
    """Parse one name-addr or addr-spec with its parameters."""
    return _name_addr_cached(value) if len(value) <= CACHEABLE else _name_addr(value)


def parse_name_addrs(values: Iterable[str]) -> list[NameAddr]:
    """Parse header fields that hold comma lists of addresses, `MAX_ADDRESSES` at most."""
    pieces = [piece for value in values for piece in split_list(value)]
    if len(pieces) > MAX_ADDRESSES:
        raise PeerError(f"{len(pieces)} addresses are over {MAX_ADDRESSES}", status=400)
    return [parse_name_addr(piece) for piece in pieces]


def parse_via(value: str) -> Via:
    """Parse one Via value (not a list)."""
    # All messages of a peer have the same Via but for the branch.
    before, semi, rest = value.partition(";")
    transport, host, port = (_sent_by_cached if len(before) <= CACHEABLE else _sent_by)(before)
    return Via(transport, host, port, parse_params(semi + rest.rstrip()) if semi else {})


def _cseq(value: str) -> CSeq:
    found = _CSEQ.fullmatch(value)
    if found is None:
        raise PeerError(f"malformed CSeq {value[:80]!r}", status=400)
    number = int(found[1])
    if number >= CSEQ_LIMIT:
        raise PeerError(f"CSeq {found[1]} is not less than 2**31", status=400)
    return CSeq(number, SAME.get(found[2], found[2]))


_cseq_cached = lru_cache(maxsize=1024)(_cseq)


def parse_cseq(value: str) -> CSeq:
    return _cseq_cached(value) if len(value) <= CACHEABLE else _cseq(value)


def _tokens(value: str) -> tuple[str, ...]:
    return tuple(t for piece in value.split(",") if (t := piece.strip()))


_tokens_cached = lru_cache(maxsize=512)(_tokens)


def tokens(values: Iterable[str]) -> list[str]:
    """Option tags and the like: comma lists of tokens, empty elements dropped."""
    found: list[str] = []
    for value in values:
        found += (_tokens_cached if len(value) <= CACHEABLE else _tokens)(value)
    return found


def parse_number(value: str, limit: int = 2**32 - 1) -> int:
    """Leading non-negative decimal of a header such as Expires; larger values become ``limit``."""
    text = value
    if not text.isdigit():
        text = value.split(";", 1)[0].split("(", 1)[0].strip()
    if not text.isascii() or not text.isdigit():
        raise PeerError(f"not a number: {value[:40]!r}", status=400)
    # int() refuses thousands of digits; anything that long is over every limit anyway.
    return limit if len(text) > 20 else min(int(text), limit)


def parse_auth(value: str) -> tuple[str, dict[str, str]]:
    """A challenge or credentials: scheme in lower case, parameters with lower case names."""
    scheme, _, rest = value.strip().partition(" ")
    pairs: dict[str, str] = {}
    rest = rest.strip()
    at = 0
    while at < len(rest):
        found = _AUTH_PARAM.match(rest, at)
        if found is None:
            raise PeerError(f"malformed authentication parameters {rest[:60]!r}", status=400)
        name = found[1].lower()
        if name in pairs:
            raise PeerError(f"authentication parameter {name[:40]!r} is given twice", status=400)
        pairs[name] = unquote(found[2]) if found[2] is not None else found[3]
        at = found.end()
    return scheme.lower(), pairs


def parse_reasons(values: Iterable[str]) -> list[Reason]:
    """Reason header values (RFC 3326); malformed ones are left out, the header is a hint."""
    found: list[Reason] = []
    for value in values:
        for piece in split_list(value):
            protocol, semi, rest = piece.strip().partition(";")
            try:
                params = parse_params(semi + rest) if semi else {}
            except PeerError:
                continue
            cause = params.get("cause", "")
            if cause.isascii() and cause.isdigit() and len(cause) <= 4:
                found.append(Reason(protocol.strip(), int(cause), params.get("text", "")))
    return found


def format_reason(protocol: str, cause: int, text: str = "") -> str:
    """A Reason header value (RFC 3326)."""
    return f"{protocol};cause={cause}" + (f";text={quote(text)}" if text else "")


def format_name_addr(uri: str, display: str = "", tag: str = "") -> str:
    """``"Display" <uri>;tag=...``; the display name is quoted as needed."""
    shown = f"{quote(display)} " if display else ""
    return f"{shown}<{uri}>;tag={tag}" if tag else f"{shown}<{uri}>"
