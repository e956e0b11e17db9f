"""What a rush has left in the heap goes back to the system when it is over."""

from __future__ import annotations

import asyncio
import ctypes
import resource
import time

import pytest

from gateway.heap import Heap, resident, tend

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not glibc 2.33 or later"
)
MB = 1 << 20


def rush() -> bytes:
    """40 MB in small pieces are freed, below one that stays."""
    pieces = [bytes(2000) for _ in range(20_000)]
    stays = bytes(2000)
    pieces.clear()
    return stays


def test_what_was_freed_goes_back() -> None:
    heap = Heap()
    heap.trim()
    assert not heap.worth
    before = resident()
    stays = rush()
    assert heap.worth
    held = resident()
    assert held - before > 30 * MB
    heap.trim()
    assert held - resident() > 30 * MB
    assert not heap.worth, "what has gone back counts as free"
    # What a second rush takes and leaves in the same places is seen again.
    again = rush()
    assert heap.worth
    heap.trim()
    assert resident() - before < 10 * MB
    assert len(stays) == len(again)


async def test_it_is_done_by_itself_when_the_loop_has_time() -> None:
    heap = Heap()
    heap.trim()
    stays = rush()
    tending = asyncio.create_task(tend(heap, 0.05))
    deadline = time.monotonic() + 10.0
    while heap.worth:
        assert time.monotonic() < deadline, "nothing was given back"
        await asyncio.sleep(0.05)
    tending.cancel()
    assert stays


async def test_it_goes_on_after_a_time_without_descriptors() -> None:
    heap = Heap()
    heap.trim()
    tending = asyncio.create_task(tend(heap, 0.05))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            resident()
        await asyncio.sleep(0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not tending.done()
    stays = rush()
    deadline = time.monotonic() + 10.0
    while heap.worth:
        assert time.monotonic() < deadline, "nothing was given back"
        await asyncio.sleep(0.05)
    tending.cancel()
    assert stays
