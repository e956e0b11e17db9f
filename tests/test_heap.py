"""What a rush has left in the heap goes back to the system when it is over."""

from __future__ import annotations

import asyncio
import ctypes
import resource

import pytest

from gateway.heap import Heap, resident, tend
from gateway.testing import until
from tests.fresh import fresh

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


@fresh
def test_what_was_freed_goes_back() -> None:
    heap = Heap()
    heap.trim()
    assert not heap.worth
    before = resident()
    stays = rush()
    assert heap.worth
    held = resident()
    assert held - before > 30 * MB, held - before
    heap.trim()
    assert held - resident() > 30 * MB, held - resident()
    assert not heap.worth, "what has gone back counts as free"
    # What a second rush takes and leaves in the same places is seen again.
    again = rush()
    assert heap.worth
    heap.trim()
    assert resident() - before < 10 * MB, resident() - before
    assert len(stays) == len(again)


@fresh
async def test_it_is_done_by_itself_when_the_loop_has_time() -> None:
    heap = Heap()
    heap.trim()
    stays = rush()
    assert heap.worth
    tending = asyncio.create_task(tend(heap, 0.05))
    await until(lambda: not heap.worth, "what was freed is given back")
    tending.cancel()
    assert stays


class Watched(Heap):
    """Says how often it was looked at."""

    looks = 0

    @property
    def worth(self) -> bool:
        self.looks += 1
        return super().worth


@fresh
async def test_it_goes_on_after_a_time_without_descriptors() -> None:
    heap = Watched()
    heap.trim()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    tending = asyncio.create_task(tend(heap, 0.05))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            resident()
        await until(lambda: heap.looks > 1, "it has tried again")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not tending.done()
    stays = rush()
    assert heap.worth
    await until(lambda: not heap.worth, "what was freed is given back")
    tending.cancel()
    assert stays
