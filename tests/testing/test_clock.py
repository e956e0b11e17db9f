"""The turned loop: hours in milliseconds, in the right order, with real sockets beside."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from gateway.testing.clock import Clock, TurnedLoop, run_turned


def test_an_hour_takes_no_time_and_is_exact() -> None:
    async def main() -> list[tuple[str, float]]:
        loop, begin, order = asyncio.get_running_loop(), asyncio.get_running_loop().time(), []

        async def after(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            order.append((name, round(loop.time() - begin, 6)))

        await asyncio.gather(after("hour", 3600), after("second", 1), after("day", 86400))
        return order

    begin = time.monotonic()
    assert run_turned(main()) == [("second", 1), ("hour", 3600), ("day", 86400)]
    assert time.monotonic() - begin < 1.0


def test_a_timeout_fires_and_io_is_served_first() -> None:
    async def main() -> float:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        loop = asyncio.get_running_loop()
        with near, far:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(30):
                    await loop.sock_recv(near, 1)
            begin = loop.time()
            far.send(b"x")
            async with asyncio.timeout(30):
                assert await loop.sock_recv(near, 1) == b"x"
            return loop.time() - begin

    assert run_turned(main()) == 0.0


def test_a_thread_that_answers_in_time_is_waited_for() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        async with asyncio.timeout(60):
            await asyncio.to_thread(time.sleep, 0.02)
        return loop.time() - begin

    assert run_turned(main(), grace_s=0.5) == 0.0


def test_the_clock_is_given_and_does_not_go_back() -> None:
    clock = Clock(50.0)
    run_turned(asyncio.sleep(10), clock=clock)
    assert clock.now() == pytest.approx(60.0, abs=0.001)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
    loop = TurnedLoop(clock)
    assert loop.time() == clock.now()
    loop.close()
