"""Export: a copy of SIP for a Homer collector, in HEP version 3 over UDP.

It must never hold a call up: entries wait in a bounded queue, a few times a second they are sent,
and what a socket does not take at once is lost and counted.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.protocols import hep
from gateway.timeline.redact import Redactor
from gateway.timeline.wire import STREAMS, Assembler, WireEntry

_SEND_S: Final = 0.1
_WAITING: Final = 10_000


class HepExport:
    """Driven by `put`, which costs next to nothing; sends on the running loop."""

    def __init__(
        self,
        collector: tuple[str, int],
        *,
        redactor: Callable[[], Redactor],
        capture_id: int = 1,
        node: str = "",
        password: str = "",
    ) -> None:
        """redactor: the present one. Opens nothing until something is to be sent."""
        self.sent = 0
        self.dropped = 0
        self._collector, self._redactor = collector, redactor
        self._capture_id, self._node, self._password = capture_id, node, password
        self._waiting: deque[WireEntry] = deque()
        self._assembler = Assembler()
        self._timer: asyncio.TimerHandle | None = None
        self._socket: socket.socket | None = None

    def put(self, entry: WireEntry) -> None:
        """Send an entry soon, if it is SIP."""
        if entry.kind != "sip":
            return
        if len(self._waiting) >= _WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(entry)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SEND_S, self.flush)

    def flush(self) -> None:
        """Send what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            for entry in self._assembler.take(self._waiting.popleft()):
                self._send(entry)
        if len(self._assembler.begun) > STREAMS:
            self._assembler.begun.clear()

    def _send(self, entry: WireEntry) -> None:
        if entry.ends is None or not isinstance(entry.data, bytes) or not entry.data.strip():
            return
        transport, ours, theirs = entry.ends
        source, destination = (ours, theirs) if entry.outward else (theirs, ours)
        # The Session-ID binds the legs of a call together; without one its Call-ID must do.
        correlation = entry.dialogue
        if entry.ids:
            correlation = next((half for half in entry.ids if half.strip("0")), correlation)
        clean = self._redactor().entry(entry).data
        assert isinstance(clean, bytes)
        try:
            if self._socket is None:
                family = socket.AF_INET6 if ":" in self._collector[0] else socket.AF_INET
                self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._socket.sendto(
                hep.encode(
                    clean,
                    transport=transport,
                    source=source,
                    destination=destination,
                    at=entry.at,
                    capture_id=self._capture_id,
                    correlation=correlation,
                    node=self._node,
                    password=self._password,
                ),
                self._collector,
            )
        except (OSError, ValueError):
            self.dropped += 1
        else:
            self.sent += 1

    def close(self) -> None:
        """Send what waits and close."""
        self.flush()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
