"""Wires for tests: a serial line without hardware, and a seeded bad network without a kernel."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import pty
import random
import termios
import tty
from types import TracebackType


class SerialLine:
    """A pseudo-terminal: the adapter opens `path`, the test is the device at the other end.

    A context manager for use on an event loop. `unplug` is what pulling the connector looks like.
    """

    def __init__(self) -> None:
        self.path = ""
        self._fd = -1
        self._slave = -1

    def __enter__(self) -> SerialLine:
        self._fd, self._slave = pty.openpty()
        # Raw both ways: a line discipline would turn CR into LF and echo the adapter's own words.
        tty.setraw(self._slave, termios.TCSANOW)
        os.set_blocking(self._fd, False)
        self.path = os.ttyname(self._slave)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unplug()

    def write(self, data: bytes) -> None:
        """Send bytes to the adapter; `BlockingIOError` when it has not read 4 KiB of them."""
        os.write(self._fd, data)

    async def read(self, n_bytes: int, *, within_s: float = 20.0) -> bytes:
        """Exactly `n_bytes` that the adapter wrote. Raises `TimeoutError` that shows what came."""
        found = b""
        try:
            async with asyncio.timeout(within_s):
                while len(found) < n_bytes:
                    await self._readable()
                    found += os.read(self._fd, n_bytes - len(found))
        except TimeoutError:
            raise TimeoutError(f"{n_bytes} bytes wanted, {found!r} came") from None
        return found

    def pending(self) -> bytes:
        """What the adapter wrote and nobody has read, without waiting."""
        try:
            return os.read(self._fd, 65536)
        except BlockingIOError:
            return b""

    def unplug(self) -> None:
        """The device is gone: the adapter's descriptor reports the end of the line."""
        for fd in (self._fd, self._slave):
            if fd >= 0:
                os.close(fd)
        self._fd = self._slave = -1

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._fd, _settle, ready)
        try:
            await ready
        finally:
            loop.remove_reader(self._fd)


class BadLink:
    """A datagram network that loses, delays, repeats, reorders and spoils, always the same way.

    Sans-IO: driven by `send` and the time; `deliver` gives what has arrived. One object serves any
    number of ends, named as the test likes. Everything random comes from `seed`.
    """

    def __init__(
        self,
        seed: int,
        *,
        loss: float = 0.0,
        duplicate: float = 0.0,
        corrupt: float = 0.0,
        delay_s: float = 0.0,
        jitter_s: float = 0.0,
    ) -> None:
        """loss, duplicate, corrupt: chances from 0 to 1 of each datagram; `jitter_s`: up to this
        much more delay, which also reorders."""
        self.lost = self.sent = 0
        self.cut = False
        """While true nothing gets through."""
        self._random = random.Random(seed)
        self._loss, self._duplicate, self._corrupt = loss, duplicate, corrupt
        self._delay_s, self._jitter_s = delay_s, jitter_s
        self._on_the_way: list[tuple[float, int, object, bytes]] = []
        self._order = itertools.count()

    def send(self, to: object, data: bytes, now: float) -> None:
        """Put a datagram on the wire towards the end called `to`."""
        self.sent += 1
        if self.cut or self._random.random() < self._loss:
            self.lost += 1
            return
        copies = 2 if self._random.random() < self._duplicate else 1
        for _ in range(copies):
            due = now + self._delay_s + self._random.random() * self._jitter_s
            heapq.heappush(self._on_the_way, (due, next(self._order), to, self._spoil(data)))

    def deliver(self, now: float) -> list[tuple[object, bytes]]:
        """Whom what has reached by `now`, in the order of arrival."""
        arrived = []
        while self._on_the_way and self._on_the_way[0][0] <= now:
            _, _, to, data = heapq.heappop(self._on_the_way)
            arrived.append((to, data))
        return arrived

    def next_timeout(self) -> float | None:
        """When the next datagram arrives."""
        return self._on_the_way[0][0] if self._on_the_way else None

    def _spoil(self, data: bytes) -> bytes:
        if not data or self._random.random() >= self._corrupt:
            return data
        at = self._random.randrange(len(data))
        flipped = data[at] ^ (1 << self._random.randrange(8))
        return data[:at] + bytes((flipped,)) + data[at + 1 :]


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
