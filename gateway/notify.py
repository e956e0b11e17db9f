"""Telling systemd how we are (sd_notify(3)): one datagram, no library."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Send ``READY=1``, ``STOPPING=1``, ``WATCHDOG=1``...; False when nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    # A leading @ is systemd's spelling of the abstract namespace's NUL.
    name = "\0" + address[1:] if address[0] == "@" else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(state.encode(), name)
        except OSError:
            return False
    return True


def watchdog_s() -> float | None:
    """How often systemd wants to hear ``WATCHDOG=1``; None when it does not watch us."""
    text = os.environ.get("WATCHDOG_USEC", "")
    if not text.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(text) / 1e6 or None
