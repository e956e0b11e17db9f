"""Listeners for paging tests, and a network of their own in which nothing leaks.

Nothing here uses the gateway's own packet code: what is read is read by the published layouts.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_CLONE_NEWNET = 0x40000000
_TIMESTAMPNS = 35
_RECVTTL = 12


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """This thread and what it starts see only a loopback device with a route for multicast."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(_CLONE_NEWNET):
            pytest.skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        try:
            for command in ("link set lo up", "route add 224.0.0.0/4 dev lo"):
                subprocess.run(["ip", *command.split()], check=True, timeout=10)
            yield
        finally:
            libc.setns(before, 0)
    finally:
        os.close(before)


@dataclass(eq=False)
class Listener:
    """A receiver of one group."""

    group: str
    port: int
    seen: list[tuple[float, bytes]] = field(default_factory=list)
    """Kernel's time of arrival and octets."""

    def __enter__(self) -> Listener:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sock.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        self.sock.setsockopt(socket.IPPROTO_IP, _RECVTTL, 1)
        self.sock.bind((self.group, self.port))
        request = socket.inet_aton(self.group) + socket.inet_aton("127.0.0.1")
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        self.sock.setblocking(False)
        self.tos = self.ttl = -1
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def read(self) -> list[bytes]:
        """What has arrived so far, oldest first."""
        while True:
            try:
                data, extra, _, _ = self.sock.recvmsg(2048, 256)
            except BlockingIOError:
                return [data for _, data in self.seen]
            at = 0.0
            for level, kind, value in extra:
                if (level, kind) == (socket.SOL_SOCKET, _TIMESTAMPNS):
                    seconds, ns = struct.unpack("qq", value)
                    at = seconds + ns / 1e9
                elif (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS):
                    self.tos = value[0]
                elif (level, kind) == (socket.IPPROTO_IP, socket.IP_TTL):
                    self.ttl = int.from_bytes(value[:4], "little")
            self.seen.append((at, data))


@dataclass
class Rtp:
    """Header fields of RFC 3550 section 5.1."""

    marker: int
    payload_type: int
    seq: int
    timestamp: int
    ssrc: int
    payload: bytes

    @classmethod
    def read(cls, data: bytes) -> Rtp:
        first, second, seq, timestamp, ssrc = struct.unpack(">BBHII", data[:12])
        assert first == 0x80, data[:12].hex()
        return cls(second >> 7, second & 0x7F, seq, timestamp, ssrc, data[12:])


@dataclass
class Poly:
    """Octets of a Poly page, cut by hand."""

    operation: int
    channel: int
    serial: bytes
    caller: bytes
    codec: int = -1
    flags: int = -1
    count: int = -1
    audio: bytes = b""

    @classmethod
    def read(cls, data: bytes) -> Poly:
        assert data[6] == 0x0D, data[:20].hex()
        found = cls(data[0], data[1], data[2:6], data[7:20])
        if found.operation == 0x10:
            found.codec, found.flags = data[20], data[21]
            found.count = int.from_bytes(data[22:26], "big")
            found.audio = data[26:]
        else:
            assert len(data) == 20
        return found


def decode(octets: bytes, encoding: str = "ul") -> list[int]:
    """Samples of raw G.711 octets, by sox."""
    done = subprocess.run(
        ["sox", "-t", encoding, "-r", "8000", "-c", "1", "-",
         "-t", "raw", "-e", "signed", "-b", "16", "-"],
        input=octets, stdout=subprocess.PIPE, check=True, timeout=20,
    )  # fmt: skip
    return list(struct.unpack(f"{len(done.stdout) // 2}h", done.stdout))


def sdp(path: Path, group: str, port: int, payload_type: int) -> Path:
    """A description of a group for a foreign player (RFC 8866)."""
    name = {0: "PCMU", 8: "PCMA", 9: "G722"}[payload_type]
    path.write_text(
        f"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=page\r\nc=IN IP4 {group}/1\r\nt=0 0\r\n"
        f"m=audio {port} RTP/AVP {payload_type}\r\na=rtpmap:{payload_type} {name}/8000\r\n"
    )
    return path
