"""A clock that is turned: an event loop whose time jumps to the next deadline when nothing is due.

`run_turned(main())` runs a coroutine on it: an hour of retries takes milliseconds, and sleeping is
exact. Sockets and pipes work as always; threads do too, as long as they answer within `grace_s`.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class Clock:
    """A hand-turned source of `now` for code that is given the time."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now

    def now(self) -> float:
        """Present time in seconds."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Turn it on; the new time."""
        if seconds < 0:
            raise ValueError("a monotonic clock does not go back")
        self._now += seconds
        return self._now


class _TurningSelector(selectors.DefaultSelector):
    def __init__(self, clock: Clock, grace_s: float) -> None:
        super().__init__()
        self._clock, self._grace_s = clock, grace_s

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(min(timeout, self._grace_s))
        if not ready:
            self._clock.advance(timeout)
        return ready


class TurnedLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits for a timer: it turns `clock` instead.

    `grace_s` is how long (real seconds) descriptors get to become readable before each jump.
    """

    def __init__(self, clock: Clock | None = None, *, grace_s: float = 0.002) -> None:
        self.clock = clock or Clock()
        super().__init__(_TurningSelector(self.clock, grace_s))
        # asyncio counts a timer as due when it lies within the clock's resolution; a jump ends
        # exactly on it only up to rounding.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """The turned time."""
        return self.clock.now()


async def until(condition: Callable[[], object], what: str = "it", within_s: float = 45.0) -> None:
    """Wait for something that no event tells of: another program's doing, a thread's, a file's.

    Real seconds, also on a `TurnedLoop`. Raises `TimeoutError` that names `what`.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(0.005)


def run_turned(
    main: Coroutine[Any, Any, _T], *, clock: Clock | None = None, grace_s: float = 0.002
) -> _T:
    """Run a coroutine to its end on a `TurnedLoop`."""
    with asyncio.Runner(loop_factory=lambda: TurnedLoop(clock, grace_s=grace_s)) as runner:
        return runner.run(main)
