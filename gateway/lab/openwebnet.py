"""The lab's OpenWebNet gateway: sessions, both log-ins, a door station and its lock."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
import secrets
from collections import deque
from typing import Final, Literal

from gateway.errors import PeerError
from gateway.protocols.intercom.openwebnet import (
    ACK,
    COMMANDS,
    EVENTS,
    NACK,
    open_password,
    proofs,
    read_proof,
    to_digits,
)

LogIn = Literal["none", "open", "sha1", "sha256"]
_LOCK: Final = re.compile(r"\*8\*(19|20)\*(\d+)##")
_REQUEST: Final = re.compile(r"\*#\d+\*.*##")
_LONGEST: Final = 1024
_OVER: Final = (
    OSError,
    asyncio.IncompleteReadError,
    asyncio.LimitOverrunError,
    asyncio.CancelledError,
)


class OpenWebNetGateway:
    """Listens on a free port of this machine; an asynchronous context manager."""

    def __init__(self, log_in: LogIn = "none", password: str = "") -> None:
        self.port = 0
        self.commands: deque[str] = deque(maxlen=1000)
        """Frames of command sessions, oldest first."""
        self.locks: dict[str, bool] = {}
        self.refused = 0
        self._log_in, self._password = log_in, password
        self._server: asyncio.Server | None = None
        self._monitors: set[asyncio.StreamWriter] = set()
        self._sessions: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> OpenWebNetGateway:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=_LONGEST
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for session in self._sessions:
            session.cancel()
        if self._sessions:
            await asyncio.wait(self._sessions)

    @property
    def n_monitors(self) -> int:
        """Event sessions that are open."""
        return len(self._monitors)

    def report(self, frame: str) -> None:
        """Something happened on the bus: tell every event session."""
        for writer in self._monitors:
            writer.write(frame.encode())

    def ring(self, where: str) -> None:
        """Somebody presses the button of a door station."""
        self.report(f"*8*1#1#4#{where}*10##")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._sessions.add(task)
        try:
            with contextlib.suppress(
                OSError,
                asyncio.IncompleteReadError,
                asyncio.LimitOverrunError,
                asyncio.CancelledError,
            ):
                await self._session(reader, writer)
        finally:
            self._monitors.discard(writer)
            self._sessions.discard(task)
            writer.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def read() -> str:
            return (await reader.readuntil(b"##")).decode("ascii", "replace")

        writer.write(ACK.encode())
        kind = await read()
        if kind not in (EVENTS, COMMANDS, "*99*9##"):
            writer.write(NACK.encode())
            return
        try:
            admitted = await self._admit(read, writer)
        except PeerError:
            admitted = False
        if not admitted:
            self.refused += 1
            writer.write(NACK.encode())
            return
        if kind == EVENTS:
            self._monitors.add(writer)
        while True:
            frame = await read()
            self.commands.append(frame)
            writer.write(self._obey(frame).encode())

    async def _admit(self, read: object, writer: asyncio.StreamWriter) -> bool:
        assert callable(read)
        match self._log_in:
            case "none":
                writer.write(ACK.encode())
                return True
            case "open":
                nonce = str(secrets.randbelow(10**9)).zfill(9)
                writer.write(f"*#{nonce}##".encode())
                expected = f"*#{open_password(int(self._password), nonce)}##"
                admitted = hmac.compare_digest(str(await read()), expected)
                if admitted:
                    writer.write(ACK.encode())
                return admitted
        writer.write(b"*98*1##" if self._log_in == "sha1" else b"*98*2##")
        if await read() != ACK:
            return False
        ra = secrets.token_hex(20 if self._log_in == "sha1" else 32)
        writer.write(f"*#{to_digits(ra)}##".encode())
        found = read_proof(str(await read()))
        if found is None:
            return False
        rb, proof = found
        theirs, ours = proofs(self._log_in, self._password, ra, rb)
        if not hmac.compare_digest(proof, theirs):
            return False
        writer.write(f"*#{to_digits(ours)}##".encode())
        return bool(await read() == ACK)

    def _obey(self, frame: str) -> str:
        if (found := _LOCK.fullmatch(frame)) is not None:
            self.locks[found[2]] = found[1] == "19"
            self.report(frame)
            return ACK
        return ACK if _REQUEST.fullmatch(frame) else NACK
