"""HTTP over a unix socket: as much of a client as the control interface needs (RFC 9112).

The standard library's would load its mail parser and TLS first, which takes as long as all the rest
of a command; and `socket`, what makes enumerations of all the system's numbers, of which `_socket`
has the few that are needed.
"""

from __future__ import annotations

import _socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_HEAD_OCTETS: Final = 64 << 10
_CHUNK_OCTETS: Final = 1 << 24


_UNRESERVED: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
)


def quoted(text: str) -> str:
    """Text as a part of a path or query may hold it (RFC 3986 section 2.1)."""
    octets = text.encode("utf-8", "replace")
    return "".join(chr(octet) if octet in _UNRESERVED else f"%{octet:02X}" for octet in octets)


class HttpError(OSError):
    """What came is no HTTP, or ended too soon."""


class Exchange:
    """One request and its response, over one connection. `path`: of the socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        self._buffer = b""
        self._length: int | None = None
        self._chunked = False
        self.status = 0
        """Of the response."""
        try:
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def ask(
        self, method: str, target: str, body: bytes | None = None, *, timeout_s: float | None
    ) -> None:
        """Send a request and read the response's head. timeout_s: for this and each later part.

        Raises `OSError`.
        """
        self._socket.settimeout(timeout_s)
        head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._socket.sendall(f"{head}\r\n".encode("ascii") + (body or b""))
        while True:
            self._read_head()
            if self.status >= 200:
                return

    def parts(self) -> Iterator[bytes]:
        """The body as it comes, in pieces of any size. Raises `OSError`."""
        if self._chunked:
            yield from self._chunks()
        elif self._length is not None:
            yield from self._octets(self._length)
        else:
            while self._buffer or self._more():
                found, self._buffer = self._buffer, b""
                yield found

    def lines(self) -> Iterator[bytes]:
        """The body's lines as they come, without what ends them. Raises `OSError`."""
        rest = b""
        for part in self.parts():
            *whole, rest = (rest + part).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def body(self) -> bytes:
        """All of the body. Raises `OSError`."""
        return b"".join(self.parts())

    def _read_head(self) -> None:
        first, *fields = self._line_of_head(), *iter(self._line_of_head, b"")
        version, _, rest = first.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise HttpError("what answers speaks no HTTP")
        self.status = int(rest[:3])
        for field in fields:
            name, _, value = field.partition(b":")
            name, value = name.strip().lower(), value.strip()
            if name == b"transfer-encoding":
                self._chunked = value.lower() == b"chunked"
            elif name == b"content-length" and value.isdigit():
                self._length = int(value)

    def _line_of_head(self) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > _HEAD_OCTETS or not self._more():
                raise HttpError("what answers speaks no HTTP, or ended too soon")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def _more(self) -> bool:
        """Wait for octets; False at the end of the connection."""
        found = self._socket.recv(1 << 16)
        self._buffer += found
        return bool(found)

    def _octets(self, n: int) -> Iterator[bytes]:
        while n:
            if not self._buffer and not self._more():
                raise HttpError("it ended too soon")
            found, self._buffer = self._buffer[:n], self._buffer[n:]
            n -= len(found)
            yield found

    def _chunks(self) -> Iterator[bytes]:
        while True:
            size = self._line_of_head().partition(b";")[0].strip()
            try:
                n = int(size, 16)
            except ValueError:
                n = -1
            if not 0 <= n <= _CHUNK_OCTETS:
                raise HttpError(f"{size[:20]!r} is no size of a chunk")
            yield from self._octets(n)
            if not n:
                # What may follow the last chunk says nothing to us.
                while self._line_of_head():
                    pass
                return
            if self._line_of_head():
                raise HttpError("a chunk is longer than it says")
