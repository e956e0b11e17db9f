"""RFC 4475 and RFC 5118 against a running gateway, over UDP and TCP, answering and refusing.

Each message comes from an address of its own: what is repeated for one cannot be taken for the
answer to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from typing import Any

import pytest

from tests.interop.peers import Box, box
from tests.protocols.sip.corpora import expected, octets
from tests.protocols.sip.test_torture import judge

pytestmark = pytest.mark.interop

HOUSE = """
keepalive_s = 0
requests_per_s = 10000
[adapters.sip.phones.anna]
password = "a1"
"""
TRUNK = """
[adapters.sip.trunks.all]
peer = "sip:127.0.3.254"
allow = ["127.0.3.0/24"]
keepalive_s = 0
calls = 1000
"""
ROUTE = """
[[routes]]
name = "everybody"
conference = "room"
"""
WAIT_S = 1.0
# One lacks the empty line that ends its header, the other has less body than it says: a stream has
# to wait for the rest.
ENDLESS = ("baddn", "clerr")


async def over_udp(gateway: Box, address: str, data: bytes, ports: set[int]) -> list[int]:
    """Status codes that come to an address within a second."""
    loop, codes = asyncio.get_running_loop(), []
    with contextlib.ExitStack() as stack:
        sockets = {}
        for port in sorted(ports | {5060}):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.setblocking(False)
            sock.bind((address, port))
            sockets[port] = sock
        sockets[5060].sendto(data, ("127.0.0.1", gateway.port))

        async def listen(sock: socket.socket) -> None:
            while True:
                reply = await loop.sock_recv(sock, 65535)
                codes.append(code_of(reply))

        listening = [loop.create_task(listen(sock)) for sock in sockets.values()]
        await asyncio.sleep(WAIT_S)
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
    return codes


def code_of(reply: bytes) -> int:
    found = re.match(rb"SIP/2\.0 (\d{3}) ", reply)
    assert found, f"not a response: {reply[:80]!r}"
    return int(found[1])


async def over_tcp(gateway: Box, address: str, data: bytes) -> tuple[list[int], bool]:
    """Status codes that come over a connection within a second, and whether it was closed."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", gateway.sip.ports["tcp"], local_addr=(address, 0)
    )
    writer.write(data)
    heard, closed = b"", False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(WAIT_S):
            while chunk := await reader.read(65535):
                heard += chunk
            closed = True
    writer.close()
    return [int(code) for code in re.findall(rb"(?m)^SIP/2\.0 (\d{3}) ", heard)], closed


@pytest.mark.parametrize("answers", [True, False], ids=["answering", "refusing"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("corpus", ["rfc4475", "rfc5118"])
async def test_torture(corpus: str, transport: str, answers: bool) -> None:
    cases = expected(corpus)
    if not cases:
        pytest.skip("corpora are not here")
    async with box(HOUSE + (TRUNK if answers else ""), ROUTE) as gateway:

        async def play(number: int, name: str, case: dict[str, Any]) -> str:
            address, data = f"127.0.3.{number}", octets(corpus, name)
            closed = False
            if transport == "udp":
                codes = await over_udp(gateway, address, data, {case.get("reply_port") or 5060})
            else:
                codes, closed = await over_tcp(gateway, address, data)
            if transport == "tcp" and name in ENDLESS:
                return "" if not codes and not closed else f"{name}: {codes}"
            if transport == "tcp" and name == "dblreq":
                # Two messages in a datagram are one too many; in a stream each is one.
                codes = codes[:1]
            try:
                judge(name, case, codes, closed)
            except AssertionError as error:
                return f"{name}: {codes} {'closed' if closed else ''} {error}"
            return ""

        wrong = await asyncio.gather(
            *(play(n, name, case) for n, (name, case) in enumerate(sorted(cases.items()), 1))
        )
        assert not [text for text in wrong if text]
        assert not gateway.counters["faults"]
        codes = await over_udp(gateway, "127.0.3.99", PROBE, set())
        assert codes == [200], "it lives"


PROBE = (
    b"OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.99:5060;branch=z9hG4bKlive\r\n"
    b"From: <sip:p@127.0.3.99>;tag=1\r\nTo: <sip:127.0.0.1>\r\nCall-ID: live\r\n"
    b"CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
)
