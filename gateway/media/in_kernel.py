"""Whether the kernel may carry relays, and by which interfaces their packets come.

Everything belongs to the process: when it ends, however it ends, the kernel takes it all away.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct

from gateway.media import _engine

_SIOCGIFHWADDR = 0x8927
_FRAMED = {1, 772}
"""ARPHRD_ETHER, ARPHRD_LOOPBACK (linux/if_arp.h): others have another header, or none."""

_REMEDIES = {
    errno.EMFILE: "let the service open more files (LimitNOFILE=)",
    errno.ENFILE: "let the machine open more files (fs.file-max)",
    errno.ENOMEM: "it takes more memory",
    errno.EAFNOSUPPORT: "permit AF_NETLINK (RestrictAddressFamilies=)",
}


def share(cores: list[_engine.Core], max_streams: int) -> str:
    """Let cores that have not been started hand relays to the kernel; why not, if it refuses.

    Interfaces that come later, or are too many, are not watched: their calls stay in user space.
    An option that is refused is no reason for a box to carry no calls.
    """
    try:
        kernel = _engine.Kernel(len(cores) * max_streams)
        unwatched = _watch(kernel)
        for i, core in enumerate(cores):
            core.relay_in(kernel, i * max_streams, max_streams)
    except OSError as error:
        return _refusal(error)
    if unwatched:
        return f"too many interfaces, not watched: {', '.join(unwatched)}; the others are"
    return ""


def _watch(kernel: _engine.Kernel) -> list[str]:
    """Attach to all interfaces; those that were too many. Raises OSError."""
    unwatched = []
    for index, name in socket.if_nameindex():
        if not _is_framed(name):
            continue
        try:
            kernel.attach(index)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                unwatched.append(name)
            elif error.errno != errno.ENODEV:  # it has gone
                raise
    return unwatched


def _is_framed(interface: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            found = fcntl.ioctl(asking, _SIOCGIFHWADDR, struct.pack("16s16x", interface.encode()))
        except OSError:
            return False  # it has gone
    return struct.unpack_from("H", found, 16)[0] in _FRAMED


def _refusal(error: OSError) -> str:
    remedy = _REMEDIES.get(error.errno or 0, "it takes Linux 6.6 or later")
    if error.errno in {errno.EPERM, errno.EACCES}:
        remedy = (
            "give the service CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (AmbientCapabilities=), or "
            "remove media.kernel"
        )
    return f"{error.filename or 'the kernel'}: {error.strerror}; {remedy}"
