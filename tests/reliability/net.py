"""Three network namespaces: clients (``a``), the gateway (``b``), and a bad network between them.

    a  10.77.0.1/16  ------  m: between.c  ------  10.77.0.2/16  b
                                                   10.78.0.3/32 on lo: far ends beside the gateway

The gateway's namespace has a default route through the emulator: a packet to an address outside
the bench is seen there, and counted.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "netlab" / "between.c"
CLIENT, GATEWAY, FAR = "10.77.0.1", "10.77.0.2", "10.78.0.3"
FURTHER = ("10.78.0.4", "10.78.0.5")
"""More addresses beside the gateway."""
_CLONE_NEWNET = 0x40000000
_SIOCETHTOOL, _STXCSUM, _STSO, _SGSO, _SGRO = 0x8946, 0x17, 0x1F, 0x24, 0x2C
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Impairment:
    """Shares in percent, times in milliseconds."""

    loss: float = 0
    burst: float = 1
    """Mean length of a row of lost packets."""
    delay_ms: float = 0
    jitter_ms: float = 0
    duplicate: float = 0
    reorder: float = 0
    corrupt: float = 0

    def command(self) -> str:
        parts = (self.loss, self.burst, self.delay_ms, self.jitter_ms, self.duplicate)
        return "set " + " ".join(f"{v:g}" for v in (*parts, self.reorder, self.corrupt))


def why_not() -> str:
    """Why there can be no network laboratory here; empty when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "cc", "sipp"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return ""


class Netlab:
    """The namespaces and the emulator. A context manager; `inside` puts sockets into them."""

    def __init__(self, home: Path, seed: int = 7) -> None:
        self._prefix = f"xp{os.getpid() % 100000}"
        self._seed = seed
        self._program = home / "between"
        self._emulator: subprocess.Popen[str] | None = None
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._spaces: dict[str, int] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        """What runs in the namespaces and must not outlive them."""

    def name(self, space: str) -> str:
        return self._prefix + space

    def __enter__(self) -> Netlab:
        subprocess.run(
            ["cc", "-O2", "-Wall", "-o", str(self._program), str(SOURCE)], check=True, timeout=60
        )
        try:
            self._up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _up(self) -> None:
        p = self._prefix
        for space in "amb":
            _ip("netns", "add", p + space)
            _ip("-n", p + space, "link", "set", "lo", "up")
            self._spaces[space] = os.open(f"/run/netns/{p}{space}", os.O_RDONLY)
        for space, address in (("a", CLIENT), ("b", GATEWAY)):
            inner = f"{p}m{space}"
            _ip("link", "add", f"{p}{space}0", "netns", p + space, "type", "veth", "peer", "name",
                inner, "netns", f"{p}m")  # fmt: skip
            _ip("-n", f"{p}m", "link", "set", inner, "up")
            _ip("-n", p + space, "addr", "add", f"{address}/16", "dev", f"{p}{space}0")
            # The kernel's own multicast would be noise in the counters.
            for device, namespace in ((f"{p}{space}0", space), (inner, "m")):
                subprocess.run(
                    ["ip", "netns", "exec", p + namespace, "sysctl", "-qw",
                     f"net.ipv6.conf.{device}.disable_ipv6=1"],
                    check=False, timeout=20, capture_output=True,
                )  # fmt: skip
            with self.inside(space):
                _plain(f"{p}{space}0")
            _ip("-n", p + space, "link", "set", f"{p}{space}0", "up")
        for number in range(1, 52):
            # Fifty more sources for attacks.
            _ip("-n", f"{p}a", "addr", "add", f"10.77.1.{number}/16", "dev", f"{p}a0")
        for address in (FAR, *FURTHER):
            _ip("-n", f"{p}b", "addr", "add", f"{address}/32", "dev", "lo")
        _ip("-n", f"{p}b", "route", "add", "default", "via", CLIENT)
        self._emulator = subprocess.Popen(
            ["ip", "netns", "exec", f"{p}m", str(self._program), f"{p}ma", f"{p}mb",
             str(self._seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._emulator.stdout is not None
        if self._emulator.stdout.readline() != "ready\n":
            raise SystemExit("the network emulator does not start")

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        if self._emulator is not None:
            assert self._emulator.stdin is not None
            self._emulator.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._emulator.wait(5)
            if self._emulator.poll() is None:
                self._emulator.kill()
        for descriptor in (*self._spaces.values(), self._own):
            os.close(descriptor)
        for space in "amb":
            subprocess.run(
                ["ip", "netns", "del", self._prefix + space], check=False, capture_output=True,
                timeout=20,
            )  # fmt: skip

    @contextlib.contextmanager
    def inside(self, space: str) -> Iterator[None]:
        """Sockets that this thread makes belong to a namespace; they stay in it."""
        _setns(self._spaces[space])
        try:
            yield
        finally:
            _setns(self._own)

    def udp(self, space: str, address: str, port: int = 0) -> socket.socket:
        """A UDP socket in a namespace, not blocking."""
        with self.inside(space):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind((address, port))
        return sock

    def tcp(self, space: str, address: str) -> socket.socket:
        """A TCP socket in a namespace, not connected, not blocking."""
        with self.inside(space):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.bind((address, 0))
        return sock

    def command(self, space: str, *command: str) -> list[str]:
        """A command line that runs in a namespace."""
        return ["ip", "netns", "exec", self.name(space), *command]

    def _tell(self, line: str) -> str:
        emulator = self._emulator
        assert emulator is not None
        assert emulator.stdin is not None
        assert emulator.stdout is not None
        emulator.stdin.write(line + "\n")
        emulator.stdin.flush()
        return emulator.stdout.readline()

    def impair(self, how: Impairment = Impairment()) -> None:
        """Spoil the network from now on; without an argument it is good again."""
        assert self._tell(how.command()) == "ok\n"

    def blackout(self, on: bool) -> None:
        """Nothing passes between clients and gateway."""
        assert self._tell(f"black {int(on)}") == "ok\n"

    def counts(self) -> dict[str, int]:
        """What passed the emulator, and what became of it."""
        return {name: int(n) for name, n in re.findall(r"(\w+) (\d+)", self._tell("count"))}


def _plain(device: str) -> None:
    """Whole checksums and no oversized frames: what leaves here goes through a raw socket, behind
    which nobody finishes them (linux/ethtool.h)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in (_STXCSUM, _STSO, _SGSO, _SGRO):
            value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
            request = struct.pack("16sP", device.encode(), ctypes.addressof(value))
            with contextlib.suppress(OSError):
                fcntl.ioctl(sock, _SIOCETHTOOL, request + bytes(16))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=20)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
