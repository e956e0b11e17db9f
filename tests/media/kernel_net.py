"""Network namespaces of a test's own: a gateway with two networks, a peer in each.

Who uses it moves into a namespace first (`namespace`): nothing is attached outside.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEWNET = 0x40000000
_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17
_SYS_BPF = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), -1)
_BPF_PROG_QUERY, _SK_LOOKUP, _TCX_INGRESS = 16, 36, 46


def _check(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def ip(*words: str) -> None:
    """Run ``ip``; raises `CalledProcessError`."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _here() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def namespace() -> Iterator[None]:
    """This thread in a new network namespace, with loopback. Raises `PermissionError`."""
    home = _here()
    try:
        _check(_LIBC.unshare(_NEWNET), "unshare")
        ip("link", "set", "lo", "up")
        yield
    finally:
        _check(_LIBC.setns(home, _NEWNET), "setns")
        os.close(home)


def _plug(interface: str, namespace_fd: int) -> None:
    """Move an interface of this namespace into another."""
    subprocess.run(
        ["ip", "link", "set", interface, "netns", f"/proc/self/fd/{namespace_fd}"],
        check=True, capture_output=True, pass_fds=[namespace_fd],
    )  # fmt: skip


class Far:
    """Another host: a namespace behind a pair of veth, kept by a descriptor."""

    def __init__(self, number: int) -> None:
        self.near_ip, self.ip = f"10.77.{number}.1", f"10.77.{number}.2"
        near, name = f"gw{number}", f"far{number}"
        home = _here()
        try:
            with namespace():
                self.fd = _here()
                ip("link", "add", near, "type", "veth", "peer", "name", name)
                ip("addr", "add", f"{self.ip}/24", "dev", name)
                ip("link", "set", name, "up")
                ip("route", "add", "default", "via", self.near_ip)
                _sum_here(name)
                _plug(near, home)
        finally:
            os.close(home)
        ip("addr", "add", f"{self.near_ip}/24", "dev", near)
        ip("link", "set", near, "up")

    @contextmanager
    def there(self) -> Iterator[None]:
        """Sockets made and programs begun within it are of that host."""
        home = _here()
        try:
            _check(_LIBC.setns(self.fd, _NEWNET), "setns")
            yield
        finally:
            _check(_LIBC.setns(home, _NEWNET), "setns")
            os.close(home)

    @property
    def before(self) -> tuple[str, ...]:
        """Begins the command line of a program of that host."""
        return "nsenter", f"--net=/proc/{os.getpid()}/fd/{self.fd}"

    def close(self) -> None:
        """The host goes, and with it the cable."""
        os.close(self.fd)


class Switched(Far):
    """A host at a switch, as is the other of the same `Switch`."""

    def __init__(self, switch: Switch, number: int) -> None:
        self.near_ip, self.ip = switch.near_ip, f"10.77.9.{number + 1}"
        with namespace():
            self.fd = _here()
            ip("link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0")
            ip("addr", "add", f"{self.ip}/24", "dev", "eth0")
            ip("link", "set", "eth0", "up")
            _sum_here("eth0")
            _plug(f"port{number}", switch.fd)
        with switch.there():
            ip("link", "set", f"port{number}", "master", "switch", "up")


class Switch(Far):
    """A bridge in a namespace of its own, and this host at it by a macvlan."""

    def __init__(self) -> None:
        self.near_ip = self.ip = "10.77.9.1"
        home = _here()
        try:
            with namespace():
                self.fd = _here()
                ip("link", "add", "switch", "type", "bridge")
                ip("link", "set", "switch", "up")
                ip("link", "add", "port0", "type", "veth", "peer", "name", "gw9")
                ip("link", "set", "port0", "master", "switch", "up")
                _plug("gw9", home)
        finally:
            os.close(home)
        ip("link", "set", "gw9", "up")
        ip("link", "add", "mv9", "link", "gw9", "type", "macvlan", "mode", "bridge")
        ip("addr", "add", f"{self.near_ip}/24", "dev", "mv9")
        ip("link", "set", "mv9", "up")


def _sum_here(interface: str) -> None:
    """Real checksums: veth leaves them out, and nobody would notice a wrong one."""
    off = ctypes.create_string_buffer(struct.pack("II", _ETHTOOL_STXCSUM, 0))
    request = struct.pack("16sP8x", interface.encode(), ctypes.addressof(off))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, _SIOCETHTOOL, request)


def programs(interface: str) -> int:
    """How many BPF programs see what comes in by an interface of this namespace (tcx)."""
    return _programs(socket.if_nametoindex(interface), _TCX_INGRESS)


def lookups() -> int:
    """How many BPF programs choose sockets in this namespace (sk_lookup)."""
    network = _here()
    try:
        return _programs(network, _SK_LOOKUP)
    finally:
        os.close(network)


def _programs(target: int, attached: int) -> int:
    attr = ctypes.create_string_buffer(struct.pack("III20x", target, attached, 0) + bytes(96))
    _check(_LIBC.syscall(_SYS_BPF, _BPF_PROG_QUERY, attr, 64), "bpf(BPF_PROG_QUERY)")
    return int(struct.unpack_from("I", attr, 24)[0])
