"""Who is at the other end of a unix socket, by the kernel's word."""

from __future__ import annotations

import os
import pwd
import socket
import struct
from typing import Final, NamedTuple

_UCRED: Final = struct.Struct("iII")
# socket(7), Linux 4.13; the `socket` module has no name for it. Its value is the same on all
# architectures that Crosspoint is built for.
_SO_PEERGROUPS: Final = 59
_GROUPS_BYTES: Final = 1024
"""The most that `socket.getsockopt` fetches: 256 groups."""


class Peer(NamedTuple):
    """The process that connected, as it was when it did."""

    pid: int
    uid: int
    groups: frozenset[int]

    @property
    def name(self) -> str:
        """The user's name, for the journal and the log."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid {self.uid}"


def peer_of(connection: socket.socket) -> Peer:
    """Credentials of a connection's peer (SO_PEERCRED and SO_PEERGROUPS, unix(7)).

    Asking the kernel instead of the user database: nobody can lie, and nothing can block.
    Raises `OSError` when it is no unix socket.
    """
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(data)
    try:
        more = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        # In more groups than fit: the primary one has to do.
        more = b""
    groups = struct.unpack(f"{len(more) // 4}I", more)
    return Peer(pid, uid, frozenset((gid, *groups)))


def may_use(peer: Peer, group: int | None) -> bool:
    """Root, the daemon's own user, and members of the box's group."""
    return peer.uid in (0, os.geteuid()) or (group is not None and group in peer.groups)
