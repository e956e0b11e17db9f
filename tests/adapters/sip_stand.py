"""Requests, configurations, and a peer of a few lines, for the tests of the SIP adapter."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

from gateway.adapters.sip import Sip
from gateway.adapters.sip.config import SipSection
from gateway.config import convert
from gateway.core.endpoints import Condition
from gateway.protocols.sip.message import Request, Response, parse_datagram
from gateway.protocols.sip.transaction import Flow
from gateway.testing import TestHost, until

LOCAL = ("127.0.0.1", 5060)


def section(**fields: Any) -> SipSection:
    return convert(SipSection, {"listen": ["udp:127.0.0.1:0", "tcp:127.0.0.1:0"], **fields})


def request(
    method: str = "INVITE", uri: str = "sip:202@box", *lines: str, user: str = "anna"
) -> Request:
    text = "\r\n".join(
        [
            f"{method} {uri} SIP/2.0",
            "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx",
            f'From: "Anna" <sip:{user}@box>;tag=1',
            f"To: <sip:{'box' if method != 'REGISTER' else user + '@box'}>",
            "Call-ID: c1",
            f"CSeq: 1 {method}",
            *lines,
            "",
            "",
        ]
    )
    found = parse_datagram(text.encode())
    assert isinstance(found, Request)
    return found


def flow(host: str) -> Flow:
    return Flow("udp", host, 5060, 0, LOCAL)


class Peer:
    """A socket that says what the test wants."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((host, 0))
        self.sock.setblocking(False)
        self.host, self.port = self.sock.getsockname()

    async def receive(self, within_s: float = 5.0) -> Request | Response:
        loop = asyncio.get_running_loop()
        data = await asyncio.wait_for(loop.sock_recv(self.sock, 65535), within_s)
        return parse_datagram(data)

    async def expect(self, status: int) -> Response:
        while True:
            found = await self.receive()
            if isinstance(found, Response) and found.status >= 200:
                assert found.status == status, found
                return found

    def send(self, adapter: Sip, text: str) -> None:
        self.sock.sendto(text.encode(), ("127.0.0.1", adapter.ports["udp"]))

    def invite(self, call: str, *, lines: str = "", body: str = "", method: str = "INVITE") -> str:
        content = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        return (
            f"{method} sip:201@box SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {self.host}:{self.port};branch=z9hG4bK{call}\r\n"
            f"From: <sip:4711@far>;tag=1\r\nTo: <sip:201@box>\r\nCall-ID: {call}\r\n"
            f"CSeq: 1 {method}\r\nContact: <sip:{self.host}:{self.port}>\r\n{lines}"
            f"{content}\r\n{body}"
        )

    def close(self) -> None:
        self.sock.close()


SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 40000 RTP/AVP {codec}\r\n"
)


async def up(host: TestHost) -> None:
    """Wait until the trunk counts as up."""
    await until(lambda: host.endpoints["sip/far"].condition is Condition.UP, "the trunk is up")


@contextlib.asynccontextmanager
async def trunk(**fields: Any) -> AsyncIterator[tuple[Sip, TestHost, Peer]]:
    """The adapter with a trunk to a `Peer`."""
    peer = Peer()
    host = TestHost("sip")
    trunks = {"far": {"peer": f"sip:127.0.0.1:{peer.port}", "keepalive_s": 0}}
    config = {"listen": ["udp:127.0.0.1:0", "tcp:127.0.0.1:0"], "trunks": trunks, **fields}
    adapter = host.make(Sip, config)
    try:
        async with host.running():
            await up(host)
            yield adapter, host, peer  # type: ignore[misc]
    finally:
        peer.close()
