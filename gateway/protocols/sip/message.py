"""SIP messages: octets to `Request` and `Response` and back (RFC 3261 sections 7 and 18.3).

A message is split once into its start line and header values; a value is typed only when it is
asked for, and then kept.  Text is UTF-8 with ``surrogateescape``, so octets that are not UTF-8
come out as they went in.

Line ends are CRLF.  A datagram whose head holds no CR at all (some test tools and alarm panels
write LF only) is accepted, because it leaves no doubt about where lines end; a bare CR or LF
among CRLF lines is refused with 400, because two readers could disagree about it, which is how
headers are smuggled.  On streams only CRLF is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from gateway.errors import PeerError
from gateway.protocols.sip._lines import cut
from gateway.protocols.sip._lines import encode as encode
from gateway.protocols.sip.headers import (
    CSeq,
    NameAddr,
    Via,
    parse_cseq,
    parse_name_addr,
    parse_name_addrs,
    parse_number,
    parse_via,
    split_list,
    tokens,
)
from gateway.protocols.sip.names import SAME, reason_phrase
from gateway.protocols.sip.uri import CACHEABLE, Uri, parse_uri

_REQUEST_LINE = re.compile(r"([A-Za-z0-9.!%*_+`'~-]{1,64}) +([^ ]+) +(SIP/\d+\.\d+) *", re.I)
_STATUS_LINE = re.compile(r"SIP/2\.0 ([1-6]\d\d)(?: (.*))?", re.IGNORECASE)
# Not the blanks before it too: in a long row of them each would be a start of its own.
_FOLD = re.compile(rb"\r\n[ \t]+")

SINGLE = (
    "call-id", "cseq", "from", "to", "max-forwards", "content-length", "content-type"
)  # fmt: skip
"""Header fields of which two make a message ambiguous (RFC 4475 section 3.3.8)."""


class Limits(msgspec.Struct, frozen=True):
    """What a message may weigh."""

    head: int = 65536
    """Octets of start line and headers."""
    body: int = 65536
    """Octets of the body."""
    lines: int = 512
    """Header lines."""


class Message:
    """What requests and responses have in common; use `Request` and `Response`."""

    __slots__ = ("_cseq", "_from", "_to", "_via", "body", "headers")

    def __init__(self, headers: dict[str, list[str]], body: bytes) -> None:
        self.headers = headers
        """Key (lower case, long form) to the unfolded values of its lines, in order."""
        self.body = body
        self._via: Via | None = None
        self._from: NameAddr | None = None
        self._to: NameAddr | None = None
        self._cseq: CSeq | None = None

    def get(self, key: str) -> str | None:
        """First value of a header field; ``key`` is lower case."""
        values = self.headers.get(key)
        return values[0] if values else None

    def all(self, key: str) -> Sequence[str]:
        """The values of all lines of a header field."""
        return self.headers.get(key, ())

    def values(self, key: str) -> list[str]:
        """The elements of a header field that is a comma list."""
        return [piece.strip() for line in self.all(key) for piece in split_list(line)]

    def tokens(self, key: str) -> list[str]:
        """The elements of a list of tokens (Require, Supported, Allow)."""
        lines = self.headers.get(key)
        return tokens(lines) if lines else []

    def number(self, key: str, limit: int = 2**32 - 1) -> int | None:
        """A header field that is a number (Expires, Max-Forwards); None if absent.

        Raises `PeerError` (400) if it is something else.
        """
        value = self.get(key)
        return None if value is None else parse_number(value, limit)

    def addresses(self, key: str) -> list[NameAddr]:
        """A header field that is a list of addresses (Contact, Route)."""
        lines = self.headers.get(key)
        return parse_name_addrs(lines) if lines else []

    def _need(self, key: str) -> str:
        values = self.headers.get(key)
        if not values:
            raise PeerError(f"no {key} header field", status=400)
        return values[0]

    @property
    def call_id(self) -> str:
        return self._need("call-id")

    @property
    def cseq(self) -> CSeq:
        if self._cseq is None:
            self._cseq = parse_cseq(self._need("cseq"))
        return self._cseq

    @property
    def from_(self) -> NameAddr:
        if self._from is None:
            self._from = parse_name_addr(self._need("from"))
        return self._from

    @property
    def to(self) -> NameAddr:
        if self._to is None:
            self._to = parse_name_addr(self._need("to"))
        return self._to

    @property
    def via(self) -> Via:
        """The topmost Via value."""
        if self._via is None:
            line = self._need("via")
            self._via = parse_via(split_list(line, 1)[0] if "," in line else line)
        return self._via

    @property
    def content_type(self) -> str:
        """Media type in lower case without parameters; empty if there is no body."""
        value = self.get("content-type")
        return value.partition(";")[0].strip().lower() if value else ""

    @property
    def sdp(self) -> bytes | None:
        """The session description: the body, or that part of a multipart body (RFC 5621)."""
        if not self.body:
            return None
        kind = self.content_type
        if kind == "application/sdp":
            return self.body
        if kind.startswith("multipart/"):
            return multipart_part(self.get("content-type") or "", self.body, "application/sdp")
        return None


class Request(Message):
    __slots__ = ("_uri", "method", "target", "version")

    def __init__(
        self,
        method: str,
        target: str,
        headers: dict[str, list[str]],
        body: bytes = b"",
        version: str = "SIP/2.0",
    ) -> None:
        super().__init__(headers, body)
        self.method = method
        self.target = target
        """Request-URI as received."""
        self.version = version
        self._uri: Uri | None = None

    @property
    def uri(self) -> Uri:
        """Request-URI.  Raises `PeerError` (400)."""
        if self._uri is None:
            self._uri = parse_uri(self.target)
        return self._uri

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.target} {self.get('call-id')}>"


class Response(Message):
    __slots__ = ("reason", "status", "synthetic")

    def __init__(
        self,
        status: int,
        reason: str,
        headers: dict[str, list[str]],
        body: bytes = b"",
        *,
        synthetic: bool = False,
    ) -> None:
        super().__init__(headers, body)
        self.status = status
        self.reason = reason
        self.synthetic = synthetic
        """Made here: 408 for a timeout, 503 for a transport error (RFC 3261 section 8.1.3.1)."""

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.get('cseq')} {self.get('call-id')}>"


class BadMessage(PeerError):
    """A message that cannot be used.

    ``request`` holds what could be read of it when that suffices to answer ``status``.
    """

    def __init__(self, what: str, status: int = 400, request: Request | None = None) -> None:
        super().__init__(what, status=status)
        self.request = request


def multipart_part(content_type: str, body: bytes, wanted: str) -> bytes | None:
    """The first part of type ``wanted`` in a multipart body (RFC 2046 section 5.1), or None."""
    found = re.search(r'boundary\s*=\s*(?:"([^"]{1,70})"|([^\s;"]{1,70}))', content_type, re.I)
    if found is None:
        return None
    boundary = b"--" + (found[1] or found[2]).encode("utf-8", "surrogateescape")
    for part in (b"\r\n" + body).split(b"\r\n" + boundary)[1:65]:
        if part.startswith(b"--"):
            return None
        head, blank, content = part.partition(b"\r\n\r\n")
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() in (b"content-type", b"c"):
                kind = value.partition(b";")[0].strip().lower()
                if blank and kind == wanted.encode():
                    return content
    return None


def _split_head(head: bytes, limits: Limits) -> tuple[str, dict[str, list[str]], str | None]:
    """Start line, headers, and what is wrong with the header lines (None: nothing)."""
    if b"\r\n " in head or b"\r\n\t" in head:
        head = _FOLD.sub(b" ", head)
    start, headers, fault, repeated = cut(head, limits.lines)
    if repeated:
        for key in SINGLE:
            if len(headers.get(key, ())) > 1:
                fault = f"more than one {key} header field"
    return start, headers, fault


def _start_line(start: str) -> tuple[str, str, str] | tuple[int, str] | None:
    """Method, Request-URI and version, or status and reason; None if it is neither."""
    found = _REQUEST_LINE.fullmatch(start)
    if found is not None:
        return SAME.get(found[1], found[1]), found[2], found[3].upper()
    found = _STATUS_LINE.fullmatch(start)
    return (int(found[1]), found[2] or "") if found is not None else None


_start_line_cached = lru_cache(maxsize=1024)(_start_line)


def _parse_head(head: bytes, limits: Limits) -> tuple[Request | Response, str | None]:
    """Parse everything before the empty line.  Raises `BadMessage` if it is not SIP at all."""
    start, headers, fault = _split_head(head, limits)
    found = _start_line_cached(start) if len(start) <= CACHEABLE else _start_line(start)
    if found is not None:
        if len(found) == 2:
            if fault:
                raise BadMessage(fault)
            return Response(found[0], found[1], headers), None
        request = Request(found[0], found[1], headers, b"", found[2])
        if fault:
            raise BadMessage(fault, 400, request)
        return request, None
    # A request line with the wrong number of words still tells whom to answer.
    words = start.split(" ")
    if len(words) > 2 and words[-1].upper().startswith("SIP/") and words[0].isascii():
        raise BadMessage("malformed request line", 400, Request(words[0], "", headers))
    raise BadMessage(f"not a SIP message: {start[:60]!r}")


def _length(message: Message) -> int | None:
    """Content-Length; None if absent, -1 if it is not a number."""
    value = message.get("content-length")
    if value is None:
        return None
    return int(value) if len(value) <= 9 and value.isascii() and value.isdigit() else -1


_DEFAULT_LIMITS = Limits()


def parse_datagram(data: bytes, limits: Limits = _DEFAULT_LIMITS) -> Request | Response:
    """Parse one datagram.  Raises `BadMessage`.

    Without Content-Length the body is the rest of the datagram (RFC 3261 section 18.3); octets
    beyond Content-Length are ignored.
    """
    end = data.find(b"\r\n\r\n")
    bare = data.find(b"\n\n", 0, end if end >= 0 else None)
    if bare >= 0 and b"\r" not in data[:bare]:
        head, body = data[:bare].replace(b"\n", b"\r\n"), data[bare + 2 :]
    elif end < 0:
        # Without an empty line the head may still be whole (a datagram cut at its last CRLF).
        head, body = data.removesuffix(b"\r\n"), b""
    else:
        head, body = data[:end], data[end + 4 :]
    if len(head) > limits.head:
        raise BadMessage(f"header of {len(head)} octets is over {limits.head}", 513)
    message, _ = _parse_head(head.lstrip(b"\r\n"), limits)
    request = message if isinstance(message, Request) else None
    length = _length(message)
    if length is not None:
        if length < 0 or length > len(body):
            raise BadMessage("Content-Length does not fit the datagram", 400, request)
        body = body[:length]
    if len(body) > limits.body:
        raise BadMessage(f"body of {len(body)} octets is over {limits.body}", 513, request)
    message.body = body
    return message


class StreamFramer:
    """Cuts an octet stream into messages (RFC 3261 section 18.3, RFC 5626 section 3.5.1).

    Driven by `feed`; after a `BadMessage` the framing is lost and the stream must be closed.
    """

    def __init__(self, limits: Limits = _DEFAULT_LIMITS) -> None:
        self.limits = limits
        self.pings = 0
        """CRLF CRLF keep-alives seen; the owner answers each with CRLF and sets this to 0."""
        self._buffer = bytearray()
        self._scanned = 0
        self._pending: Request | Response | None = None
        self._needed = 0

    @property
    def incomplete(self) -> bool:
        """Part of a message is waiting for the rest."""
        if self._pending is not None or len(self._buffer) > 3:
            return True
        return bool(self._buffer.strip(b"\r\n"))

    def feed(self, data: bytes) -> Iterable[Request | Response]:
        """Add octets; yields each message that is complete.  Raises `BadMessage`."""
        buffer = self._buffer
        buffer += data
        while True:
            message = self._pending
            if message is None:
                while buffer.startswith(b"\r\n"):
                    if buffer.startswith(b"\r\n\r\n"):
                        self.pings += 1
                        del buffer[:4]
                    elif len(buffer) == 2 or buffer == b"\r\n\r":
                        return
                    else:
                        del buffer[:2]
                    self._scanned = 0
                if not buffer:
                    return
                end = buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
                if end < 0:
                    self._scanned = len(buffer)
                    if len(buffer) > self.limits.head:
                        raise BadMessage(f"header is over {self.limits.head} octets", 513)
                    if not _could_be_sip(buffer):
                        raise BadMessage("not SIP")
                    return
                if end > self.limits.head:
                    raise BadMessage(f"header is over {self.limits.head} octets", 513)
                head = bytes(buffer[:end])
                del buffer[: end + 4]
                self._scanned = 0
                message, _ = _parse_head(head, self.limits)
                request = message if isinstance(message, Request) else None
                # RFC 3261 section 20.14 demands Content-Length here; its absence is read as 0,
                # and a body that follows nevertheless breaks the framing at once.
                length = _length(message) or 0
                if length < 0:
                    raise BadMessage("Content-Length is not a number", 400, request)
                if length > self.limits.body:
                    raise BadMessage(f"body is over {self.limits.body} octets", 513, request)
                self._pending, self._needed = message, length
            if len(buffer) < self._needed:
                return
            message.body = bytes(buffer[: self._needed])
            del buffer[: self._needed]
            self._pending = None
            yield message


def _could_be_sip(buffer: bytearray) -> bool:
    """Refuse early what cannot become a start line, such as TLS or HTTP on the wrong port."""
    line, end, _ = bytes(buffer[:8192]).partition(b"\r\n")
    if b"\0" in line or b"\n" in line:
        return False
    return not end or b"SIP/" in line.upper()


Header = tuple[str, str]
"""Name as it is to be written, and value."""


def status_line(status: int, reason: str | None = None) -> str:
    return f"SIP/2.0 {status} {reason_phrase(status) if reason is None else reason}"


def response_headers(request: Message, to_tag: str = "") -> list[Header]:
    """The five header fields each response copies (RFC 3261 section 8.2.6.2)."""
    headers = request.headers
    copied: list[Header] = [("Via", value) for value in headers.get("via", ())]
    for name, key in (("From", "from"), ("To", "to"), ("Call-ID", "call-id"), ("CSeq", "cseq")):
        values = headers.get(key)
        if values:
            value = values[0]
            if to_tag and key == "to" and not _has_tag(request):
                value = f"{value};tag={to_tag}"
            copied.append((name, value))
    return copied


def _has_tag(message: Message) -> bool:
    try:
        return bool(message.to.tag)
    except PeerError:
        return True
