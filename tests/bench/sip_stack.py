"""What the SIP stack alone takes for a bridged call: no sockets, adapter, journal or threads.

Usage: python -m tests.bench.sip_stack [--calls 100] [--rounds 40]

A `SipAgent` stands between a caller and a called side that are written out below: INVITE, 180,
200, ACK, BYE on both sides with offers and answers, 200 calls a second on a clock that is turned
by hand, 100 calls standing at once. Prints microseconds of CPU for each call, the other two sides
included. The least of many short rounds can be compared on a busy machine too; caches are warm
here, in a daemon that wakes for each datagram the same work takes two to three times as long.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from typing import NamedTuple

from gateway.protocols import sdp
from gateway.protocols.sip import events
from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.core import SipConfig
from gateway.protocols.sip.gate import admit_all
from gateway.protocols.sip.message import Header
from gateway.protocols.sip.transaction import Flow
from tests.bench.machine import machine

CALLER, BOX, CALLED = ("127.0.2.10", 5061), ("127.0.2.20", 5060), ("127.0.2.30", 5062)
PER_S, STANDING = 200, 100
CODECS = [sdp.PCMU, sdp.TELEPHONE_EVENT]
ALICE = '"Alice Example" <sip:+4930123456@127.0.2.20>'
SESSION: list[Header] = [("Session-ID", f"ab30317f1a784dc48ff824d0d3715d86;remote={'0' * 32}")]
ALLOW = b"Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, REFER, NOTIFY\r\nUser-Agent: SIPp"
CONTACT = b"Contact: <sip:bob@127.0.2.30:5062>"


def _described(name: str, host: str, formats: str) -> bytes:
    lines = (
        "v=0", f"o={name} 1 1 IN IP4 {host}", "s=-", f"c=IN IP4 {host}", "t=0 0",
        f"m=audio 6000 RTP/AVP {formats}", "a=rtpmap:101 telephone-event/8000",
        "a=fmtp:101 0-15", "a=ptime:20", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode()


OFFER = _described("alice", CALLER[0], "0 8 101")
REPLY = _described("bob", CALLED[0], "0 101")


def _request(method: str, number: int, branch: int, seq: int, tag: str) -> bytes:
    """A request of the caller's; with `tag` inside the dialog."""
    lines = [
        f"{method} sip:{'gateway' if tag else '1000'}@127.0.2.20:5060 SIP/2.0",
        f"Via: SIP/2.0/UDP 127.0.2.10:5061;branch=z9hG4bK-{number}-{branch};rport",
        "Max-Forwards: 70",
        f'From: "Alice Example" <sip:alice@127.0.2.10:5061>;tag=77a{number}',
        f"To: <sip:1000@127.0.2.20:5060>{f';tag={tag}' if tag else ''}",
        f"Call-ID: {number}-77@127.0.2.10",
        f"CSeq: {seq} {method}",
    ]
    body = b""
    if method == "INVITE":
        body = OFFER
        lines += [
            "Contact: <sip:alice@127.0.2.10:5061>", ALLOW.decode(),
            "Supported: replaces, norefersub", "Content-Type: application/sdp",
            'P-Asserted-Identity: "Alice Example" <sip:+4930123456@example.com>',
        ]  # fmt: skip
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def _line(message: bytes, name: bytes) -> bytes:
    start = message.index(b"\r\n" + name) + 2
    return message[start : message.index(b"\r\n", start)]


def _response(request: bytes, status: bytes, tag: bytes, *more: bytes, body: bytes = b"") -> bytes:
    copied = [_line(request, name) for name in (b"Via:", b"From:", b"Call-ID:", b"CSeq:")]
    to = _line(request, b"To:") + tag
    head = [b"SIP/2.0 " + status, *copied, to, *more, b"Content-Length: %d" % len(body), b"", body]
    return b"\r\n".join(head)


class Bridged(NamedTuple):
    """The way to the caller, once the called side moves."""

    incoming: int
    answer: bytes
    offer: sdp.SessionDescription


class Bridge:
    """The agent, and in its place the adapter and the switchboard."""

    def __init__(self) -> None:
        config = SipConfig(host=BOX[0], ports={"udp": BOX[1]})
        self.agent = SipAgent(config, admit_all, lambda flow: BOX)
        self.now = 1000.0
        self._bridged: dict[int, Bridged] = {}
        self._outgoing: dict[int, int] = {}
        self._tags: dict[int, str] = {}
        self._number = 0

    def _pump(self) -> list[bytes]:
        sent = []
        while True:
            if event := self.agent.next_event():
                self._take(event)
            elif send := self.agent.next_send():
                sent.append(send.data)
            else:
                self.agent.next_timeout()
                return sent

    def _take(self, event: events.Event) -> None:
        agent = self.agent
        match event:
            case events.Invited(session=session, offer=offer):
                agent.keep_headers(session, SESSION)
                theirs = sdp.parse(offer or b"")
                choice = sdp.choose(theirs, CODECS, prefer_ours=True)
                assert choice is not None
                mine = sdp.answer(theirs, choice, BOX[0], 4000, session_id="1", single_codec=True)
                ours = sdp.make_offer(CODECS, BOX[0], 4002, session_id="2", rtcp_xr=sdp.RTCP_XR)
                outgoing = agent.invite(
                    f"sip:1000@{CALLED[0]}:{CALLED[1]}",
                    ours.encode(),
                    self.now,
                    from_=ALICE,
                    flow=Flow("udp", *CALLED),
                    headers=[*SESSION, ("P-Asserted-Identity", ALICE)],
                    timeout=8.0,
                    max_forwards=69,
                )
                agent.keep_headers(outgoing, SESSION)
                self._bridged[outgoing] = Bridged(session, mine.encode(), ours)
                self._outgoing[session] = outgoing
            case events.Progress(session=session, status=180):
                agent.ring(self._bridged[session].incoming, self.now)
            case events.Answered(session=session, body=body):
                bridged = self._bridged[session]
                assert sdp.accept(bridged.offer, sdp.parse(body or b""), CODECS)
                agent.answer(bridged.incoming, bridged.answer, self.now)
            case events.Ended(session=session):
                outgoing = self._outgoing.pop(session, 0)
                if self._bridged.pop(outgoing, None):
                    agent.hangup(outgoing, self.now, headers=[("Reason", "Q.850;cause=16")])

    def _receive(self, data: bytes, source: tuple[str, int], wanted: bytes = b"") -> bytes:
        """What the box sends because of a message, of several that which begins as wanted."""
        self.agent.receive_datagram(data, source, BOX, "udp", self.now)
        return next((each for each in self._pump() if each.startswith(wanted)), b"")

    def _begin(self, number: int) -> None:
        tag = b";tag=99b%d" % number
        invite = self._receive(_request("INVITE", number, 1, 1, ""), CALLER, b"INVITE")
        self._receive(_response(invite, b"180 Ringing", tag, CONTACT), CALLED)
        kind = b"Content-Type: application/sdp"
        taken = _response(invite, b"200 OK", tag, CONTACT, ALLOW, kind, body=REPLY)
        answered = self._receive(taken, CALLED, b"SIP/2.0 200")
        self._tags[number] = _line(answered, b"To:").partition(b"tag=")[2].decode()
        self._receive(_request("ACK", number, 2, 1, self._tags[number]), CALLER)

    def _end(self, number: int) -> None:
        request = _request("BYE", number, 3, 2, self._tags.pop(number))
        bye = self._receive(request, CALLER, b"BYE")
        self._receive(_response(bye, b"200 OK", b""), CALLED)

    def run(self, n: int) -> float:
        """Seconds of CPU for each of `n` further calls."""
        began = time.process_time()
        for number in range(self._number, self._number + n):
            self.now += 1 / PER_S
            if number % 4 == 0:
                self.agent.tick(self.now)
                self._pump()
            self._begin(number)
            if number >= STANDING:
                self._end(number - STANDING)
        self._number += n
        return (time.process_time() - began) / n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=40)
    chosen = parser.parse_args()
    bridge = Bridge()
    bridge.run(1000)
    # As the daemon does.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    took = sorted(bridge.run(chosen.calls) for _ in range(chosen.rounds))
    if bridge.agent.counters:
        raise SystemExit(f"not as it should be: {dict(bridge.agent.counters)}")
    figures = {"us_per_call": round(took[0] * 1e6), "median_us": round(took[len(took) // 2] * 1e6)}
    print(json.dumps(machine() | figures))


if __name__ == "__main__":
    main()
