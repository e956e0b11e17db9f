"""Attackers, each a process of its own: ``python -m tests.reliability.attack KIND ...``.

flood: requests of many kinds, some in dialogs that are not, and garbage over UDP, at a rate, from
       one or many sources.
noise: random and mutated datagrams to ports: RTP, RTCP, SRTP, STUN with lengths that lie.
slow:  connections on which a request never ends. hog: connections that say nothing.

Prints how much it has sent, at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator

from tests.reliability.net import GATEWAY

SOURCES = [f"10.77.1.{number}" for number in range(1, 52)]


def request(method: str, source: str, port: int, number: int) -> bytes:
    """A request of a stranger."""
    body = (
        f"v=0\r\no=- 1 1 IN IP4 {source}\r\ns=-\r\nc=IN IP4 {source}\r\nt=0 0\r\n"
        "m=audio 9000 RTP/AVP 0\r\n" if method == "INVITE" else ""
    )  # fmt: skip
    return (
        f"{method} sip:{100 + number % 900}@{GATEWAY} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP {source}:{port};branch=z9hG4bK{number:x}{port:x};rport\r\n"
        f"From: <sip:f{number}@{source}>;tag={number:x}\r\n"
        f"To: <sip:{number}@{GATEWAY}>{';tag=1' if method == 'BYE' else ''}\r\n"
        f"Call-ID: f{number}-{port}@{source}\r\nCSeq: 1 {method}\r\nMax-Forwards: 70\r\n"
        f"Contact: <sip:f@{source}:{port}>\r\n"
        + ("Content-Type: application/sdp\r\n" if body else "")
        + f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def flood(rate: float, seconds: float, n_sources: int, seed: int) -> int:
    """Send; how many datagrams."""
    chance = random.Random(seed)
    socks = []
    for source in SOURCES[:n_sources]:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((source, 0))
        sock.setblocking(False)
        socks.append((sock, source, sock.getsockname()[1]))
    kinds = ("INVITE", "REGISTER", "OPTIONS", "CANCEL", "BYE", "")
    sent = 0

    def one(number: int) -> None:
        sock, source, port = socks[number % len(socks)]
        kind = kinds[(number // len(socks)) % len(kinds)]
        data = request(kind, source, port, number) if kind else chance.randbytes(300)
        with contextlib.suppress(OSError):
            sock.sendto(data, (GATEWAY, 5060))
        while number % 16 == 0:
            try:
                sock.recv(4096)
            except OSError:
                break

    for sent in paced(rate, seconds):
        one(sent)
    return sent


def paced(rate: float, seconds: float) -> Iterator[int]:
    """Numbers, so many a second."""
    began, n = time.monotonic(), 0
    while (age := time.monotonic() - began) < seconds:
        while n < age * rate:
            yield n
            n += 1
        time.sleep(0.002)


def rtp(chance: random.Random) -> bytes:
    """A packet that is almost right, or not at all."""
    kind = chance.randrange(6)
    head = struct.pack(
        "!BBHII", 0x80, chance.choice((0, 8, 101, 127)), chance.getrandbits(16),
        chance.getrandbits(32), chance.getrandbits(32),
    )  # fmt: skip
    if kind == 0:
        return chance.randbytes(chance.randrange(0, 1400))
    if kind == 1:  # more contributing sources, or an extension, than there are octets
        return (
            bytes([0x80 | chance.randrange(64)]) + head[1:] + chance.randbytes(chance.randrange(20))
        )
    if kind == 2:  # padding that is longer than the packet
        return bytes([0xA0]) + head[1:] + chance.randbytes(20) + bytes([chance.randrange(256)])
    if kind == 3:  # RTCP: a length that lies, BYE, APP
        first, kind = 0x80 | chance.randrange(32), chance.randrange(192, 208)
        head = struct.pack("!BBHI", first, kind, chance.getrandbits(16), chance.getrandbits(32))
        return head + chance.randbytes(8)
    if kind == 4:  # STUN with lengths that lie
        return struct.pack("!HHI", 1, chance.getrandbits(16), 0x2112A442) + chance.randbytes(
            chance.randrange(12, 60)
        )
    packet = bytearray(head + chance.randbytes(160))
    packet[chance.randrange(len(packet))] ^= 1 << chance.randrange(8)
    return bytes(packet)


def noise(rate: float, seconds: float, ports: list[int], seed: int) -> int:
    """Send to each of the ports in turn."""
    chance = random.Random(seed)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((SOURCES[40], 0))
    sent = 0
    for sent in paced(rate, seconds):
        with contextlib.suppress(OSError):
            sock.sendto(rtp(chance), (GATEWAY, ports[sent % len(ports)]))
    return sent


def connections(n: int, seconds: float, n_sources: int, port: int, drip: bytes) -> int:
    """Hold as many connections as one gets; how many were open at the end."""
    socks: list[socket.socket] = []
    began, at = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        for number in range(len(socks), min(n, len(socks) + 100)):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.bind((SOURCES[number % n_sources], 0))
            sock.setblocking(False)
            sock.connect_ex((GATEWAY, port))
            socks.append(sock)
        time.sleep(1.0)
        for sock in socks:
            with contextlib.suppress(OSError):
                if drip:
                    sock.send(drip[at % len(drip) : at % len(drip) + 1])
        at += 1
    n_open = 0
    for sock in socks:
        try:
            n_open += sock.recv(1) != b""
        except BlockingIOError:
            n_open += 1
        except OSError:
            pass
    return n_open


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("kind", choices=["flood", "noise", "slow", "hog"])
    parser.add_argument("--rate", type=float, default=3000.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sources", type=int, default=1)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--port", type=int, default=5060)
    parser.add_argument("--ports", default="")
    parser.add_argument("--seed", type=int, default=16)
    o = parser.parse_args()
    ways: dict[str, Callable[[], int]] = {
        "flood": lambda: flood(o.rate, o.seconds, o.sources, o.seed),
        "noise": lambda: noise(o.rate, o.seconds, [int(p) for p in o.ports.split(",")], o.seed),
        "slow": lambda: connections(
            o.n, o.seconds, o.sources, o.port, request("OPTIONS", SOURCES[0], 1, 1)[:-2]
        ),
        "hog": lambda: connections(o.n, o.seconds, o.sources, o.port, b""),
    }
    print(ways[o.kind]())


if __name__ == "__main__":
    main()
