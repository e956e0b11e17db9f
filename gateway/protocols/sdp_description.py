"""Session descriptions (RFC 8866): reading and writing them.

`parse` reads a description leniently (LF line ends, missing s= or t=, unknown lines) but within
bounds, and keeps every attribute, known or not, in its order; `SessionDescription.encode` writes
it strictly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache

import msgspec

from gateway.errors import PeerError, UsageError

MAX_OCTETS = 16384
MAX_LINES = 512
MAX_MEDIA = 16
MAX_FORMATS = 64

_KEPT_WORDS = 64
_KEPT_CHARACTERS = 2048
"""A description of more is parsed each time: what is kept must not be what a stranger likes."""
_MEDIA = re.compile(r"(\S+) +(\d{1,5})(?:/(\d{1,5}))? +(\S+)(?: +(.*))?")
_ORIGIN = re.compile(r"(\S+) +(\S+) +(\d{1,20}) +IN +(IP4|IP6) +(\S+)", re.I)
_CONNECTION = re.compile(r"IN +(IP4|IP6) +([^\s/]+)(?:/\S*)?", re.I)
_RTPMAP = re.compile(r"(\d{1,3}) +([^\s/]+)/(\d{1,9})(?:/(\d{1,3}))?")


class SdpError(PeerError):
    """A description that cannot be used: answer 400 (or 488 where an offer was acceptable SIP)."""

    def __init__(self, what: str) -> None:
        super().__init__(f"SDP: {what}", status=400)


class Direction(StrEnum):
    SENDRECV = "sendrecv"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    INACTIVE = "inactive"

    @property
    def sends(self) -> bool:
        return self in (Direction.SENDRECV, Direction.SENDONLY)

    @property
    def receives(self) -> bool:
        return self in (Direction.SENDRECV, Direction.RECVONLY)

    def reversed(self) -> Direction:
        """The same, told from the other side."""
        return direction(self.receives, self.sends)


_DIRECTIONS = frozenset(way.value for way in Direction)


def direction(sends: bool, receives: bool) -> Direction:
    if sends:
        return Direction.SENDRECV if receives else Direction.SENDONLY
    return Direction.RECVONLY if receives else Direction.INACTIVE


class Codec(msgspec.Struct, frozen=True, cache_hash=True):
    """An encoding we can use, or a format of a media line: payload type and what it means."""

    name: str
    """Encoding name as registered (compared without case)."""
    payload: int
    """RTP payload type; for ours the one to offer."""
    clock: int = 8000
    """RTP clock rate, Hz (8000 for G.722 too: RFC 3551 section 4.5.2)."""
    channels: int = 1
    fmtp: str = ""
    """Format parameters, without the payload type."""

    def matches(self, other: Codec) -> bool:
        return (self.name.lower(), self.clock, self.channels) == (
            other.name.lower(),
            other.clock,
            other.channels,
        )


PCMU = Codec("PCMU", 0)
GSM = Codec("GSM", 3)
PCMA = Codec("PCMA", 8)
G722 = Codec("G722", 9)
CN = Codec("CN", 13)
L16 = Codec("L16", 96, 16000)
"""Linear, network byte order (RFC 3551 section 4.5.11); types for one channel are dynamic."""
L16_8 = Codec("L16", 97, 8000)
CN_16 = Codec("CN", 98, 16000)
"""Comfort noise of streams with a clock of 16 kHz."""
G729 = Codec("G729", 18)
TELEPHONE_EVENT = Codec("telephone-event", 101, fmtp="0-16")
TELEPHONE_EVENT_16 = Codec("telephone-event", 102, 16000, fmtp="0-16")
"""Events have the clock of the audio that they stand in for (RFC 4733 section 2.1)."""

STATIC = {
    codec.payload: codec
    for codec in (
        PCMU, GSM, Codec("G723", 4), Codec("DVI4", 5), Codec("DVI4", 6, 16000), Codec("LPC", 7),
        PCMA, G722, Codec("L16", 10, 44100, 2), Codec("L16", 11, 44100), CN,
        Codec("G728", 15), G729, Codec("JPEG", 26, 90000), Codec("H261", 31, 90000),
        Codec("MPV", 32, 90000), Codec("H263", 34, 90000),
    )
}  # fmt: skip
"""Payload types that need no rtpmap (RFC 3551 section 6)."""

Attribute = tuple[str, str | None]
"""Name and value; None for a property attribute such as ``sendrecv``."""


class MediaDescription(msgspec.Struct):
    """One media line and what belongs to it."""

    kind: str
    """``audio``, ``video``, ``image``, ..."""
    port: int
    """0: refused or switched off."""
    protocol: str
    """``RTP/AVP``, ``RTP/SAVP``, ``udptl``, ..."""
    formats: list[str]
    """As in the media line, in order of preference."""
    address: str | None = None
    """Its own c= line."""
    attributes: list[Attribute] = []
    n_ports: int = 1
    others: list[str] = []
    """Further lines (i=, b=, k=), kept."""

    def get(self, name: str) -> str | None:
        """Value of the first attribute of that name, empty for a property, None if absent."""
        return get_attribute(self.attributes, name)

    def all(self, name: str) -> list[str]:
        """Values of all attributes of that name (crypto, candidate)."""
        return [value or "" for key, value in self.attributes if key == name]

    @property
    def rtp(self) -> bool:
        return "RTP/" in self.protocol.upper()

    def codecs(self) -> list[Codec]:
        """What its formats mean, in order; dynamic types without rtpmap are left out."""
        # Every telephone of a make says the same in each of its calls.
        said = tuple(self.formats), tuple(self.all("rtpmap")), tuple(self.all("fmtp"))
        return list((_codecs_cached if is_short(*said) else _codecs)(*said))

    @property
    def ptime_ms(self) -> int | None:
        return _milliseconds(self.get("ptime"))

    @property
    def maxptime_ms(self) -> int | None:
        return _milliseconds(self.get("maxptime"))


class SessionDescription(msgspec.Struct):
    """A whole description."""

    session_id: str
    version: int
    """Raised by one whenever the description changes (RFC 3264 section 8)."""
    origin_address: str
    address: str | None = None
    """Session-level c= line."""
    media: list[MediaDescription] = []
    attributes: list[Attribute] = []
    username: str = "-"
    name: str = "-"
    times: list[str] = msgspec.field(default_factory=lambda: ["0 0"])
    others: list[str] = []
    """Further session lines (i=, u=, e=, p=, b=, z=, k=), kept."""

    def get(self, name: str) -> str | None:
        return get_attribute(self.attributes, name)

    def address_of(self, media: MediaDescription) -> str:
        """Where media of a line is to be sent; empty if nothing says so."""
        return media.address or self.address or ""

    def direction_of(self, media: MediaDescription) -> Direction:
        """Direction the text gives a line, from its author's side.

        An address of 0.0.0.0 is how RFC 2543 put a call on hold: its author receives nothing.
        """
        silent = self.address_of(media) == "0.0.0.0"
        return direction_of(self.attributes, media.attributes, silent)

    def encode(self) -> bytes:
        """Write it.  Raises `UsageError` if a value holds a line end."""
        address = self.origin_address
        lines = [
            "v=0",
            f"o={self.username} {self.session_id} {self.version} {_network(address)}",
            f"s={self.name or '-'}",
        ]
        # RFC 8866 section 5 fixes the order: i u e p, then c, then b, then the times.
        others = self.others
        if others:
            lines += [line for line in others if line[0] in "iuep"]
        if self.address is not None:
            lines.append(f"c={_network(self.address)}")
        if others:
            lines += [line for line in others if line[0] == "b"]
        lines += [f"t={times}" for times in self.times]
        if others:
            lines += [line for line in others if line[0] in "zk"]
        lines += [_written(attribute) for attribute in self.attributes]
        for media in self.media:
            ports = f"{media.port}/{media.n_ports}" if media.n_ports > 1 else str(media.port)
            formats = " ".join(media.formats)
            lines.append(f"m={media.kind} {ports} {media.protocol} {formats}".rstrip())
            if media.others:
                lines += [line for line in media.others if line[0] == "i"]
            if media.address is not None:
                lines.append(f"c={_network(media.address)}")
            if media.others:
                lines += [line for line in media.others if line[0] != "i"]
            lines += [_written(attribute) for attribute in media.attributes]
        together = "".join(lines)
        if "\r" in together or "\n" in together:
            raise UsageError("an SDP value may not contain CR or LF")
        lines.append("")
        return "\r\n".join(lines).encode("utf-8", "surrogateescape")


def direction_of(
    around: Sequence[Attribute], attributes: Sequence[Attribute], silent: bool
) -> Direction:
    found = Direction.SENDRECV
    for each in (around, attributes):
        for name, value in each:
            if value is None and name in _DIRECTIONS:
                found = Direction(name)
    return direction(found.sends, False) if silent else found


def _network(address: str) -> str:
    return f"IN {'IP6' if ':' in address else 'IP4'} {address}"


def _written(attribute: Attribute) -> str:
    name, value = attribute
    return f"a={name}" if value is None else f"a={name}:{value}"


def get_attribute(attributes: Sequence[Attribute], name: str) -> str | None:
    for key, value in attributes:
        if key == name:
            return value or ""
    return None


def _milliseconds(value: str | None) -> int | None:
    """ptime and its like; values that make no sense count as absent."""
    if value is None:
        return None
    whole = value.strip().partition(".")[0]
    if not (whole.isascii() and whole.isdigit()) or len(whole) > 4 or not int(whole):
        return None
    return int(whole)


def is_short(*groups: Sequence[str]) -> bool:
    """Whether this is worth keeping: what a telephone says, not what fills the memory."""
    n_words = n_characters = 0
    for group in groups:
        n_words += len(group)
        n_characters += len("".join(group))
    return n_words <= _KEPT_WORDS and n_characters <= _KEPT_CHARACTERS


def _codecs(
    formats: tuple[str, ...], rtpmaps: tuple[str, ...], fmtps: tuple[str, ...]
) -> tuple[Codec, ...]:
    maps: dict[int, tuple[str, int, int]] = {}
    for value in rtpmaps:
        found = _RTPMAP.match(value)
        if found is not None:
            maps[int(found[1])] = (found[2], int(found[3]), int(found[4] or 1))
    params: dict[str, str] = {}
    for value in fmtps:
        payload, _, rest = value.partition(" ")
        params[payload] = rest.strip()
    codecs: list[Codec] = []
    for text in formats:
        if not (text.isascii() and text.isdigit()) or len(text) > 3 or int(text) > 127:
            continue
        number = int(text)
        if number in maps:
            name, clock, channels = maps[number]
            codecs.append(Codec(name, number, clock, channels, params.get(text, "")))
        elif number in STATIC:
            known = STATIC[number]
            codecs.append(msgspec.structs.replace(known, fmtp=params.get(text, "")))
    return tuple(codecs)


_codecs_cached = lru_cache(maxsize=512)(_codecs)


def parse(data: bytes) -> SessionDescription:
    """Read a description.  Raises `SdpError`."""
    if len(data) > MAX_OCTETS:
        raise SdpError(f"{len(data)} octets are over {MAX_OCTETS}")
    text = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n").rstrip("\n\0 ")
    if "\r" in text or "\0" in text:
        raise SdpError("stray CR or NUL")
    n_lines = text.count("\n") + 1
    if n_lines > MAX_LINES:
        raise SdpError(f"{n_lines} lines are over {MAX_LINES}")
    text, last = _part(text)
    lines = text.split("\n")
    if lines[0].strip() != "v=0":
        raise SdpError("does not begin with v=0")
    session = SessionDescription("0", 0, "0.0.0.0", times=[])
    current: MediaDescription | None = None
    for line in lines[1:]:
        if not line:
            continue
        kind, equals, value = line[0], line[1:2], line[2:].rstrip(" \t")
        if equals != "=" or not kind.isascii() or not kind.isalpha():
            raise SdpError(f"malformed line {line[:40]!r}")
        if kind == "a":
            where = session.attributes if current is None else current.attributes
            where.append(_attribute(value))
        elif kind == "m":
            if len(session.media) >= MAX_MEDIA:
                raise SdpError(f"more than {MAX_MEDIA} media lines")
            current = _media(value)
            session.media.append(current)
        elif kind == "c":
            found = _CONNECTION.fullmatch(value)
            if found is None:
                raise SdpError(f"malformed c={value[:40]!r}")
            if current is None:
                session.address = found[2]
            else:
                current.address = current.address or found[2]
        elif current is not None:
            current.others.append(f"{kind}={value}")
        elif kind == "o":
            found = _ORIGIN.fullmatch(value)
            if found is None:
                raise SdpError(f"malformed o={value[:40]!r}")
            session.username, session.session_id = found[1], found[2]
            session.version, session.origin_address = int(found[3]), found[5]
        elif kind == "s":
            session.name = value
        elif kind == "t":
            session.times.append(value)
        elif kind in "iuepbzk":
            session.others.append(f"{kind}={value}")
    if current is not None and last:
        current.attributes += _attributes(last)
    session.times = session.times or ["0 0"]
    return session


def _part(text: str) -> tuple[str, str]:
    """A description without the attributes at its end, and these, if they may be kept.

    Telephones of one make end with the same ones in each of their calls; keys are of one call.
    """
    line = text.rfind("\nm=")
    end = text.find("\n", line + 1)
    if line < 0 or end < 0 or len(text) - end > 512 or "crypto" in text:
        return text, ""
    if text.count("\n", end) != text.count("\na=", end):
        return text, ""
    return text[:end], text[end:]


def _attribute(value: str) -> Attribute:
    name, colon, rest = value.partition(":")
    return (name, rest.strip() if colon else None)


@lru_cache(maxsize=256)
def _attributes(text: str) -> tuple[Attribute, ...]:
    return tuple(_attribute(line[2:].rstrip(" \t")) for line in text.split("\n")[1:])


def _media(value: str) -> MediaDescription:
    found = _MEDIA.fullmatch(value)
    if found is None:
        raise SdpError(f"malformed m={value[:40]!r}")
    port, n_ports = int(found[2]), int(found[3] or 1)
    formats = (found[5] or "").split()
    if port > 65535 or not 1 <= n_ports <= 128:
        raise SdpError(f"port {found[2]} is out of range")
    if len(formats) > MAX_FORMATS:
        raise SdpError(f"more than {MAX_FORMATS} formats")
    return MediaDescription(found[1].lower(), port, found[4], formats, None, [], n_ports)
