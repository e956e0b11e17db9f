"""Whether packets may go by sockets that many legs share.

Everything belongs to the process: when it ends, however it ends, the kernel takes it all away.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

from gateway.media import _engine

LEGS_A_SOCKET = 256
"""As many share one buffer: what overflows it is lost to all of them."""

# linux/rtnetlink.h, linux/netlink.h and linux/fib_rules.h
_RTM_NEWRULE, _RTM_GETRULE, _REQUEST_DUMP, _NLMSG_DONE, _NLMSG_ERROR = 32, 34, 0x301, 3, 2
_FRA_IIFNAME, _FRA_PRIORITY = 3, 6
_UNSEEN = {22: "protocol", 23: "source port", 24: "destination port"}
"""FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE."""

_REMEDIES = {
    errno.EMFILE: "let the service open more files (LimitNOFILE=)",
    errno.ENFILE: "let the machine open more files (fs.file-max)",
    errno.ENOMEM: "it takes more memory",
}


def share(cores: list[_engine.Core], max_streams: int) -> str:
    """Let cores that have not been started use shared sockets; why not, if the kernel refuses.

    An option that is refused is no reason for a box to carry no calls.
    """
    if rule := _rule_not_followed():
        return f"{rule}; remove media.steer, or the rule"
    each = -(-max_streams // (LEGS_A_SOCKET * len(cores)))
    try:
        steer = _engine.Steer(len(cores), each)
        for i, core in enumerate(cores):
            core.steer_by(steer, i)
    except OSError as error:
        for core in cores:
            core.stop()  # what it has got lets go; it can be started all the same
        return _refusal(error)
    return ""


def _rule_not_followed() -> str:
    """A rule of policy routing that packets of a raw socket do not meet: their way is looked for by
    destination alone. Empty when there is none, or nobody says."""
    try:
        for source, tos, told in _rules():
            if told.get(_FRA_IIFNAME, b"lo\0") != b"lo\0":
                continue  # of what is forwarded
            what = ["source address"] if source else []
            what += ["type of service"] if tos else []
            what += [words for kind, words in _UNSEEN.items() if kind in told]
            if what:
                priority = struct.unpack("I", told.get(_FRA_PRIORITY, bytes(4)))[0]
                return f"ip rule {priority} routes by {' and '.join(what)}"
    except OSError:
        pass
    return ""


def _rules() -> Iterator[tuple[int, int, dict[int, bytes]]]:
    """Bits of the source address, type of service and attributes of each rule for IPv4."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asking:
        asking.settimeout(1.0)
        head = struct.pack("IHHII", 28, _RTM_GETRULE, _REQUEST_DUMP, 1, 0)
        asking.send(head + bytes([socket.AF_INET]) + bytes(11))
        while True:
            data = asking.recv(65536)
            while len(data) >= 16:
                length, kind = struct.unpack_from("IH", data)
                if kind in {_NLMSG_DONE, _NLMSG_ERROR} or length < 16:
                    return
                if kind == _RTM_NEWRULE:
                    yield data[18], data[19], _attributes(data[28:length])
                data = data[(length + 3) & ~3 :]


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("HH", data)
        found[kind] = data[4:length]
        data = data[max(length + 3, 4) & ~3 :]
    return found


def _refusal(error: OSError) -> str:
    remedy = _REMEDIES.get(error.errno or 0, "it takes Linux 5.9 or later")
    if error.errno in {errno.EPERM, errno.EACCES}:
        remedy = (
            "give the service CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW (AmbientCapabilities=), or "
            "remove media.steer"
        )
    return f"{error.filename or 'the kernel'}: {error.strerror}; {remedy}"
