"""Port pairs: bound where they should be, told apart by the system, nothing left behind."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from gateway.media._ports import open_pair
from tests.fresh import descriptors


def taken(family: socket.AddressFamily, address: str) -> tuple[socket.socket, int]:
    """A socket on an odd port, and the even port below it."""
    while True:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind((address, 0))
        port: int = sock.getsockname()[1]
        if port % 2:
            return sock, port - 1
        sock.close()


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_a_pair_is_bound_marked_and_does_not_block(
    family: socket.AddressFamily, address: str
) -> None:
    holder, port = taken(family, address)
    holder.close()
    pair = [socket.socket(fileno=fd) for fd in open_pair(address, port, 46 << 2, 7)]
    assert [sock.getsockname()[:2] for sock in pair] == [(address, port), (address, port + 1)]
    for sock in pair:
        assert not os.get_blocking(sock.fileno())
        assert not os.get_inheritable(sock.fileno())
        if family == socket.AF_INET:
            assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 46 << 2
            assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 7
        else:
            assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) == 46 << 2
            assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS) == 7
        sock.close()


def test_a_pair_of_which_one_is_taken_leaves_nothing_open() -> None:
    holder, port = taken(socket.AF_INET, "127.0.0.1")
    before = descriptors(tidy=True)
    with holder:
        for _ in range(3):
            with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
                open_pair("127.0.0.1", port, 0, 1)
        assert descriptors() == before


@pytest.mark.parametrize(
    ("address", "number"),
    [
        ("", errno.EINVAL), ("nobody", errno.EINVAL), ("1.2.3", errno.EINVAL),
        ("f" * 300, errno.EINVAL), ("fe80::1%nosuchinterface", errno.ENODEV),
        ("192.0.2.1", errno.EADDRNOTAVAIL),
    ],
)  # fmt: skip
def test_an_address_that_is_not_ours_is_refused(address: str, number: int) -> None:
    with pytest.raises(OSError, match=os.strerror(number)):
        open_pair(address, 40000, 0, 1)
