"""The least of a SIP exchange: it calls and answers, and says where its audio goes.

Signalling only; not the gateway's own code, and not a model of how to do it.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable


def sdp(ip: str, port: int, codec: str, payload_type: int) -> str:
    """An offer or answer of one codec and of digits as events, 20 ms packets (RFC 4566)."""
    return (
        f"v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n"
        f"m=audio {port} RTP/AVP {payload_type} 101\r\na=rtpmap:{payload_type} {codec}/8000\r\n"
        "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n"
    )


def media_of(text: str) -> tuple[str, int]:
    """Address and port of the audio in a description."""
    ip, port = re.search(r"c=IN IP4 (\S+)", text), re.search(r"m=audio (\d+)", text)
    if ip is None or port is None:
        raise ValueError(f"no audio in {text!r}")
    return ip[1], int(port[1])


class Trunk(asyncio.DatagramProtocol):
    """An exchange at `ip`; `answer` gives the description for the number that was called."""

    def __init__(self, ip: str, gateway: tuple[str, int], answer: Callable[[str], str]) -> None:
        self.ip, self.gateway, self._answer = ip, gateway, answer
        self.port = 0
        self.offers: dict[str, tuple[str, int]] = {}
        """Where the gateway wants our audio, by the number that it called."""
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._dialogs: list[tuple[str, str, str, str]] = []
        self._transport: asyncio.DatagramTransport | None = None

    async def open(self, port: int = 0) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(self.ip, port))
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def close(self) -> None:
        """Listen no longer."""
        if self._transport is not None:
            self._transport.close()

    def _send(self, text: str) -> None:
        assert self._transport is not None
        self._transport.sendto(text.encode(), self.gateway)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """One message."""
        text = data.decode(errors="replace")
        head, _, body = text.partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        parts = (each.partition(":") for each in lines)
        fields = {name.strip().lower(): value.strip() for name, _, value in parts}
        if first.startswith("SIP/2.0"):
            status = int(first.split()[1])
            future = self._waiting.get(fields["call-id"])
            if status < 200 or "INVITE" not in fields["cseq"]:
                return
            if future is not None and not future.done():
                future.set_result(text)
            return
        method, uri = first.split()[:2]
        if method == "ACK":
            return
        vias = "".join(f"{each}\r\n" for each in lines if each.lower().startswith("via"))
        to = fields["to"] if "tag=" in fields["to"] else f"{fields['to']};tag=q"
        answer = ""
        if method == "INVITE":
            number = re.sub(r"sips?:([^@;]*)@.*", r"\1", uri)
            self.offers[number] = media_of(body)
            answer = self._answer(number)
        kind = "Content-Type: application/sdp\r\n" if answer else ""
        self._send(
            f"SIP/2.0 200 OK\r\n{vias}From: {fields['from']}\r\nTo: {to}\r\n"
            f"Call-ID: {fields['call-id']}\r\nCSeq: {fields['cseq']}\r\n"
            f"Contact: <sip:{self.ip}:{self.port}>\r\n{kind}Content-Length: {len(answer)}\r\n\r\n"
            f"{answer}"
        )

    def _request(self, method: str, uri: str, to: str, call: str, body: str = "",
                 kind: str = "application/sdp") -> None:  # fmt: skip
        kind = f"Content-Type: {kind}\r\n" if body else ""
        number = {"INFO": 2, "BYE": 3}.get(method, 1)
        self._send(
            f"{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {self.ip}:{self.port};branch="
            f"z9hG4bK{call}{method}\r\nMax-Forwards: 70\r\nFrom: <sip:q@{self.ip}>;tag={call}\r\n"
            f"To: {to}\r\nCall-ID: {call}\r\nCSeq: {number} {method}\r\n"
            f"Contact: <sip:{self.ip}:{self.port}>\r\n{kind}"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        )

    async def call(self, number: str, offer: str) -> tuple[str, int]:
        """Call a number and wait for its answer; where our audio goes. AssertionError: refused."""
        call, uri = uuid.uuid4().hex, f"sip:{number}@{self.gateway[0]}:{self.gateway[1]}"
        future = asyncio.get_running_loop().create_future()
        self._waiting[call] = future
        for _ in range(8):
            self._request("INVITE", uri, f"<{uri}>", call, offer)
            try:
                text = await asyncio.wait_for(asyncio.shield(future), 2.0)
                break
            except TimeoutError:
                continue
        else:
            raise AssertionError(f"{uri}: no answer")
        assert text.startswith("SIP/2.0 200"), f"{uri}: {text.splitlines()[0]}"
        contact = re.search(r"(?im)^Contact:\s*<([^>]*)>", text)
        to = re.search(r"(?im)^To:\s*(.*?)\r?$", text)
        assert contact is not None
        assert to is not None
        self._request("ACK", contact[1], to[1], call)
        self._dialogs.append((contact[1], to[1], call, number))
        return media_of(text)

    def press(self, digits: str) -> None:
        """Press keys in the last call, by INFO."""
        contact, to, call, _ = self._dialogs[-1]
        for digit in digits:
            body = f"Signal={digit}\r\nDuration=100\r\n"
            self._request("INFO", contact, to, call, body, "application/dtmf-relay")

    def hang_up(self) -> None:
        """End all calls."""
        for contact, to, call, _ in self._dialogs:
            self._request("BYE", contact, to, call)
        self._dialogs.clear()
