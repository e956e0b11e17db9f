"""The heap of a process that is to run for years: what a rush has left behind goes back.

The C library keeps what was freed in the middle of its heap for whoever asks next: after a
thousand connections at once that is 40 MB, and a second thousand finds it in other pieces. What is
large has pages of its own, so that no small piece behind it holds its room.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

EACH_S: Final = 10.0
"""How often it is looked at."""
_WORTH: Final = 4 << 20
"""Octets that have come since the last time, before it is worth the work."""
_QUIET: Final = 0.1
"""Share of a core that the event loop may use then: what is given back has to be cleared again
when it is wanted."""


_M_MMAP_THRESHOLD: Final = -3
"""Of ``mallopt(3)``."""
_LARGE: Final = 24 << 10
"""Octets: more than a record of TLS takes, less than a datagram may bring. Without a fixed bound
the C library raises its own to the largest piece that it ever saw freed, 32 MB at most."""


class _Usage(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33 and later."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


class Heap:
    """The C library's heap. Another library than glibc is left alone."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._usage = getattr(library, "mallinfo2", None)
        self._trim = getattr(library, "malloc_trim", None)
        if self._trim is not None:
            library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        if self._usage is not None:
            self._usage.restype = _Usage
        self._least, self._small = self.free(), resident()

    def free(self) -> int:
        """Octets that were freed and not given back, as far as is known."""
        return int(self._usage().fordblks) if self._usage is not None else 0

    @property
    def worth(self) -> bool:
        """Whether much has become free since the last `trim`."""
        free, held = self.free(), resident()
        self._least, self._small = min(self._least, free), min(self._small, held)
        # What has gone back still counts as free. A short rush takes that and frees it again, and
        # shows in what is resident alone.
        return free - self._least >= _WORTH or (free >= _WORTH and held - self._small >= _WORTH)

    def trim(self) -> None:
        """Give all free pages back to the system. Takes some milliseconds without the GIL; who
        allocates waits meanwhile, which the media threads never do."""
        if self._trim is not None:
            self._trim(0)
        self._least, self._small = self.free(), resident()


def resident() -> int:
    """Octets of memory that the process occupies."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()


class Bulky(Protocol):
    """What could be kept in less room."""

    def pack(self) -> None:
        """Does it, in a few milliseconds at most; never raises."""


async def tend(
    heap: Heap, each_s: float = EACH_S, bulky: Callable[[], Iterable[Bulky]] = tuple
) -> None:
    """Trim a heap whenever a rush is over, and pack what is bulky then. Runs until it is
    cancelled, in the loop's thread."""
    loop, used = asyncio.get_running_loop(), time.thread_time()
    while True:
        await asyncio.sleep(each_s)
        before, used = used, time.thread_time()
        if used - before >= _QUIET * each_s:
            continue
        # What ended lately and holds itself; nobody else looks before much more has come.
        gc.collect(0)
        for each in bulky():
            each.pack()
            await asyncio.sleep(0)
        try:
            if heap.worth:
                await loop.run_in_executor(None, heap.trim)
        except OSError:
            # No descriptor is free to look with: a rush that is over soon, and worth a trim then.
            continue
