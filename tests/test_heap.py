"""What a rush has left in the heap goes back to the system when it is over."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
from pathlib import Path

import pytest

from gateway.heap import Heap, resident, tend
from gateway.media.engine import Engine
from gateway.media.streams import Codec, DeviceSpec, RtpSpec, StreamOptions
from gateway.testing import until
from gateway.timeline.wire import Ring
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


@fresh
async def test_what_the_audio_engine_locked_goes_back_as_a_whole() -> None:
    engine = Engine(max_streams=400, realtime=True)
    await engine.start()
    if not engine.stats().memory_locked:
        await engine.stop()
        pytest.skip("nothing can be locked here")
    before = _locked_kb()
    engine.open_bridge("page")
    for _ in range(2):
        streams = [engine.open(RtpSpec(local_ip="127.0.0.1", codec=Codec.PCMU)) for _ in range(99)]
        device = engine.open(DeviceSpec(fd=os.open("/dev/null", os.O_WRONLY)))
        streams.append(device)
        for stream in streams:
            stream.configure(StreamOptions(detect_dtmf=True))
            engine.join("page", stream, speaks=False)
        assert _locked_kb() - before > 100 * 8
        for stream in streams:
            stream.close()
        await until(lambda: not engine._dying, "the engine has let go of them")
    engine.close_bridge("page")
    await until(lambda: not engine._dying, "the engine has let go of it")
    assert _locked_kb() == before
    await engine.stop()


def _locked_kb() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmLck:")[2].split()[0])


@fresh
async def test_what_is_bulky_is_packed_when_the_loop_has_time() -> None:
    ring = Ring()
    for n in range(2000):
        ring.keep(float(n), 1e9 + n, "sip", "", False, "sip", b"OPTIONS %d" % n * 40, "", "", None)
    before, entries = ring.held, ring.entries()
    tending = asyncio.create_task(tend(Heap(), 0.05, ring.unpacked))
    await until(lambda: not ring.unpacked(), "blocks are packed")
    tending.cancel()
    assert ring.held < before / 2
    assert ring.entries() == entries
