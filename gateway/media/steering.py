"""Whether packets may go by sockets that many legs share.

Everything belongs to the process: when it ends, however it ends, the kernel takes it all away.
"""

from __future__ import annotations

import errno

from gateway.media import _engine

LEGS_A_SOCKET = 256
"""As many share one buffer: what overflows it is lost to all of them."""

_REMEDIES = {
    errno.EMFILE: "let the service open more files (LimitNOFILE=)",
    errno.ENFILE: "let the machine open more files (fs.file-max)",
    errno.ENOMEM: "it takes more memory",
}


def share(cores: list[_engine.Core], max_streams: int) -> str:
    """Let cores that have not been started use shared sockets; why not, if the kernel refuses.

    An option that is refused is no reason for a box to carry no calls.
    """
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


def _refusal(error: OSError) -> str:
    remedy = _REMEDIES.get(error.errno or 0, "it takes Linux 5.9 or later")
    if error.errno in {errno.EPERM, errno.EACCES}:
        remedy = (
            "give the service CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW (AmbientCapabilities=), or "
            "remove media.steer"
        )
    return f"{error.filename or 'the kernel'}: {error.strerror}; {remedy}"
