"""The machine: clock, processor, limits, codecs, ports."""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import re
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.config import Configuration
from gateway.doctor.findings import Finding, ok, settings, unknown, warning, wrong

_TIME_ERROR: Final = 5
"""adjtimex(2): the clock is not synchronised."""
_NOT_BEFORE: Final = 1_767_225_600.0
"""2026-01-01: no box that has the right time is older than its program."""
_UNIT: Final = "systemctl edit crosspoint"
_VECTORS: Final = ("avx512f", "avx2", "asimd", "neon", "sse4_2")


def clock() -> Iterator[Finding]:
    """Whether times in records and certificates' checks can be trusted."""
    if time.time() < _NOT_BEFORE:
        yield wrong(
            "clock", f"the clock says {time.strftime('%Y-%m-%d')}", "timedatectl set-ntp true"
        )
        return
    # struct timex is at most 208 octets; modes = 0 only reads.
    buffer = ctypes.create_string_buffer(512)
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError):
        state = -1
    if state == _TIME_ERROR:
        yield warning(
            "clock", "is not synchronised", "timedatectl set-ntp true; timedatectl status"
        )
    elif state < 0:
        yield unknown("clock", "the system does not say whether it is synchronised")
    else:
        yield ok("clock", "synchronised")


def processor(cpuinfo: str = "", governors: tuple[str, ...] | None = None) -> Iterator[Finding]:
    """Vector unit and frequency scaling. Arguments replace the system's own words in tests."""
    text = cpuinfo or _read(Path("/proc/cpuinfo"))
    flags = set(
        re.findall(r"\w+", " ".join(re.findall(r"(?mi)^(?:flags|features)\s*:(.*)$", text)))
    )
    found = [name for name in _VECTORS if name in flags]
    if found:
        yield ok("processor", f"{os.cpu_count()} cores, vector unit {found[0]}")
    else:
        yield warning("processor", "no known vector unit: G.722 takes far more time", "lscpu")
    if governors is None:
        names = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
        governors = tuple(_read(path).strip() for path in names)
    if "powersave" in governors:
        yield warning(
            "processor", "is set to save power: audio may come late",
            "cpupower frequency-set -g performance",
        )  # fmt: skip


def codecs() -> Iterator[Finding]:
    """Whether the compiled parts are there and give what they must."""
    try:
        from gateway._codecs import g711, g722
    except ImportError as error:
        yield wrong(
            "codecs", f"cannot be loaded: {error}", "reinstall the package for this machine"
        )
        return
    octets = bytes(range(256))
    # The negative zero comes back as the positive one (ITU-T G.711 table 2a).
    if g711.encode_ulaw(g711.decode_ulaw(octets)) != octets.replace(b"\x7f", b"\xff"):
        yield wrong("codecs", "G.711 is wrong on this machine", "reinstall for this machine")
        return
    yield ok("codecs", f"loaded ({Path(g722.__file__ or '').suffixes[0][1:]})")


def limits(pid: int | None, realtime: bool | None) -> Iterator[Finding]:
    """Real-time scheduling, locked memory, open files: of the daemon, or of this shell.

    pid: of the running daemon. realtime: whether its audio thread has real-time scheduling.
    """
    whose = "the daemon" if pid else "this shell (the daemon does not run)"
    if realtime is False:
        yield wrong(
            "real time", "the audio thread has no real-time scheduling",
            f"{_UNIT}: LimitRTPRIO=50 below [Service]; systemctl restart crosspoint",
        )  # fmt: skip
    elif realtime:
        yield ok("real time", "the audio thread has it")
    found = _limits(pid)
    if realtime is None and found.get("Max realtime priority", 0) < 1 and os.geteuid() != 0:
        yield warning(
            "real time", f"{whose} may not ask for it", f"{_UNIT}: LimitRTPRIO=50 below [Service]"
        )
    files = found.get("Max open files", 0)
    if files < 4096:
        yield warning(
            "open files", f"{whose} may have {files}", f"{_UNIT}: LimitNOFILE=65536 below [Service]"
        )
    else:
        yield ok("open files", f"{whose} may have {files}")


def packets(configuration: Configuration, figures: str) -> Iterator[Finding]:
    """Whether the kernel grants what was asked of it for RTP; figures: the daemon's metrics."""
    media = configuration.media
    for name, wanted, right in (
        ("steer", media.steer, "CAP_NET_RAW"),
        ("kernel", media.kernel, "CAP_PERFMON"),
    ):
        if wanted and f"crosspoint_engine_{name} 0.0" in figures:
            yield warning(
                "packets", f"media.{name} is refused: calls cost more CPU; the log says why",
                f"{_UNIT}: AmbientCapabilities=CAP_BPF CAP_NET_ADMIN {right} below [Service]",
            )  # fmt: skip
        elif wanted and f"crosspoint_engine_{name} 1.0" in figures:
            yield ok("packets", f"media.{name} is granted")


def _limits(pid: int | None) -> dict[str, int]:
    text = _read(Path(f"/proc/{pid or 'self'}/limits"))
    found: dict[str, int] = {}
    for line in text.splitlines()[1:]:
        name, soft = line[:26].strip(), line[26:].split()[:1]
        if soft:
            found[name] = 1 << 40 if soft[0] == "unlimited" else int(soft[0])
    if not found:
        found["Max open files"] = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return found


def ports(configuration: Configuration, *, running: bool) -> Iterator[Finding]:
    """Whether what is listened on is free, or taken by the gateway itself."""
    wanted = [
        (key, value)
        for key, name, value in settings(configuration)
        if name == "listen" and isinstance(value, str) and value
    ]
    if configuration.metrics.listen:
        wanted.append(("metrics.listen", f"tcp:{configuration.metrics.listen}"))
    if running:
        yield ok("ports", f"{len(wanted)} configured, the running gateway has them")
    taken = 0
    for key, text in wanted if not running else ():
        why = _bound(text)
        if why:
            taken += 1
            port = text.rpartition(":")[2]
            yield wrong("ports", f"{key}: {text}: {why}", f"ss -lntup | grep :{port}")
    if wanted and not running and not taken:
        yield ok("ports", f"{len(wanted)} configured, all free")
    low, high = configuration.media.ports
    ephemeral = [
        int(part) for part in _read(Path("/proc/sys/net/ipv4/ip_local_port_range")).split()
    ]
    if len(ephemeral) == 2 and low <= ephemeral[1] and high >= ephemeral[0]:
        yield warning(
            "ports", f"audio's {low}-{high} overlap those that the system gives to anybody",
            f"sysctl -w net.ipv4.ip_local_reserved_ports={low}-{high}",
        )  # fmt: skip


def _bound(text: str) -> str:
    """Why a port cannot be listened on; empty when it can."""
    found = re.fullmatch(r"(?:(udp|tcp|tls|ws|wss):)?(.+):(\d+)", text)
    if found is None:
        return ""
    host = found[2].strip("[]")
    kind = socket.SOCK_DGRAM if found[1] in ("udp", None) else socket.SOCK_STREAM
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            # As a server does it: the remains of closed connections do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(found[3])))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return f"this box has no address {host}"
            return error.strerror or str(error)
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
