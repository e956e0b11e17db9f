"""A telephone's network behind the kernel's own NAT: two namespaces of this machine.

phone 192.168.177.2 -- 192.168.177.1 NAT 10.88.177.1 -- 10.88.177.2 here
"""

from __future__ import annotations

import os
import shutil
import subprocess

INSIDE, OUTSIDE, HERE = "192.168.177.2", "10.88.177.1", "10.88.177.2"
PROGRAMS = ("ip", "iptables", "conntrack")


def why_not() -> str:
    """Why there can be no NAT here; empty when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in PROGRAMS:
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return ""


class KernelNat:
    """Masquerading of UDP with ports of a range, which `rebind` changes. A context manager."""

    def __init__(self) -> None:
        name = f"xn{os.getpid() % 100000}"
        self._phone, self._nat = f"{name}p", f"{name}n"
        self._range = ""

    def __enter__(self) -> KernelNat:
        for space in (self._phone, self._nat):
            _ip("netns", "add", space)
            _ip("-n", space, "link", "set", "lo", "up")
        self._link(self._phone, "in", f"{INSIDE}/24", self._nat, "in", "192.168.177.1/24")
        _ip("-n", self._phone, "route", "add", "default", "via", "192.168.177.1")
        here = f"{self._nat[:-1]}h"
        _ip("link", "add", here, "type", "veth", "peer", "name", "out", "netns", self._nat)
        _ip("addr", "add", f"{HERE}/30", "dev", here)
        _ip("link", "set", here, "up")
        _ip("-n", self._nat, "addr", "add", f"{OUTSIDE}/30", "dev", "out")
        _ip("-n", self._nat, "link", "set", "out", "up")
        self._in_nat("sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.rebind("30000-30099")
        return self

    def __exit__(self, *_: object) -> None:
        for space in (self._phone, self._nat):
            subprocess.run(["ip", "netns", "del", space], check=False, timeout=10)

    def rebind(self, ports: str) -> None:
        """Forget all bindings; new ones get ports of another range."""
        if self._range:
            self._in_nat("iptables", "-t", "nat", "-D", *_rule(self._range))
        self._in_nat("iptables", "-t", "nat", "-A", *_rule(ports))
        self._in_nat("conntrack", "-F")
        self._range = ports

    def inside(self, command: list[str]) -> list[str]:
        """A command as it runs behind the NAT."""
        return ["ip", "netns", "exec", self._phone, *command]

    def _link(self, one: str, end: str, address: str, other: str, far: str, further: str) -> None:
        _ip("-n", one, "link", "add", end, "type", "veth", "peer", "name", far, "netns", other)
        for space, dev, text in ((one, end, address), (other, far, further)):
            _ip("-n", space, "addr", "add", text, "dev", dev)
            _ip("-n", space, "link", "set", dev, "up")

    def _in_nat(self, *command: str) -> None:
        _run("ip", "netns", "exec", self._nat, *command)


def _rule(ports: str) -> list[str]:
    masquerade = ["-j", "MASQUERADE", "--to-ports", ports]
    return ["POSTROUTING", "-o", "out", "-p", "udp", *masquerade]


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, timeout=10, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
