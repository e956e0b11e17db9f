"""Trunks that answer what they like: octets over sockets."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections import Counter
from collections.abc import Iterator

from gateway.adapters.sip import Sip
from gateway.core.actions import Dial
from gateway.core.endpoints import Condition
from gateway.core.events import LegEnded
from gateway.testing import TestHost, until
from tests.adapters.test_sip_attacks import Stream, box


class Carrier:
    """Answers each request over UDP with the status for its method."""

    def __init__(self, **statuses: int) -> None:
        self.statuses = statuses
        self.came: Counter[str] = Counter()
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.9", 0))
        self._sock.setblocking(False)
        self.place = f"127.0.0.9:{self._sock.getsockname()[1]}"

    def __enter__(self) -> Carrier:
        asyncio.get_running_loop().add_reader(self._sock, self._answer)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()

    def _answer(self) -> None:
        data, source = self._sock.recvfrom(65535)
        text = data.decode()
        method = text.partition(" ")[0]
        self.came[method] += 1
        status = self.statuses.get(method, 0)
        if status:
            kept = re.findall(r"\r\n((?:Via|From|Call-ID|CSeq|Contact): .*)(?=\r\n)", text)
            kept += [line + ";tag=c" for line in re.findall(r"\r\n(To: .*)(?=\r\n)", text)]
            lines = [f"SIP/2.0 {status} Word", *kept, "Expires: 300", "Content-Length: 0", "", ""]
            self._sock.sendto("\r\n".join(lines).encode(), source)


def dial(adapter: Sip, host: TestHost) -> str:
    leg = host.begin_leg("sip/carrier")
    adapter.dial(
        Dial(leg=leg, endpoint="sip/carrier", number="1", calling="2", trace="t", call="c")
    )
    return leg


async def test_one_503_to_a_call_says_so_and_is_no_restart() -> None:
    """A carrier whose lines are all taken was registered with anew after each call."""
    with Carrier(REGISTER=200, OPTIONS=200, INVITE=503) as carrier:
        trunk = {"peer": f"sip:{carrier.place}", "register": True, "user": "gw"}
        trunks = {"carrier": {**trunk, "password": "x", "keepalive_s": 0.2, "no_response_s": 1}}
        async with box(trunks=trunks) as (adapter, host):

            def stands(condition: Condition) -> bool:
                return host.endpoints["sip/carrier"].condition is condition

            await until(lambda: stands(Condition.UP), "the trunk is up")
            for _ in range(2):
                assert (await host.wait_for(LegEnded, leg=dial(adapter, host))).detail == "503 Word"
                assert host.endpoints["sip/carrier"].reason == "503 to a call"
                await until(lambda: stands(Condition.UP), "an OPTIONS was answered")
            assert carrier.came["REGISTER"] == 1
            # One that says nothing at all may have been restarted meanwhile.
            carrier.statuses["INVITE"] = 0
            assert (await host.wait_for(LegEnded, leg=dial(adapter, host))).detail != "503 Word"
            assert host.endpoints["sip/carrier"].reason == "no answer to a call"
            await until(lambda: carrier.came["REGISTER"] == 2, "it registers anew")


@contextlib.contextmanager
def place_for_tcp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.9", 0))
        yield sock


async def test_a_house_full_of_telephones_still_reaches_its_carrier() -> None:
    """Its own connection was one too many, and was then taken for one that stands for ever."""
    with place_for_tcp() as sock:
        port = sock.getsockname()[1]
        peer = f"sip:127.0.0.9:{port};transport=tcp"
        trunks = {"carrier": {"peer": peer, "keepalive_s": 0.2, "no_response_s": 1}}
        async with box(max_connections=1, trunks=trunks) as (adapter, _):
            anna = await Stream(adapter, "anna").open()
            assert (await anna.register()).startswith("SIP/2.0 200")
            came: asyncio.Queue[bytes] = asyncio.Queue()

            async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                came.put_nowait(await reader.readuntil(b"\r\n"))
                writer.close()

            async with await asyncio.start_server(listen, sock=sock):
                for _ in range(2):
                    first = await asyncio.wait_for(came.get(), 15.0)
                    assert first.startswith(b"OPTIONS sip:127.0.0.9"), first
            await anna.write(b"\r\n\r\n")
            assert await asyncio.wait_for(anna._reader.readexactly(2), 5.0) == b"\r\n"
            anna.close()
