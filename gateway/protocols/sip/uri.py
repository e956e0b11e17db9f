"""SIP, SIPS and tel URIs (RFC 3261 section 19.1, RFC 3966).

Parsed values are immutable and shared through a bounded cache: one call repeats the same few
URIs in each of its messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote_to_bytes

import msgspec

from gateway.errors import PeerError

_SIP = re.compile(
    r"(sips?):(?:([^@\s<>\"]*)@)?"
    r"(\[[0-9a-fA-F:.]{2,64}\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}))"
    r"(?::(\d{1,5}))?((?:;[^;?@\s<>\"]+)*)(?:\?([^\s<>\"@]*))?",
    re.IGNORECASE,
)
_OTHER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):([^\s<>\"]+)")
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})")
_UNESCAPED_USER = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.!~*'()&=+$,;?/"
)

CACHEABLE = 512
"""Longer strings are parsed afresh: the cache's memory stays bounded whatever peers send."""


class Uri(msgspec.Struct, frozen=True):
    """One URI; ``user`` is unescaped, ``host`` lower case and without brackets for IPv6."""

    text: str
    """As it was written."""
    scheme: str
    """Lower case: ``sip``, ``sips``, ``tel`` or any other."""
    user: str = ""
    """Unescaped user part; the number of a tel URI; the rest of an unknown scheme."""
    password: str = ""
    host: str = ""
    port: int = 0
    """0: none given."""
    params: Mapping[str, str] = {}
    """Names lower case; a parameter without value maps to the empty string."""
    headers: str = ""
    """What follows ``?``, still escaped."""

    @property
    def transport(self) -> str:
        """``tls`` for sips, else the transport parameter in lower case, else empty."""
        if self.scheme == "sips":
            return "tls"
        return self.params.get("transport", "").lower()

    @property
    def loose(self) -> bool:
        """The element named routes loosely (RFC 3261 section 19.1.1, ``lr``)."""
        return "lr" in self.params

    def __str__(self) -> str:
        return self.text


def unescape(text: str) -> str:
    """Undo ``%`` escapes once; octets that are not UTF-8 survive as surrogates."""
    if "%" not in text:
        return text
    octets = unquote_to_bytes(text.encode("utf-8", "surrogateescape"))
    return octets.decode("utf-8", "surrogateescape")


def escape_user(text: str) -> str:
    """Escape a user part so that it can stand before ``@`` (RFC 3261 section 25.1)."""
    return "".join(
        c
        if c in _UNESCAPED_USER
        else "".join(f"%{b:02X}" for b in c.encode("utf-8", "surrogateescape"))
        for c in text
    )


def format_host(host: str) -> str:
    """A host as it stands in URIs and Via: IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def host_port(host: str, port: int) -> str:
    """``host:port``, IPv6 in brackets; without the port when it is 0."""
    return f"{format_host(host)}:{port}" if port else format_host(host)


def make_uri(
    host: str, user: str = "", port: int = 0, params: str = "", scheme: str = "sip"
) -> str:
    """Write a SIP URI; ``params`` are given ready, each with its leading semicolon."""
    before = f"{escape_user(user)}@" if user else ""
    return f"{scheme}:{before}{host_port(host, port)}{params}"


def _parse(text: str) -> Uri:
    found = _SIP.fullmatch(text)
    if found is not None:
        scheme, userinfo, host, port, params, headers = found.groups()
        number = int(port) if port else 0
        if number > 65535 or (port and number == 0):
            raise PeerError(f"URI port {port} is out of range", status=400)
        user = password = ""
        if userinfo:
            # A password may follow the first colon (RFC 3261 section 19.1.1).
            user, _, password = userinfo.partition(":")
            user = unescape(user)
        elif userinfo is not None:
            raise PeerError("URI has an empty user part", status=400)
        if host[0] == "[":
            host = host[1:-1]
        pairs: dict[str, str] = {}
        if params:
            for piece in params[1:].split(";"):
                name, _, value = piece.partition("=")
                pairs[unescape(name).lower()] = unescape(value)
        return Uri(text, scheme.lower(), user, password, host.lower(), number, pairs, headers or "")
    found = _OTHER.fullmatch(text)
    if found is None or found[1].lower() in ("sip", "sips"):
        raise PeerError(f"not a URI: {text[:80]!r}", status=400)
    scheme, rest = found[1].lower(), found[2]
    if scheme == "tel":
        number_text, *pieces = rest.split(";")
        pairs = {}
        for piece in pieces:
            name, _, value = piece.partition("=")
            pairs[name.lower()] = value
        return Uri(text, scheme, number_text, params=pairs)
    return Uri(text, scheme, rest)


_parse_cached = lru_cache(maxsize=2048)(_parse)


def parse_uri(text: str) -> Uri:
    """Parse a URI.

    Raises `PeerError` (status 400) for anything that is not one; a scheme other than sip, sips
    and tel parses, for the caller to answer 416.
    """
    return _parse_cached(text) if len(text) <= CACHEABLE else _parse(text)


_COMPARED = ("user", "ttl", "method", "maddr", "transport")


def same_uri(a: Uri, b: Uri) -> bool:
    """RFC 3261 section 19.1.4 equality."""
    if a.text == b.text:
        return True
    if (a.scheme, a.user, a.password, a.host, a.port) != (
        b.scheme,
        b.user,
        b.password,
        b.host,
        b.port,
    ):
        return False
    for name in _COMPARED:
        if a.params.get(name, "").lower() != b.params.get(name, "").lower():
            return False
    for name in a.params.keys() & b.params.keys():
        if a.params[name].lower() != b.params[name].lower():
            return False
    return sorted(a.headers.split("&")) == sorted(b.headers.split("&"))
