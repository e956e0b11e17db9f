"""Files: devices, certificates, disk space, permissions, the group, programs."""

from __future__ import annotations

import grp
import os
import shutil
import ssl
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.config import Configuration
from gateway.doctor.findings import Finding, ok, settings, unknown, warning, wrong

_DAY: Final = 86_400.0
_SOON_S: Final = 30 * _DAY
_SPARE: Final = 200 << 20
"""Octets that a box needs beside its journal: records, spool, logs."""


def devices(configuration: Configuration) -> Iterator[Finding]:
    """Whether what the adapters open is there and may be opened."""
    paths: dict[str, str] = {}
    for key, name, value in settings(configuration):
        if (
            isinstance(value, str)
            and value.startswith("/")
            and (value.startswith("/dev/") or name in ("device", "device_dir", "port", "chip"))
        ):
            paths.setdefault(value, key)
    for path, key in paths.items():
        if not os.path.exists(path):
            remedy = "is it plugged in? dmesg | tail"
            if "dahdi" in path:
                remedy = "modprobe dahdi && dahdi_cfg -v; see hardware/dahdi/README.md"
            yield wrong("devices", f"{key}: there is no {path}", remedy)
        elif not os.access(path, os.R_OK | (0 if os.path.isdir(path) else os.W_OK)):
            yield wrong(
                "devices", f"{key}: {path} may not be opened", f"ls -l {path}; {_groups(path)}"
            )
        else:
            yield ok("devices", f"{path} ({key})")


def _groups(path: str) -> str:
    try:
        group = grp.getgrgid(os.stat(path).st_gid).gr_name
    except (KeyError, OSError):
        return "add a udev rule"
    return f"usermod -aG {group} crosspoint; systemctl restart crosspoint"


def certificates(configuration: Configuration, *, now: float | None = None) -> Iterator[Finding]:
    """Whether certificates and keys are there and good for a while."""
    now = time.time() if now is None else now
    for key, name, value in settings(configuration):
        if not isinstance(value, str) or not value or not name.endswith(("_file", "_path")):
            continue
        if not ("cert" in name or "key" in name or "ca" in name.split("_")):
            continue
        path = configuration.file.parent / value
        try:
            text = path.read_text(errors="replace")
        except OSError as error:
            yield wrong("certificates", f"{key}: {path}: {error.strerror}", f"ls -l {path}")
            continue
        if "PRIVATE KEY" in text and path.stat().st_mode & 0o007:
            yield warning("certificates", f"{path} can be read by anybody", f"chmod o= {path}")
        if "BEGIN CERTIFICATE" not in text:
            continue
        try:
            end = expiry(text)
        except ValueError as error:
            yield wrong("certificates", f"{path}: {error}", f"openssl x509 -in {path} -noout -text")
            continue
        day = time.strftime("%Y-%m-%d", time.gmtime(end))
        if end < now:
            yield wrong("certificates", f"{path} expired on {day}", _renew(key))
        elif end < now + _SOON_S:
            yield warning("certificates", f"{path} expires on {day}", _renew(key))
        else:
            yield ok("certificates", f"{path} is good until {day}")


def _renew(key: str) -> str:
    # The SIP adapter follows its files by itself.
    return "renew it" if key.endswith("sip.tls.cert_file") else "renew it, then restart"


def expiry(pem: str) -> float:
    """When the first certificate of a PEM file expires, seconds since 1970.

    Reads X.509's validity (RFC 5280 section 4.1.2.5) and nothing else: the standard library decodes
    certificates only of connections. Raises `ValueError`.
    """
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    start, stop = pem.find(begin), pem.find(end)
    if start < 0 or stop < start:
        raise ValueError("no whole certificate")
    try:
        der = ssl.PEM_cert_to_DER_cert(pem[start : stop + len(end)])
        _, certificate, _ = _tlv(der)
        _, body, _ = _tlv(certificate)
        tag, _, rest = _tlv(body)
        # A version stands in front of the serial number unless it is version 1.
        if tag == 0xA0:
            _, _, rest = _tlv(rest)
        for _ in range(2):
            _, _, rest = _tlv(rest)
        _, validity, _ = _tlv(rest)
        _, _, rest = _tlv(validity)
        tag, text, _ = _tlv(rest)
        # UTCTime has two digits of the year (RFC 5280 section 4.1.2.5.1).
        stamp = text.decode("ascii")
        if tag == 0x17:
            stamp = ("20" if int(stamp[:2]) < 50 else "19") + stamp
        return datetime.strptime(stamp, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except (IndexError, ValueError, OverflowError) as error:
        raise ValueError(f"no certificate that can be read ({error})") from None


def _tlv(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag, content and what follows of DER's first element (X.690 section 8.1)."""
    tag, length, at = data[0], data[1], 2
    if length & 0x80:
        n = length & 0x7F
        length, at = int.from_bytes(data[2 : 2 + n], "big"), 2 + n
    if len(data) < at + length:
        raise ValueError("it is cut off")
    return tag, data[at : at + length], data[at + length :]


def disk(configuration: Configuration) -> Iterator[Finding]:
    """Whether history and recordings have room, and may be written."""
    need = (configuration.journal.total_mb << 20) + _SPARE
    seen: set[int] = set()
    for name, directory in (
        ("data", configuration.data_dir),
        ("journal", configuration.journal_dir),
        ("recordings", configuration.recordings_dir),
    ):
        there = next(path for path in (directory, *directory.parents) if path.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            yield warning(
                "disk", f"{name}: {os.environ.get('USER', 'this user')} may not write to {there}",
                f"sudo -u crosspoint gateway doctor, or chown crosspoint {there}",
            )  # fmt: skip
        device = there.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        found = os.statvfs(there)
        free = found.f_bavail * found.f_frsize
        text = f"{name}: {free / 1e9:.1f} GB free at {there}"
        if free < _SPARE // 4:
            yield wrong("disk", text, f"df -h {there}; free some")
        elif free < need:
            more = f"{text}, the journal alone may take {configuration.journal.total_mb} MB"
            yield warning("disk", more, "free some, or set journal.total_mb")
        else:
            yield ok("disk", text)
        if found.f_favail and found.f_favail < 1000:
            yield warning(
                "disk", f"{name}: {found.f_favail} files can still be made", f"df -i {there}"
            )


def permissions(configuration: Configuration, secret: bool) -> Iterator[Finding]:
    """Who may read the configuration. secret: it holds a password, PIN or key."""
    mode = configuration.file.stat().st_mode
    if secret and mode & (stat.S_IROTH | stat.S_IWOTH):
        yield wrong(
            "permissions", f"{configuration.file} holds secrets and anybody may read it",
            f"chmod o= {configuration.file}; chgrp crosspoint {configuration.file}",
        )  # fmt: skip
    elif mode & stat.S_IWOTH:
        yield wrong("permissions", f"anybody may change {configuration.file}",
                    f"chmod o-w {configuration.file}")  # fmt: skip
    else:
        yield ok("permissions", str(configuration.file))


def group(configuration: Configuration) -> Iterator[Finding]:
    """Whether technicians can use the commands."""
    name = configuration.control.group
    if not name:
        yield warning(
            "group", "none is configured: only the daemon's user and root can use the commands",
            "control.group = \"crosspoint\"",
        )  # fmt: skip
        return
    try:
        found = grp.getgrnam(name)
    except KeyError:
        yield wrong("group", f"there is no group {name}", f"groupadd --system {name}")
        return
    mine = {*os.getgroups(), os.getegid()}
    if os.geteuid() != 0 and found.gr_gid not in mine:
        yield warning("group", f"you are not in {name}", f"sudo usermod -aG {name} $USER")
    else:
        yield ok("group", f"{name}: {', '.join(found.gr_mem) or 'nobody but the daemon'}")


def programs(configuration: Configuration) -> Iterator[Finding]:
    """Programs that the configuration needs."""
    spoken = [
        route.name for route in configuration.routes if route.announce and route.announce.text
    ]
    if not spoken:
        return
    command = configuration.gateway.synthesiser
    if not command:
        yield wrong("speech", f"route {spoken[0]!r} speaks, but there is no synthesiser",
                    "gateway.synthesiser")  # fmt: skip
    elif shutil.which(command[0]) is None:
        yield wrong("speech", f"{command[0]} is not installed, route {spoken[0]!r} speaks with it",
                    f"apt-get install {command[0]}")  # fmt: skip
    else:
        yield ok("speech", command[0])


def service() -> Iterator[Finding]:
    """Whether the box comes back by itself after a power cut."""
    wanted = Path("/etc/systemd/system/multi-user.target.wants/crosspoint.service")
    if not Path("/run/systemd/system").exists():
        yield unknown("service", "systemd does not run here")
    elif wanted.exists():
        yield ok("service", "starts with the box")
    else:
        yield warning("service", "does not start with the box", "systemctl enable crosspoint")
