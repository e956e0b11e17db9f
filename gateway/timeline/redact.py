"""Redact: what nobody may read in what went over the wires.

Every reader of the ring (`trace`, `capture`, an exporter) goes through a `Redactor`. What is
hidden keeps its length, so that lengths stated in a message stay right and a dissector finds its
way: digest responses become ``*``, keys too, digits ``?``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Final

import msgspec

from gateway.adapters.secrets import Secret
from gateway.timeline.wire import WireEntry

_HEAD: Final = re.compile(
    rb"(?im)^(?:proxy-)?(?:authorization|authentication-info)[ \t]*:((?:[^\r\n]|\r?\n[ \t])*)"
)
# Who authenticates, and where, may be seen; what proves it may not.
_PROOF: Final = re.compile(
    rb'(?i)\b(response|rspauth|nonce|nextnonce|cnonce|opaque|auts)[ \t]*=[ \t]*("[^"]*"|[^,\s]+)'
)
_OTHER_SCHEME: Final = re.compile(rb"(?i)[ \t]*(?!digest\b)[a-z0-9-]+[ \t]+[^\s=,]")
_KEYS: Final = (
    # RFC 4568 section 9.1, RFC 4567, RFC 4566 section 5.12, RFC 8839 section 5.4
    re.compile(rb"(?im)\binline:([^\s|;\r\n]+)"),
    re.compile(rb"(?im)^a=key-mgmt:\S+[ \t]+([^\r\n]+)"),
    re.compile(rb"(?im)^k=([^\r\n]+)"),
    re.compile(rb"(?im)^a=ice-pwd:([^\r\n]+)"),
    re.compile(rb"(?i)\bkey=([^\s;,\"&\r\n]+)"),
)
_DIGITS: Final = (
    re.compile(rb"(?im)^signal[ \t]*=[ \t]*([^\r\n]+)"),
    re.compile(rb"(?im)<(?:dtmf|value|digit)[^>]*>([^<]+)<"),
    re.compile(rb'(?i)\b(?:digits?|dtmf)="([^"]+)"'),
)
_IS_DTMF: Final = re.compile(
    rb"(?im)^(?:content-type|c)[ \t]*:[ \t]*application/(?:dtmf|kpml|vnd\.nortelnetworks\.digits)"
)
_USER: Final = re.compile(rb"(?i)((?:sips?|tel):)([0-9*#+]{3,64})(?=[@;>\s])")
_PLACES: Final = (
    # Password of a URI (RFC 3986 section 3.2.1, RFC 3261 section 19.1.1). Whoever sends 64 KiB of
    # letters wants us to try each of them: a word is looked at once, and only if an @ ends it.
    re.compile(rb"(?i)[a-z0-9+.-]://[^\s:@/<>\"';,?]*+:([^\s@/<>\"';,?]++)@"),
    re.compile(
        rb"(?i)(?<![^\s@/<>\"';,?])(?=[^\s@/<>\"';,?]++@)[^\s@/<>\"';,?]*?"
        rb"\b[a-z][a-z0-9+.-]{0,15}+:[^\s:@/<>\"';,?]*+:([^\s@/<>\"';,?]++)@"
    ),
    re.compile(
        rb"(?i)(?:\b|_)(?:password|passwd|passphrase|passcode|pwd|secret|api[_-]?key|access[_-]?token)"
        rb"(?:\\?[\"'])?[ \t]{0,8}[=:][ \t]{0,8}"
        # JSON in a string of JSON, JSON, and words.
        rb"(?:\\\"((?:[^\"\\\r\n]++|\\[^\"\\\r\n]|\\\\(?:\\[^\r\n]|[^\"\\\r\n]))+)"
        rb"|\"((?:[^\"\\\r\n]++|\\[^\r\n])+)|'([^'\r\n]++)"
        rb"|(?!\\\")([^\s,;&\"'<>{}\[\]]++))"
    ),
)
"""Where a password stands, whoever's it is: peers have secrets that our configuration lacks."""
_SHORT: Final = 6
"""A secret of fewer characters is only hidden where it stands as a word of its own."""
_NAMES: Final = re.compile(rb"[A-Za-z]+")
"""Such a short one is also a usual name: as a level of a topic or a path it says nothing."""


def secrets_of(value: Any) -> Iterator[str]:
    """Every secret in a configuration, however deep."""
    if isinstance(value, Secret):
        if value:
            yield value.reveal()
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from secrets_of(getattr(value, name))
    elif isinstance(value, dict):
        for each in value.values():
            yield from secrets_of(each)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from secrets_of(each)


class Redactor:
    """Hides secrets in octets and words that came from the wires.

    secrets: what must not be read wherever it stands. shown: a dialled number as it may be written
    down, without a PIN dialled along with it. digits: whether pressed digits may be seen.
    """

    def __init__(
        self,
        secrets: Iterable[str] = (),
        *,
        shown: Callable[[str], str] | None = None,
        digits: bool = False,
    ) -> None:
        self.digits = digits
        self._numbers = shown is not None
        self._shown = lru_cache(1024)(shown or str)
        words = sorted({each for each in secrets if len(each) >= 3}, key=len, reverse=True)
        self._secrets: re.Pattern[bytes] | None = None
        if words:
            self._secrets = re.compile(b"|".join(_pattern(each.encode()) for each in words))

    def entry(self, entry: WireEntry) -> WireEntry:
        """The entry without secrets."""
        data = entry.data
        if isinstance(data, str):
            clean: bytes | str = self.text(data)
        elif entry.kind == "sip":
            clean = self.sip(data)
        else:
            clean = self.octets(data)
        words = self.text(entry.words) if entry.words else ""
        if clean == data and words == entry.words:
            return entry
        return msgspec.structs.replace(entry, data=clean, words=words)

    def octets(self, data: bytes) -> bytes:
        """Octets of any kind without the configuration's secrets, and without passwords in the
        usual places."""
        for pattern in _PLACES:
            data = pattern.sub(_hide_all, data)
        if self._secrets is None:
            return data
        return self._secrets.sub(lambda found: b"*" * len(found[0]), data)

    def text(self, words: str) -> str:
        """Words without what `octets` hides."""
        data = words.encode("utf-8", "surrogateescape")
        return self.octets(data).decode("utf-8", "replace")

    def sip(self, data: bytes) -> bytes:
        """A SIP message without credentials, keys, and digits that nobody may read."""
        head, gap, body = data.partition(b"\r\n\r\n")
        head = _HEAD.sub(lambda found: _hide(found, self._credentials(found[1])), head)
        if self._numbers:
            head = _USER.sub(self._number, head)
        for pattern in _KEYS:
            body = pattern.sub(lambda found: _hide(found, b"*" * len(found[1])), body)
        if not self.digits and _IS_DTMF.search(head):
            hidden = body
            for pattern in _DIGITS:
                hidden = pattern.sub(lambda found: _hide(found, b"?" * len(found[1])), hidden)
            # application/dtmf is nothing but the digit.
            body = re.sub(rb"[0-9A-Da-d*#]", b"?", body) if hidden == body else hidden
        return self.octets(head + gap + body)

    def _credentials(self, value: bytes) -> bytes:
        if _OTHER_SCHEME.match(value):
            # Basic, Bearer: all of it is the secret.
            return b"*" * len(value)
        return _PROOF.sub(lambda found: _hide(found, b"*" * len(found[2]), 2), value)

    def _number(self, found: re.Match[bytes]) -> bytes:
        number = found[2].decode()
        shown = self._shown(number)
        if shown == number:
            return found[0]
        # One sign for one sign: the length of what is hidden is no secret in a dialled number.
        return found[1] + shown.ljust(len(number), "?")[: len(number)].encode()


def _pattern(word: bytes) -> bytes:
    escaped = re.escape(word)
    if len(word) >= _SHORT:
        return escaped
    beside = rb"0-9A-Za-z." + (rb"/" if _NAMES.fullmatch(word) else b"")
    return rb"(?<![" + beside + rb"])" + escaped + rb"(?![" + beside + rb"])"


def _hide_all(found: re.Match[bytes]) -> bytes:
    """The match with the one group that was found replaced."""
    group = found.lastindex or 0
    return _hide(found, b"*" * len(found[group]), group)


def _hide(found: re.Match[bytes], instead: bytes, group: int = 1) -> bytes:
    """The match with one of its groups replaced."""
    start, end = found.span(group)
    at = found.start()
    return found[0][: start - at] + instead + found[0][end - at :]
